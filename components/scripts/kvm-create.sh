#!/usr/bin/env bash
# Creates a guest on this hypervisor, or changes an existing one: disks from an image, cloud-init's seed, the
# libvirt domain; then waits until the guest prints on its console that sshd runs. Reads: NODE_NAME
# HYPERVISOR DOMAIN UUID DOMAIN_XML FOLDER IMAGES IMAGE_URL IMAGE_PATH IMAGE_SHA256 CLONE DISK_MIB
# ETCD_DISK_MIB MEMORY_MIB EMULATED BRIDGE NETWORK_XML META_DATA NETWORK_CONFIG USER_DATA READY
# BOOT_SECONDS STOP_SECONDS, GUEST (`new`, or `exists` if it was created before), and from stdin the
# user-data of the first start, with the guest's SSH host key. CPUS is for readers of the preview.
#
# A disk only grows. Changes that need a restart are made after an orderly shutdown; a guest without changes
# is left alone. The image and the seed are used for a new guest only.
# Uses: fetch.sh kvm.sh

umask 077 # disks have the cluster's keys; libvirt gives them to QEMU's user
readonly CONSOLE=$FOLDER/console.log
readonly ROOT_DISK=$FOLDER/root.qcow2
readonly ETCD_DISK=$FOLDER/etcd.raw
readonly BOOTED=$FOLDER/booted
readonly NETWORK_FILE=/var/lib/nordmesh/network.$BRIDGE.xml
readonly AGAIN="then run \`pulumi up\` again: it continues from here"

require_hypervisor() {
    local tool packages="libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils genisoimage"
    for tool in virsh qemu-img genisoimage curl; do
        command -v "$tool" >/dev/null || fail hypervisor-lacks-tool "the hypervisor $HYPERVISOR has no $tool" \
            "guests are created with it" \
            "run \`apt-get install $packages curl\` there, $AGAIN"
    done
    [ "$EMULATED" = true ] || [ -e /dev/kvm ] || fail no-hardware-virtualization "the hypervisor $HYPERVISOR has no /dev/kvm" \
        "without hardware virtualization a guest is about twelve times slower" \
        "turn on VT-x or AMD-V in its firmware, or set emulated: true at machines.hypervisors.$HYPERVISOR"
    [ -n "$NETWORK_XML" ] || [ -d "/sys/class/net/$BRIDGE/bridge" ] || fail hypervisor-lacks-bridge "the hypervisor $HYPERVISOR has no bridge $BRIDGE" \
        "guests are connected to it" \
        "create the bridge, or correct machines.hypervisors.$HYPERVISOR.network"
}

# Guests of others are never touched.
require_own() {
    ! has_guest || is_ours ||
        fail guest-name-in-use "the hypervisor $HYPERVISOR has another guest named $DOMAIN" \
            "two guests cannot have the same name" \
            "rename the node, or set machines.kvm.prefix for this stack"
    [ ! -f "$FOLDER/uuid" ] || [ "$(cat "$FOLDER/uuid")" = "$UUID" ] ||
        fail guest-directory-in-use "$FOLDER on the hypervisor $HYPERVISOR belongs to another guest" \
            "this guest would take over its disks" \
            "remove the directory if nobody needs it, $AGAIN"
}

# disk_info FILE: what qemu-img says of a disk or an image.
disk_info() {
    qemu-img info --force-share --output=json "$1" || fail disk-unreadable "qemu-img cannot read $1" \
        "its size and format decide how the guest gets its disk" \
        "check that file on $HYPERVISOR, $AGAIN"
}

# The last such line is about the disk itself; the lines before it are about the layers inside its file.
virtual_mib() {
    local info
    info=$(disk_info "$1") || return
    sed -n 's/^ *"virtual-size": \([0-9]*\).*/\1/p' <<<"$info" | tail -n 1 | awk '{print int($1 / 1048576)}'
}

# refuse_smaller DISK MIB KEY: ends the script if a disk would have to shrink.
refuse_smaller() {
    local disk=$1 wanted=$2 key=$3 has
    [ -f "$disk" ] || return 0
    has=$(virtual_mib "$disk") || exit 1
    [ "$wanted" -ge "$has" ] || fail disk-would-shrink "the disk of $NODE_NAME has $has MiB, the stack file has $wanted MiB" \
        "a smaller disk would lose the data at its end; nothing was changed" \
        "set machines.nodes.$NODE_NAME.$key back to ${has}Mi, or remove the node and add it again"
}

is_running() { is_in running; }
is_off() { is_in "shut off"; }

show_console() {
    printf '%s: the end of the console:\n' "$NODE_NAME" >&2
    tail -n 30 "$CONSOLE" 2>/dev/null | tr -d '\r' | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' >&2 || true
}

# Creates the routed network; a network that guests use is not changed.
make_network() {
    [ -n "$NETWORK_XML" ] || return 0
    exec 8>"$RUN_DIR/network.$BRIDGE.lock"
    flock 8
    if [ "$(cat "$NETWORK_FILE" 2>/dev/null)" != "$NETWORK_XML" ]; then
        [ -f "$NETWORK_FILE" ] || ! has_network --all ||
            fail network-name-in-use "the hypervisor $HYPERVISOR has another network named $BRIDGE" \
                "this stack did not create it, and must not change it" \
                "use another name at machines.hypervisors.$HYPERVISOR.network.bridge"
        ! network_in_use ||
            fail network-in-use "guests use the network $BRIDGE, which is about to change" \
                "they have addresses of the old network, and would lose their connection" \
                "set machines.hypervisors.$HYPERVISOR.network back, or remove its nodes first"
        step "create the routed network $BRIDGE"
        # The file comes first, so that the next run knows a partial network as ours.
        write_file "$NETWORK_FILE" 644 "$NETWORK_XML" || true
        virsh net-destroy "$BRIDGE" >/dev/null 2>&1 || true
        logged "$BRIDGE-define" virsh net-define "$NETWORK_FILE"
    fi
    has_network --all || logged "$BRIDGE-define" virsh net-define "$NETWORK_FILE"
    has_network || logged "$BRIDGE-start" virsh net-start "$BRIDGE"
    logged "$BRIDGE-autostart" virsh net-autostart "$BRIDGE"
    exec 8>&-
}

# --- the image and the disks ---------------------------------------------------------------------

# require_checksum FILE: removes a file that is not the reviewed image, and ends the script.
require_checksum() {
    local got
    got=$(checksum "$1")
    [ "$got" = "$IMAGE_SHA256" ] && return 0
    rm -f "$1"
    fail wrong-image-checksum "wrong checksum of the image: got $got, the stack file has $IMAGE_SHA256" \
        "$IMAGE_PATH is not the reviewed image; no guest was created from it" \
        "find out who changed the file; then put the reviewed one back, or review the new one and write its sha256"
}

# Prints the path of this hypervisor's copy of the image. Its name is the checksum, because guests may still
# use an image that is no longer in the stack file.
keep_image() {
    local partial kept sum=$IMAGE_SHA256
    if [ -n "$IMAGE_PATH" ]; then
        [ -f "$IMAGE_PATH" ] || fail hypervisor-lacks-image "the hypervisor $HYPERVISOR has no image $IMAGE_PATH" \
            "the guest's disk is created from it" \
            "put the image there, or correct machines.kvm.image.path"
        [ -n "$sum" ] || sum=$(checksum "$IMAGE_PATH")
    fi
    kept=$IMAGES/$sum.image
    if [ ! -f "$kept" ]; then
        partial=$kept.partial
        if [ -n "$IMAGE_PATH" ]; then
            step "copy the image $IMAGE_PATH"
            cp --reflink=auto --sparse=always "$IMAGE_PATH" "$partial" 8>&-
            [ -z "$IMAGE_SHA256" ] || require_checksum "$partial"
        else
            step "download the image"
            # Without the lock of the images, which must not outlive this script.
            download_from "the image" "$IMAGE_SHA256" "$partial" "$IMAGE_URL" 8>&- ||
                fail image-download-failed "download of $IMAGE_URL failed" \
                    "the guest's disk is created from it" \
                    "check machines.kvm.image.url and that the hypervisor can reach it, $AGAIN"
        fi
        chmod 644 "$partial"
        sync "$partial"
        mv "$partial" "$kept"
    fi
    printf '%s\n' "$kept"
}

make_root_disk() {
    local image format has
    [ ! -f "$ROOT_DISK" ] || return 0
    # Until the disk exists, another run must not remove the image as unused.
    exec 8>"$IMAGES.lock"
    flock 8
    (umask 066 && mkdir -p "$IMAGES")
    image=$(keep_image)
    format=$(disk_info "$image" | sed -n 's/^ *"format": "\(.*\)".*/\1/p' | tail -n 1)
    has=$(virtual_mib "$image")
    [ "$has" -le "$DISK_MIB" ] || fail image-too-large "the image is larger than the disk of $NODE_NAME" \
        "the image has $has MiB, the disk $DISK_MIB MiB" \
        "increase machines.nodes.$NODE_NAME.disk"
    step "create the disk"
    rm -f "$ROOT_DISK.new"
    if [ "$CLONE" = full ]; then
        logged "$DOMAIN-clone" qemu-img convert -O qcow2 "$image" "$ROOT_DISK.new"
        logged "$DOMAIN-resize" qemu-img resize -q "$ROOT_DISK.new" "${DISK_MIB}M"
    else
        logged "$DOMAIN-clone" qemu-img create -q -f qcow2 -F "$format" -b "$image" \
            "$ROOT_DISK.new" "${DISK_MIB}M"
    fi
    mv "$ROOT_DISK.new" "$ROOT_DISK"
    exec 8>&-
}

make_etcd_disk() {
    [ "$ETCD_DISK_MIB" -gt 0 ] && [ ! -f "$ETCD_DISK" ] || return 0
    [ ! -f "$BOOTED" ] || fail etcd-disk-too-late "$NODE_NAME was created without a disk for etcd" \
        "etcd's data is on its first disk, and an empty second one would hide it" \
        "remove etcdDisk at machines.nodes.$NODE_NAME, or remove the node and add it again"
    # All of it is allocated now: etcd must not find the hypervisor full later.
    logged "$DOMAIN-etcd" qemu-img create -q -f raw -o preallocation=falloc "$ETCD_DISK.new" "${ETCD_DISK_MIB}M"
    mv "$ETCD_DISK.new" "$ETCD_DISK"
}

is_smaller() {
    local has
    [ -f "$1" ] || return 1
    has=$(virtual_mib "$1") || exit 1
    [ "$has" -lt "$2" ]
}

grow() {
    local disk=$1 format=$2 wanted=$3
    is_smaller "$disk" "$wanted" || return 0
    step "grow a disk to $wanted MiB"
    logged "$DOMAIN-resize" qemu-img resize -q -f "$format" "$disk" "${wanted}M"
}

# --- cloud-init's seed ---------------------------------------------------------------------------

# make_seed USER_DATA: writes the image that cloud-init reads; its files are only in memory.
make_seed() {
    local work=$RUN_DIR/seed.$DOMAIN
    rm -rf "$work"
    mkdir -m 700 "$work"
    printf '%s\n' "$1" >"$work/user-data"
    printf '%s\n' "$META_DATA" >"$work/meta-data"
    printf '%s\n' "$NETWORK_CONFIG" >"$work/network-config"
    rm -f "$FOLDER/seed.new"
    logged "$DOMAIN-seed" genisoimage -quiet -output "$FOLDER/seed.new" -volid cidata \
        -joliet -rational-rock "$work/user-data" "$work/meta-data" "$work/network-config"
    mv "$FOLDER/seed.new" "$FOLDER/seed.iso"
    rm -rf "$work"
}

# Removes the host key from the hypervisor once the guest has it. The instance stays the same: for a new
# instance, cloud-init would generate new host keys.
forget_host_key() {
    [ ! -f "$BOOTED" ] || return 0
    make_seed "$USER_DATA"
    logged "$DOMAIN-eject" virsh change-media "$DOMAIN" sda "$FOLDER/seed.iso" --update --live --force
    : >"$BOOTED"
}

# --- the domain ----------------------------------------------------------------------------------

shut_down() {
    local deadline=$((SECONDS + STOP_SECONDS))
    has_guest || return 0
    ! is_off || return 0
    step "shut down for a restart"
    # Ask more than once: a guest that is just starting ignores it.
    while ! is_off; do
        ((SECONDS < deadline)) || {
            show_console
            fail guest-does-not-shut-down "$NODE_NAME did not shut down in $STOP_SECONDS s" \
                "its changes need a restart, and a forced stop could lose data" \
                "shut it down yourself (\`virsh shutdown $DOMAIN\`, \`virsh destroy $DOMAIN\`), $AGAIN"
        }
        virsh shutdown "$DOMAIN" --mode acpi >/dev/null 2>&1 || true
        for ((tries = 0; tries < 20; tries++)); do
            is_off && break
            sleep 0.5
        done
    done
}

is_defined_so() {
    [ "$(cat "$FOLDER/domain.xml" 2>/dev/null)" = "$DOMAIN_XML" ] && has_guest
}

define() {
    is_defined_so && return 0
    printf '%s\n' "$DOMAIN_XML" >"$FOLDER/domain.new"
    logged "$DOMAIN-define" virsh define --validate "$FOLDER/domain.new"
    logged "$DOMAIN-autostart" virsh autostart "$DOMAIN"
    mv "$FOLDER/domain.new" "$FOLDER/domain.xml"
}

start() {
    is_running && return 0
    step "start"
    if ! virsh start "$DOMAIN" >"$LOG_DIR/$DOMAIN-start.log" 2>&1; then
        cat "$LOG_DIR/$DOMAIN-start.log" >&2
        fail guest-does-not-start "$NODE_NAME does not start" \
            "libvirt's error is shown above" \
            "fix it on the hypervisor $HYPERVISOR, $AGAIN"
    fi
}

is_ready() { grep -qsF "$READY" "$CONSOLE" "$CONSOLE".*; }

wait_until_ready() {
    local deadline=$((SECONDS + BOOT_SECONDS))
    until is_ready; do
        if ! is_running; then
            show_console
            fail guest-stopped "$NODE_NAME stopped while it was starting" \
                "the end of its console is shown above" \
                "fix the errors there; \`virsh console $DOMAIN\` on $HYPERVISOR shows more, $AGAIN"
        fi
        ((SECONDS < deadline)) || {
            show_console
            fail guest-boot-timeout "$NODE_NAME did not start sshd within $BOOT_SECONDS s" \
                "cloud-init prints on the console when sshd runs; the end of the console is shown above" \
                "look for cloud-init's errors there; the image must have cloud-init, sshd and systemd, $AGAIN"
        }
        sleep 0.5
    done
    step "is up"
}

[ "$(id -u)" = 0 ] || fail hypervisor-not-root "the login on the hypervisor $HYPERVISOR is not root" \
    "disks and guests belong to root" \
    "log in there as root, or as a user with sudo"
first_user_data=$(cat)
exec 9>"$RUN_DIR/guest.$DOMAIN.lock"
wait_for_lock 900 || fail guest-locked "another run has worked on the guest $DOMAIN for 15 minutes" \
    "two runs on one guest would undo each other's work" \
    "check the processes on $HYPERVISOR, $AGAIN"

require_hypervisor
require_own
[ "$GUEST" != exists ] || [ -f "$ROOT_DISK" ] ||
    fail guest-disk-missing "the hypervisor $HYPERVISOR does not have the disk of $NODE_NAME" \
        "the guest would start with an empty disk, without its data" \
        "put $ROOT_DISK back; or remove the node from the stack file, run \`pulumi up\`, and add it again"
refuse_smaller "$ROOT_DISK" "$DISK_MIB" disk
refuse_smaller "$ETCD_DISK" "$ETCD_DISK_MIB" etcdDisk
[ "$MEMORY_MIB" -le "$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo)" ] ||
    fail hypervisor-memory "the hypervisor $HYPERVISOR has less memory than $NODE_NAME needs" \
        "a guest does not share its memory" \
        "give it less memory, or move it to another hypervisor"

# QEMU runs as another user, which must be able to open the files.
(umask 066 && mkdir -p "$FOLDER")
write_file "$FOLDER/uuid" 644 "$UUID" || true
[ -f "$ROOT_DISK" ] || need_disk "$FOLDER" 2048
make_network
make_root_disk
make_etcd_disk
if ! is_defined_so || is_smaller "$ROOT_DISK" "$DISK_MIB" || is_smaller "$ETCD_DISK" "$ETCD_DISK_MIB"; then
    shut_down
    grow "$ROOT_DISK" qcow2 "$DISK_MIB"
    grow "$ETCD_DISK" raw "$ETCD_DISK_MIB"
    [ -f "$BOOTED" ] || make_seed "$first_user_data"
    define
fi
start
wait_until_ready
forget_host_key
