#!/usr/bin/env bash
# Downloads pinned files, and installs pinned programs; for scripts that use it after lib.sh.

# checksum FILE: the sha256 of a file.
checksum() { sha256sum "$1" | cut -d' ' -f1; }

# request FILE URL: resumes a download at the end of a file; prints the HTTP status. curl's own retries
# would start again from the beginning (curl/curl#1084).
request() {
    with_proxy curl --silent --show-error --fail --location --connect-timeout 10 --max-time 600 \
        --speed-limit 1 --speed-time 60 --continue-at - --write-out '%{http_code}' \
        --output "$1" "$2" 9>&-
}

# download_from NAME SHA256 FILE URL: downloads a file with this checksum; false if the server does not
# have it. A part that arrived stays, so that the next attempt, even of another run, resumes there.
download_from() {
    local name=$1 sha256=$2 file=$3 url=$4 size status code actual attempt
    for attempt in 1 2 3 4 5; do
        size=$(stat -c %s "$file" 2>/dev/null || echo 0)
        code=0
        status=$(request "$file" "$url") || code=$?
        if [ "$code" = 0 ]; then
            actual=$(checksum "$file")
            [ "$actual" != "$sha256" ] || return 0
            rm -f "$file"
            # The part may be of another file: try again from the beginning.
            [ "$size" = 0 ] || continue
            fail wrong-checksum "wrong checksum of $name: got $actual, pinned is $sha256" \
                "$url serves another file than the reviewed one; nothing was installed" \
                "find out who changed the file; then put the reviewed one back on the mirror, or review the new one and pin its checksum: programs in the lock file, the image of guests in the stack file"
        fi
        case $code:$status in
        23:*) cannot_write "$file" ;;
        33:* | *:416) rm -f "$file" ;; # the server cannot resume there
        *:408 | *:429) ;;
        *:4*) return 1 ;;
        esac
        sleep "$attempt"
    done
    return 1
}

# is_installed NAME SHA256 PROGRAM...: whether these programs exist, and came from that file.
is_installed() {
    local stamp=/var/lib/nordmesh/$1.sha256 sha256=$2 program
    shift 2
    for program in "$@"; do
        [ -x "$program" ] || return 1
    done
    [ "$(cat "$stamp" 2>/dev/null)" = "$sha256" ]
}

# fetch NAME SHA256 DIRECTORY MEMBERS URL...: installs a pinned file from the first URL that has it.
# MEMBERS are the programs inside a .tar.gz, separated by commas, or - for a bare program. Each is
# replaced atomically; a running process keeps the old program.
fetch() {
    local name=$1 sha256=$2 directory=$3 url file work member sums
    local members=() programs=()
    [ "$4" = - ] || IFS=, read -r -a members <<<"$4"
    shift 4
    for member in "${members[@]:-$name}"; do
        programs+=("$directory/${member##*/}")
    done
    mkdir -p /var/lib/nordmesh "$directory"
    file=/var/lib/nordmesh/$name.$sha256.part
    # Left by a killed run, and downloads of other releases.
    find /var/lib/nordmesh -maxdepth 1 \( -name 'install.*' -o -name "$name.*.part" ! -name "${file##*/}" \) \
        -exec rm -rf {} +
    ! is_installed "$name" "$sha256" "${programs[@]}" || return 0
    step "download $name"
    if [ ! -f "$file" ] || [ "$(checksum "$file")" != "$sha256" ]; then
        for url in "$@"; do
            ! download_from "$name" "$sha256" "$file" "$url" || break
            [ "$url" != "${!#}" ] || fail download-failed "download of $name from $* failed" \
                "the node needs it" \
                "check nordmesh:artifacts.mirror and that the node can reach it, then run \`pulumi up\` again"
            step "$url does not have $name"
        done
    fi
    work=$(mktemp -d /var/lib/nordmesh/install.XXXXXX)
    if [ ${#members[@]} = 0 ]; then
        mv "$file" "$work/$name"
    else
        tar -xzf "$file" -C "$work" --transform 's,.*/,,' "${members[@]}" || cannot_write "$work"
    fi
    for member in "${programs[@]}"; do
        install -m 755 "$work/${member##*/}" "$member.new" || {
            rm -f "$member.new"
            cannot_write "$member"
        }
    done
    # Drift reads the checksums of programs from an archive here.
    sums=$(cd "$work" && sha256sum "${programs[@]##*/}" | sed "s,  ,  $directory/,")
    # From here on, the programs may be of either release.
    rm -f "/var/lib/nordmesh/$name.sha256"
    write_file "/var/lib/nordmesh/$name.files" 644 "$sums" || true
    for member in "${programs[@]}"; do
        mv -f "$member.new" "$member"
    done
    rm -rf "$work" "$file"
    write_file "/var/lib/nordmesh/$name.sha256" 644 "$sha256" || true
}

# fetch_all LINES: installs pinned files: on each line `name sha256 directory members url...`.
fetch_all() {
    local name sha256 directory members urls
    while IFS=' ' read -r name sha256 directory members urls; do
        [ -n "$name" ] || continue
        # shellcheck disable=SC2086 # addresses, which have no spaces
        fetch "$name" "$sha256" "$directory" "$members" $urls
    done <<<"$1"
}
