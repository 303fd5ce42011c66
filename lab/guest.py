"""Build the disk image that the tests' KVM guests boot from, like a distributor's cloud image.

Debian with a kernel, cloud-init, sshd and what a node needs; one partition, GRUB, qcow2. Made
without mounting anything: mke2fs fills the file system, and GRUB is installed by hand.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import paths, roots
from lab.run import Runner

# The packages that make a node's root bootable.
_PACKAGES = (
    "cloud-guest-utils",  # growpart
    "cloud-init",
    "e2fsprogs",
    "fdisk",
    "grub-common",
    "grub-pc-bin",
    "ifupdown",
    "linux-image-cloud-amd64",
    "netbase",
    "systemd-timesyncd",
    "udev",
)

_LABEL = "root"
SECTOR = 512
START = 2048 * SECTOR  # where partitions begin; GRUB lies before it
SIZE = 1792 * 2**20

# boot.img is code up to here; the partition table follows (GRUB's include/grub/i386/pc/boot.h).
BOOT_CODE = 440

# Emulated guests are faster without CPU mitigations and with four levels of page tables.
_GRUB_EARLY = f"""\
search --no-floppy --label --set=root {_LABEL}
linux /vmlinuz root=LABEL={_LABEL} ro console=tty0 console=ttyS0,115200 mitigations=off no5lvl
initrd /initrd.img
boot
"""
_GRUB_MODULES = ("biosdisk", "boot", "ext2", "linux", "part_msdos", "search", "search_label")

# The lab's images have iptables of the older kind, and no modprobe to load these for it.
_MODULES = """\
ip_tables
iptable_filter
iptable_mangle
iptable_nat
"""
# The modules of cloud-init that a node's user-data uses: each takes an emulated guest a second.
_CLOUD_INIT = """\
datasource_list: [NoCloud, None]
cloud_init_modules: [write-files, growpart, resizefs, disk_setup, mounts, set_hostname,
  update_hostname, update_etc_hosts, users-groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user, final-message]
"""

# The modules that find the partition; emulated guests take long to load the whole set.
_INITRAMFS = {
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\nCOMPRESS=gzip\n",
    "usr/share/initramfs-tools/modules.d/lab": "virtio_pci\nvirtio_blk\next4\n",
}

# Nothing is started in a chroot; the mounts end with the command's own namespace.
_INSTALL = """\
mount -t proc proc "$0/proc"
export DEBIAN_FRONTEND=noninteractive
chroot "$0" apt-get -q update
chroot "$0" apt-get -q install -y --no-install-recommends "$@"
chroot "$0" apt-get -q clean
"""

# Raise it when the work on these changes.
_RECIPE = 2


@dataclass(frozen=True, kw_only=True)
class GuestImage:
    """The image in a cache."""

    cache: paths.Cache

    @property
    def _stamp(self) -> Path:
        return self.cache.stamps / "guest.image"

    def _digest(self) -> str:
        texts = (_GRUB_EARLY, _MODULES, _CLOUD_INIT, _INITRAMFS, _INSTALL)
        inputs = (_RECIPE, roots.BASE.digest(), _PACKAGES, _GRUB_MODULES, *texts, SIZE)
        return hashlib.sha256(repr(inputs).encode()).hexdigest()

    def is_made(self) -> bool:
        """Whether the image exists and was made by this recipe."""
        return (
            self.cache.guest_image.is_file()
            and self._stamp.is_file()
            and self._stamp.read_text() == self._digest()
        )

    def make(self, runner: Runner) -> None:
        """Make the image of the nodes' root; needs root's rights and Debian's package archive."""
        image = self.cache.guest_image
        image.parent.mkdir(parents=True, exist_ok=True)
        root = image.with_suffix(".root")
        self._make_root(root, runner)
        raw, partial = image.with_suffix(".raw"), image.with_suffix(".partial")
        raw.unlink(missing_ok=True)
        with raw.open("wb") as disk:
            disk.truncate(SIZE)
        runner.run(
            "guest.filesystem",
            [
                "mke2fs", "-q", "-F", "-t", "ext4", "-L", _LABEL, "-d", str(root),
                "-E", f"offset={START},lazy_itable_init=1,root_owner=0:0",
                str(raw), f"{(SIZE - START) // 1024}k",
            ],
        )  # fmt: skip
        self._make_bootable(root, raw, runner)
        runner.run(
            "guest.image",
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(partial)],
        )
        raw.unlink()
        partial.replace(image)
        # The root is as large as the image, and not needed any more.
        shutil.rmtree(root)
        self.cache.stamps.mkdir(parents=True, exist_ok=True)
        self._stamp.write_text(self._digest())

    def _make_root(self, root: Path, runner: Runner) -> None:
        shutil.rmtree(root, ignore_errors=True)
        runner.run("guest.root", ["cp", "--archive", str(self.cache.base_root), str(root)])
        for name, text in _INITRAMFS.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _INSTALL]
        runner.run("guest.packages", [*command, str(root), *_PACKAGES])
        _configure(root)
        roots.strip(root, small=False)

    def _make_bootable(self, root: Path, raw: Path, runner: Runner) -> None:
        """Write the boot sector, the partition table, and GRUB between it and the partition."""
        grub = root / "usr/lib/grub/i386-pc"
        early, core = root / "boot/early.cfg", root / "boot/core.img"
        early.write_text(_GRUB_EARLY)
        command = ["grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", "/boot/early.cfg"]
        runner.run(
            "guest.grub",
            ["chroot", str(root), *command, "-o", "/boot/core.img", *_GRUB_MODULES],
        )
        # grub-mkimage leaves the place of its second sector, which is right for this layout.
        with raw.open("r+b") as disk:
            disk.write((grub / "boot.img").read_bytes()[:BOOT_CODE])
            disk.seek(BOOT_CODE)
            disk.write(partition_table())
            disk.seek(SECTOR)
            disk.write(core.read_bytes())
            if disk.tell() > START:
                raise ValueError("GRUB does not fit before the first partition")


def partition_table() -> bytes:
    """The rest of the first sector: one bootable Linux partition that fills the disk."""
    signature = b"NMGI"
    first, sectors = START // SECTOR, (SIZE - START) // SECTOR
    linux, bootable, any_head = 0x83, 0x80, b"\xfe\xff\xff"
    entry = bytes([bootable]) + any_head + bytes([linux]) + any_head
    entry += first.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    return signature + bytes(2) + entry + bytes(3 * 16) + b"\x55\xaa"


def _configure(root: Path) -> None:
    (root / "etc/fstab").write_text(f"LABEL={_LABEL} / ext4 defaults,noatime 0 1\n")
    (root / "etc/modules-load.d/lab-iptables.conf").write_text(_MODULES)
    (root / "etc/cloud/cloud.cfg.d/90_lab.cfg").write_text(_CLOUD_INIT)
    (root / "etc/hostname").unlink(missing_ok=True)  # this machine's own
    # kubelet wants the file. Nothing listens there: a lookup fails at once instead of hanging.
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
