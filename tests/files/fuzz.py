"""Damages sound inputs at random: bytes, arrays, JSON values, tensors, and what lies in a file's place."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.capture.damage import npy

Random = np.random.Generator
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2.5,
    -0.0,
    1e300,
    -1e300,
    10**30,
    -(10**30),
    "",
    "x",
    "../x",
    "0",
    "NaN",
    [],
    {},
    [1],
    [[]],
    {"a": 1},
    "9" * 5000,
    "ä\n\0",
    65536,
    4096,
    1e-300,
)


def damage(path: Path, rng: Random) -> str:
    """Damages one file of an input, a file or a folder, in one way. Returns what was done."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    file = files[rng.integers(len(files))]
    special = {".npz": _npz, ".json": _json, ".safetensors": _safetensors, ".csv": _csv}.get(file.suffix)
    kinds: list[Callable[[Path, Random], str]] = [_bytes, _place]
    chosen = special if special is not None and rng.random() < 0.75 else kinds[int(rng.random() < 0.15)]
    return f"{file.relative_to(path) if path.is_dir() else file.name}: {chosen(file, rng)}"


def damage_again(path: Path, rng: Random) -> str:
    """A second fault in an input that has one; nothing where the first has left no file to damage, or none that can be
    read any more."""
    if not (any(file.is_file() for file in path.rglob("*")) if path.is_dir() else path.is_file()):
        return ""
    try:
        return f" and {damage(path, rng)}"
    except Exception:  # of numpy, json and zipfile, on what the first fault has made of the file
        return ""


def _pick(rng: Random, items):
    return items[int(rng.integers(len(items)))]


def _bytes(path: Path, rng: Random) -> str:
    data = bytearray(path.read_bytes())
    how = _pick(rng, ("flip", "cut", "drop", "repeat", "insert", "zeros", "empty", "text", "head"))
    at = int(rng.integers(max(len(data), 1)))
    if rng.random() < 0.5:  # most of what is decided stands at the beginning
        at = at % 200
    length = int(rng.integers(1, 64))
    if how == "flip":
        for _ in range(int(rng.integers(1, 12))):
            if data:
                data[(at + int(rng.integers(40))) % len(data)] ^= int(rng.integers(1, 256))
    elif how == "cut":
        del data[at:]
    elif how == "drop":
        del data[at : at + length]
    elif how == "repeat":
        data[at:at] = data[at : at + length] * 3
    elif how == "insert":
        data[at:at] = rng.bytes(length)
    elif how == "zeros":
        data[at : at + length] = bytes(min(length, len(data) - at))
    elif how == "empty":
        data.clear()
    elif how == "text":
        data[:] = b"%!PS-Adobe-3.0 EPSF-3.0\n{ } loop\n"
    else:
        data[:16] = rng.bytes(16)
    path.write_bytes(data)
    return f"{how} at {at}"


def _place(path: Path, rng: Random) -> str:
    how = _pick(rng, ("missing", "folder", "pipe", "dangling link", "link to itself", "link to /dev/zero"))
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how != "missing":
        path.symlink_to({"dangling link": "nowhere", "link to itself": path.name}.get(how, "/dev/zero"))
    return how


def _npz(path: Path, rng: Random) -> str:
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data}
    name = _pick(rng, sorted(arrays))
    array = arrays[name]
    changes: dict[str, Callable[[], object]] = {
        "dropped": lambda: None,
        "NaN": lambda: _poked(array, np.nan, rng),
        "inf": lambda: _poked(array, np.inf, rng),
        "huge": lambda: _poked(array, 1e30, rng),
        "negative": lambda: _poked(array, -1e6, rng),
        "zeros": lambda: np.zeros_like(array),
        "text": lambda: np.full(array.shape, "7"),
        "bytes": lambda: np.full(array.shape, b"7"),
        "complex": lambda: np.zeros(array.shape, np.complex64),
        "booleans": lambda: np.ones(array.shape, bool),
        "records": lambda: np.zeros(array.shape, [("x", "f4")]),
        "half": lambda: array.astype(np.float16) if array.dtype.kind in "fiu" else _none_of(array),
        "times 1000": lambda: array * np.asarray(1000, float) if array.dtype.kind in "fiu" else array,
        "one axis more": lambda: array[None],
        "one axis less": lambda: array.reshape(-1),
        "empty": lambda: np.zeros((0, *array.shape[1:]), array.dtype),
        "one less": lambda: array[:-1] if array.ndim else array,
        "one more": lambda: np.concatenate([array, array[:1]]) if array.ndim else array,
        "a number": lambda: np.float64(3),
        "big-endian": lambda: array.astype(array.dtype.newbyteorder(">")),
        "a name": lambda: np.str_("someone"),
        "shape of 10^30": lambda: "lie",
    }
    how = _pick(rng, sorted(changes))
    value = changes[how]()
    with zipfile.ZipFile(path, "w") as archive:
        for key, item in arrays.items():
            if key != name:
                archive.writestr(f"{key}.npy", npy(item))
        if isinstance(value, str) and value == "lie":
            archive.writestr(f"{name}.npy", _lying(rng))
        elif value is not None:
            archive.writestr(f"{name}.npy", npy(np.asarray(value)))
    return f"'{name}' {how}"


def _poked(array: np.ndarray, value: float, rng: Random) -> np.ndarray:
    if array.dtype.kind not in "fiu" or not array.size:
        return _none_of(array)
    changed = array.astype(np.float64)
    changed.reshape(-1)[int(rng.integers(array.size))] = value
    return changed.astype(array.dtype) if array.dtype.kind == "f" else changed


def _none_of(array: np.ndarray) -> np.ndarray:
    return array[:0] if array.ndim else array


def _lying(rng: Random) -> bytes:
    shape = _pick(
        rng,
        (
            "(1000000000000000000000000000000,)",
            "(0, 1000000000000000000000000000000)",
            "(-1,)",
            "(2.5,)",
            "(True,)",
            "'x'",
            "(1000000, 1000000, 0)",
        ),
    )
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _json(path: Path, rng: Random) -> str:
    try:
        tree = json.loads(path.read_text())
    except ValueError:
        return _bytes(path, rng)
    if rng.random() < 0.08:
        path.write_text(json.dumps(_pick(rng, VALUES)))
        return "another value as a whole"
    places = list(_places(tree))
    if not places:
        return _bytes(path, rng)
    # Names of the upper levels more often than the thousandth number of an array.
    weights = np.array([1 / (1 + depth) ** 2 for _, _, depth in places])
    holder, key, _ = places[rng.choice(len(places), p=weights / weights.sum())]
    how = _pick(rng, ("replace", "replace", "replace", "delete", "double"))
    value = _pick(rng, VALUES)
    if how == "replace":
        holder[key] = value
    elif how == "delete":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[f"{key}_"] = holder[key]
    path.write_text(json.dumps(tree))
    return f"{how} {key!r} {str(value)[:20]!r}"


def _places(tree: object, depth: int = 0):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        yield tree, key, depth
        if depth < 5 and not (isinstance(tree, list) and key > 20):
            yield from _places(item, depth + 1)


def _safetensors(path: Path, rng: Random) -> str:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    names = sorted(set(header) - {"__metadata__"})
    name = _pick(rng, names)
    how = _pick(rng, ("NaN", "huge", "dtype", "shape", "offsets", "dropped", "renamed", "length", "header value"))
    start, end = header[name]["data_offsets"]
    if how in ("NaN", "huge") and header[name]["dtype"] == "F32" and end > start:
        at = start + 4 * int(rng.integers((end - start) // 4))
        body[at : at + 4] = struct.pack("<f", float("nan") if how == "NaN" else -1e30)
    elif how == "dtype":
        header[name]["dtype"] = _pick(rng, ("F16", "F32", "F64", "I32", "I64", "BOOL", "F99", 5))
    elif how == "shape":
        shape = header[name]["shape"]
        others = [10**30], [-1], [], [1, *shape], [*shape, 1], shape[::-1], [math.prod(shape)], "x", [0]
        header[name]["shape"] = _pick(rng, others)
    elif how == "offsets":
        header[name]["data_offsets"] = _pick(rng, ([0, 10**18], [end, start], [], [-1, 4], None))
    elif how == "dropped":
        del header[name]
    elif how == "renamed":
        header[name + "x"] = header.pop(name)
    elif how == "length":
        path.write_bytes(struct.pack("<Q", _pick(rng, (0, 2**63, length + 1, 10**6))) + data[8:])
        return how
    else:
        header[name] = _pick(rng, VALUES)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return f"'{name}' {how}"


def _csv(path: Path, rng: Random) -> str:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row = _pick(rng, rows)
    at = int(rng.integers(len(row)))
    value = _pick(rng, ("nan", "inf", "", "x", '"', "9" * 5000, "1e400", "-", "0x1", "JawOpen", "a\0b", "1,2,3"))
    how = _pick(rng, ("value", "delete", "row", "no rows"))
    if how == "value":
        row[at] = value
    elif how == "delete":
        del row[at]
    elif how == "row":
        rows.insert(int(rng.integers(len(rows))), [value])
    else:
        del rows[1:]
    path.write_text("\n".join(",".join(items) for items in rows) + "\n")
    return f"{how} {value[:10]!r}"
