#!/usr/bin/env bash
# Runs on a control plane: installs the timer that stores snapshots, or removes it if FILES is empty. Reads:
# FILES DIRECTORY (where snapshots go, if that is a directory) RCLONE (its configuration, empty for a
# directory). stdin: the secret key of the login at the bucket.
# Uses: apt.sh files.sh

readonly SETTINGS=/etc/nordmesh
readonly RCLONE_CONF=$SETTINGS/rclone.conf
readonly TIMER=nordmesh-backup.timer
readonly BACKUP_FILES="/usr/local/lib/nordmesh/backup.sh $SETTINGS/backup.conf $SETTINGS/backup-keys \
    /etc/systemd/system/nordmesh-backup.service /etc/systemd/system/nordmesh-backup.timer"

# remove_timer: ends a run, too. What it has stored by then has no signature, and nothing reads that.
remove_timer() {
    stop_for_good "$TIMER" nordmesh-backup.service
    # shellcheck disable=SC2086 # a list of paths
    rm -f "$RCLONE_CONF" $BACKUP_FILES
    systemctl daemon-reload
}

single_run
if [ -z "$FILES" ]; then
    remove_timer
    step "stores no snapshots"
    exit 0
fi
[ -z "$DIRECTORY" ] || [ -d "$DIRECTORY" ] || fail backup-directory-missing "there is no directory $DIRECTORY" \
    "a directory that nordmesh creates would be on the control plane's own disk, and lost with it" \
    "mount the storage there, or create the directory on purpose; then run \`pulumi up\` again"
install_packages age curl openssh-client rclone zstd
secret=""
[ -z "$RCLONE" ] || secret=$(cat)
write_file "$RCLONE_CONF" 600 "$RCLONE${secret:+$'\n'secret_access_key = $secret}" || true
write_files backup
systemctl daemon-reload
# `enable --now` would leave a running timer as it is.
systemctl enable --quiet "$TIMER"
systemctl restart "$TIMER"
step "stores snapshots: $(sed -n 's/^OnUnitActiveSec=\(.*\)/every \1 s/p' "/etc/systemd/system/$TIMER")"
