"""The disk image of KVM guests: its partition table, and when it is rebuilt."""

from pathlib import Path

from lab import guest, paths
from lab.guest import GuestImage


def test_the_partition_fills_the_disk_after_grub() -> None:
    table = guest.partition_table()
    assert len(table) == guest.SECTOR - guest.BOOT_CODE
    assert table[-2:] == b"\x55\xaa"
    entry = table[446 - guest.BOOT_CODE :][:16]
    assert entry[0] == 0x80, "the partition must be bootable"
    start, sectors = (int.from_bytes(entry[at : at + 4], "little") for at in (8, 12))
    assert start * guest.SECTOR == guest.START
    assert (start + sectors) * guest.SECTOR == guest.SIZE


def test_an_image_with_an_outdated_stamp_is_rebuilt(tmp_path: Path) -> None:
    cache = paths.Cache(root=tmp_path)
    image = GuestImage(cache=cache)
    assert not image.is_made()
    cache.guest_image.parent.mkdir()
    cache.guest_image.write_bytes(b"")
    cache.stamps.mkdir()
    (cache.stamps / "guest.image").write_text("of another recipe")
    assert not image.is_made()
