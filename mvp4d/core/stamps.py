"""Files that say who made them, by the word mvp4d: in a comment of zip, npz, gzip and JPEG, a text chunk of PNG, a
`free` box of mp4, the header or the generator of the others. And the modes that new files have.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

_WORD = b"mvp4d"


def is_ours(path: Path) -> bool:
    """Whether a file carries this program's word in its first 64 KiB or last 4 KiB."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(1 << 16)
            handle.seek(max(0, path.stat().st_size - 4096))
            return _WORD in head or _WORD in handle.read(4096)
    except OSError:
        return False


def stamp(path: Path) -> None:
    """Puts the word into a zip, npz, gzip, PNG, JPEG or mp4 file, where no reader minds; leaves others alone."""
    with open(path, "rb") as handle:
        start = handle.read(12)
    if start[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = archive.comment or _WORD
    elif start[:8] == b"\x89PNG\r\n\x1a\n":
        text = b"tEXt" + b"Software\0" + _WORD
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        _insert_before_end(path, 12, chunk)  # IEND is the last twelve bytes
    elif start[:4] == b"\x1f\x8b\x08\0":  # gzip without any optional field: its comment follows the ten bytes' header
        data = path.read_bytes()
        path.write_bytes(data[:3] + b"\x10" + data[4:10] + _WORD + b"\0" + data[10:])
    elif start[4:8] == b"ftyp":
        _insert_before_end(path, 0, struct.pack(">I", 8 + len(_WORD)) + b"free" + _WORD)
    elif start[:3] == b"\xff\xd8\xff":
        data = path.read_bytes()
        path.write_bytes(data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(_WORD)) + _WORD + data[2:])


def _insert_before_end(path: Path, tail: int, data: bytes) -> None:
    with open(path, "r+b") as handle:
        handle.seek(-tail, os.SEEK_END)
        end = handle.read(tail)
        handle.seek(-tail, os.SEEK_END)
        handle.write(data + end)


def settle_modes(path: Path) -> None:
    """Gives a file, or a folder and all in it, the modes that a new one has here (some writers make theirs private)."""
    mask = _umask()
    if not path.is_dir():
        path.chmod(0o666 & ~mask)
        return
    for folder, _, files in os.walk(path):
        os.chmod(folder, 0o777 & ~mask)
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o666 & ~mask)


def _umask() -> int:
    try:
        with open("/proc/self/status", encoding="utf-8") as handle:
            return next(int(line.split()[1], 8) for line in handle if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0o022)  # there is no other way to ask; for a moment other threads see it too
        os.umask(mask)
        return mask
