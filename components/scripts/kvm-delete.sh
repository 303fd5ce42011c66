#!/usr/bin/env bash
# Removes a guest and its disks from this hypervisor; with the last guest, also the images and the routed
# network. Reads: NODE_NAME HYPERVISOR DOMAIN UUID FOLDER IMAGES BRIDGE ALLOW_DATA_LOSS. Touches only what
# kvm-create.sh created.
# Uses: kvm.sh

readonly NETWORK_FILE=/var/lib/nordmesh/network.$BRIDGE.xml

exec 9>"$RUN_DIR/guest.$DOMAIN.lock"
wait_for_lock 900 || fail guest-locked "another run has worked on the guest $DOMAIN for 15 minutes" \
    "two runs on one guest would undo each other's work" \
    "check the processes on $HYPERVISOR, then run \`pulumi up\` again"

if ! command -v virsh >/dev/null && [ ! -e "$FOLDER" ]; then
    step "$HYPERVISOR has neither libvirt nor a disk of $DOMAIN: nothing to remove"
    exit 0
fi
if is_ours || [ "$(cat "$FOLDER/uuid" 2>/dev/null)" = "$UUID" ]; then
    [ "$ALLOW_DATA_LOSS" = true ] || fail guest-has-data "refusing to delete the guest $DOMAIN with its disks" \
        "all data on $NODE_NAME would be lost, etcd's too" \
        "to lose the data, add the entry {disk: $NODE_NAME, reason: ...} to nordmesh:machines.allowDataLoss while the node is in the stack file, run \`pulumi up\`, then try again"
    step "remove the guest and its disks"
    if is_ours; then
        is_in "shut off" || logged "$DOMAIN-destroy" virsh destroy "$DOMAIN"
        logged "$DOMAIN-undefine" virsh undefine "$DOMAIN"
    fi
    # A partly removed guest must not look like one that can start.
    [ ! -d "$FOLDER" ] || mv "$FOLDER" "$FOLDER.gone.$$"
fi
rm -rf "$FOLDER".gone.*
rm -rf "$RUN_DIR/seed.$DOMAIN"

# Guests share the images, so they are removed with the last guest.
if [ -d "$IMAGES" ]; then
    exec 8>"$IMAGES.lock"
    flock 8
    used=$(find "$(dirname "$FOLDER")" -mindepth 2 -maxdepth 2 -name root.qcow2 -print -quit)
    if [ -z "$used" ]; then
        rm -rf "$IMAGES" "$IMAGES.lock"
    fi
fi
exec 8>"$RUN_DIR/network.$BRIDGE.lock"
flock 8
if [ -f "$NETWORK_FILE" ] && ! network_in_use; then
    ! has_network || logged "$BRIDGE-destroy" virsh net-destroy "$BRIDGE"
    ! has_network --all || logged "$BRIDGE-undefine" virsh net-undefine "$BRIDGE"
    rm -f "$NETWORK_FILE" "$LOG_DIR/$BRIDGE"-*.log
fi
rmdir --ignore-fail-on-non-empty "$(dirname "$FOLDER")" 2>/dev/null || true
rm -f "$LOG_DIR/$DOMAIN"-*.log
