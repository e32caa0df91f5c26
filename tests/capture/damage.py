"""Ways to damage files: each is a function of a path that changes the file there."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Damage = Callable[[Path], None]


class Payload:
    """Unpickling it makes the file SENTINEL in the working folder."""

    def __reduce__(self):
        return os.system, ("touch SENTINEL",)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def lying_npy(header: str, data: bytes = b"\0" * 64) -> bytes:
    """An npy file whose header is any text."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def one_member(content: bytes, name: str = "{array}.npy") -> Damage:
    """Replaces one array of an npz, the first, by other bytes."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {item: archive.read(item) for item in archive.namelist()}
        first = next(iter(members))
        members.pop(first)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name.replace("{array}", first.removesuffix(".npy")), content)
            for item, data in members.items():
                archive.writestr(item, data)

    return damage


def cut(fraction: float) -> Damage:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * fraction)])

    return damage


def content(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data) and None


def missing(path: Path) -> None:
    path.unlink()


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_in_place(path: Path) -> None:
    """Reading a pipe that nobody writes to would wait for ever."""
    path.unlink()
    os.mkfifo(path)


def link_out(path: Path) -> None:
    outside = next(parent for parent in path.parents if parent.name == "work") / f"outside{path.suffix}"
    path.rename(outside)
    path.symlink_to(outside)


def dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def loop_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def flip_bit(path: Path) -> None:
    """Changes a stored byte of the first member, so that its checksum no longer holds."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[0]
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
    start = entry.header_offset + 30 + name + extra
    data[start + entry.compress_size // 2] ^= 0x55
    path.write_bytes(data)


def directory_field(offset: int, value: bytes) -> Damage:
    """Overwrites a field of the first entry in the zip's central directory and, at the same place, says so twice."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        start = data.index(b"PK\x01\x02")
        data[start + offset : start + offset + len(value)] = value
        path.write_bytes(data)

    return damage


def bomb(path: Path) -> None:
    """A member of 3 GiB of zeros, said so truthfully; the stored bytes are few."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = engine.compress(b"\0" * (1 << 20)) + engine.flush()
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("bomb.npy")
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, b"x")
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<I", 3 << 30)
    path.write_bytes(data)
    assert len(packed) < 2000


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(5000):
            archive.writestr(f"x{index}.npy", b"")


WHOLE_FILE: dict[str, Damage] = {
    "missing": missing,
    "empty": content(b""),
    "half": cut(0.5),
    "most": cut(0.97),
    "text": content(b"hello, I am an npz\n" * 20),
    "zeros": content(b"\0" * 4096),
    "pickle": content(pickle.dumps(Payload())),
    "folder": folder_in_place,
    "pipe": pipe_in_place,
    "dangling link": dangling_link,
    "link to itself": loop_link,
    "flipped bit": flip_bit,
    "bomb": bomb,
    "5000 members": many_members,
    "unknown compression": directory_field(10, struct.pack("<H", 99)),
    "encrypted": directory_field(8, struct.pack("<H", 1)),
    "bare npy": content(npy(np.zeros(3))),
    "object array": one_member(npy(np.array([Payload()], dtype=object))),
    "record array": one_member(npy(np.zeros(2, [("x", "f4"), ("y", "i4")]))),
    "not an npy member": one_member(b"import os; os.system('touch SENTINEL')"),
    "empty npy member": one_member(b""),
    "python in the header": one_member(lying_npy("__import__('os').system('touch SENTINEL')")),
    "header of 60 kB": one_member(lying_npy("{" + " " * 60000 + "}")),
    "shape of 8 TB": one_member(lying_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}")),
    "negative shape": one_member(lying_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-8,)}")),
    "shape of no bytes": one_member(lying_npy("{'descr': '|S0', 'fortran_order': False, 'shape': (9,)}", b"")),
    "climbing member": one_member(npy(np.zeros(3)), "../../SENTINEL.npy"),
}


def replace_array(name: str, change: Callable[[np.ndarray], object]) -> Damage:
    """Replaces one array of an npz; a change that returns None drops it."""

    def damage(path: Path) -> None:
        with np.load(path) as data:
            arrays = {key: data[key] for key in data}
        value = change(arrays.pop(name))
        if value is not None:
            arrays[name] = np.asarray(value)
        np.savez(path, **arrays)

    return damage


def poke(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = np.array(array, np.float64)
        array.reshape(-1)[array.size // 2] = value
        return array

    return change


EVERY_ARRAY: dict[str, Callable[[np.ndarray], object]] = {
    "dropped": lambda array: None,
    "NaN": poke(np.nan),
    "infinity": poke(-np.inf),
    "text": lambda array: np.full(array.shape, "7"),
    "complex": lambda array: array.astype(np.complex64),
    "one axis more": lambda array: np.stack([array, array, array, array, array]),
}


def edit_json(**fields: object) -> Damage:
    """Sets fields of a JSON object; the value `...` drops one."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))

    return damage


JSON_NONSENSE: dict[str, Damage] = {
    "missing": missing,
    "empty": content(b""),
    "half": cut(0.5),
    "a list": content(b"[]"),
    "a number": content(b"17"),
    "null": content(b"null"),
    "no JSON": content(b"{fps: 25}"),
    "not UTF-8": content(b"\xff\xfe{}"),
    "NaN": content(b'{"format": "mvp4d-capture", "fps": NaN}'),
    "100000 deep": content(b"[" * 100000),
    "a million digits": content(b'{"fps": ' + b"9" * 1_000_000 + b"}"),
    "folder": folder_in_place,
    "pipe": pipe_in_place,
    "dangling link": dangling_link,
}


def other_size(path: Path) -> None:
    """A picture of another size than that of a small capture's."""
    Image.new("RGB", (11, 12)).save(path)
