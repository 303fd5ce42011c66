#!/usr/bin/env bash
# The files that nordmesh writes on a node, for the scripts that use this; lib.sh is before it. Reads:
# FILES, for each file a line `=== MODE READER PATH` and then its text.

# has_files READER: whether there are files for a reader.
has_files() { [[ $'\n'$FILES =~ $'\n=== '[0-7]+" $1 /" ]]; }

# files_for READER...: the paths of the files for some readers, in their order.
files_for() {
    awk -v readers=" $* " '$1 == "===" && index(readers, " " $3 " ") { print $4 }' <<<"$FILES"
}

# file_text PATH: the text of a file.
file_text() { awk -v path="$1" '$1 == "===" { wanted = $4 == path; next } wanted' <<<"$FILES"; }

# file_mode PATH: the mode of a file.
file_mode() { awk -v path="$1" '$1 == "===" && $4 == path { print $2 }' <<<"$FILES"; }

# write_files READER: writes the files for a reader.
write_files() {
    local path paths text mode
    paths=$(files_for "$1")
    while read -r path; do
        [ -n "$path" ] || continue
        text=$(file_text "$path")
        mode=$(file_mode "$path")
        write_file "$path" "$mode" "$text" || true
    done <<<"$paths"
}

# write_files_read_at_start MARK READER: writes files that a service reads only when it starts. The
# mark exists from before the change until the service has started with it, even if the run is killed.
write_files_read_at_start() {
    local path paths text
    paths=$(files_for "$2")
    while read -r path; do
        [ -n "$path" ] || continue
        text=$(file_text "$path")
        [ "$(cat "$path" 2>/dev/null)" = "$text" ] || : >"$1"
    done <<<"$paths"
    write_files "$2"
}
