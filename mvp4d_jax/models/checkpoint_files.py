"""Safetensors files, read and written one tensor at a time, with bfloat16 and without pickle.

A file is eight bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, and the
bytes. A folder holds one such file, or several and an index {"metadata": {"total_size"}, "weight_map": {name: file}}.
Files are read by seek and read rather than mapped, so that memory stays at one tensor, however large the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json

STEM = "diffusion_pytorch_model"  # diffusers' file name
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_LARGEST_HEADER = 100 << 20  # the format's own limit
_SLICE = 1 << 22  # elements looked at together in search of a NaN


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies: file, dtype ("F32", "F16", "BF16"), shape, first byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a folder, in the order of their files; nothing is loaded until `read`."""

    folder: Path
    entries: dict[str, Entry]

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, in its own dtype and shape.

        Raises:
          UserError: the file ends early, or the tensor holds a NaN or an infinity.
        """
        entry = self.entries[name]
        with open(entry.file, "rb") as handle:
            handle.seek(entry.offset)
            flat = np.fromfile(handle, DTYPES[entry.dtype], math.prod(entry.shape))
        if flat.size != math.prod(entry.shape):
            raise UserError(entry.file, f"ends before the tensor '{name}' does", "download or copy it again")
        for start in range(0, flat.size, _SLICE):
            if not np.isfinite(flat[start : start + _SLICE]).all():
                raise UserError(
                    entry.file,
                    f"the tensor '{name}' holds NaN or infinite values",
                    "take another copy of the checkpoint",
                )
        return flat.reshape(entry.shape)


def open_weights(folder: Path) -> Weights:
    """Reads the headers of a folder's safetensors and checks that files, index and offsets agree.

    Raises:
      UserError: no weights, only pickled ones, a file that the index names is missing, truncated or damaged.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = sorted(folder.glob("*.safetensors"))
    if not indices:
        # Two files without an index are two variants of the same weights (fp16 beside fp32), not two halves.
        if not files:
            pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
            if pickled:
                raise UserError(pickled[0], "pickled weights are not read", "save them as safetensors")
            raise UserError(folder, "holds no *.safetensors file", "give a diffusers model folder")
        if len(files) > 1:
            raise UserError(folder, f"holds {len(files)} safetensors files and no index", "leave the one that is meant")
        return Weights(folder, _read_header(files[0]))
    if len(indices) > 1:
        raise UserError(folder, f"holds {len(indices)} safetensors indices", "leave the one that is meant")
    return Weights(folder, _read_indexed(folder, indices[0]))


def _read_indexed(folder: Path, index: Path) -> dict[str, Entry]:
    try:
        weight_map = dict(read_json(index)["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(index, f"is no index of shards ({type(error).__name__}: {error})") from None
    entries: dict[str, Entry] = {}
    for file in sorted({str(file) for file in weight_map.values()}):
        if Path(file).name != file:
            raise UserError(index, f"names '{file}', which is not a plain file name")
        for name, entry in _read_header(folder / file).items():
            if weight_map.get(name) != file:
                raise UserError(
                    folder / file,
                    f"holds '{name}', which the index places in {weight_map.get(name)}",
                    "download the folder again",
                )
            entries[name] = entry
    absent = sorted(set(weight_map) - set(entries))
    if absent:
        raise UserError(
            index, f"names tensors that its files do not hold: {shorten(absent)}", "download the folder again"
        )
    return entries


def _read_header(file: Path) -> dict[str, Entry]:
    if not file.is_file():
        raise UserError(file, "is missing", "download or copy it")
    size = file.stat().st_size
    with open(file, "rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
        if length > min(_LARGEST_HEADER, size - 8):
            raise UserError(file, "is truncated or no safetensors file", "download or copy it again")
        try:
            header = json.loads(handle.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(file, 8 + length, facts) for name, facts in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(file, f"has a damaged header ({error})", "download or copy it again") from None
    end = max([entry.offset + entry.nbytes for entry in entries.values()], default=8 + length)
    if end > size:
        raise UserError(file, f"is truncated: {size} bytes of {end}", "download or copy it again")
    return entries


def _entry(file: Path, base: int, facts: dict) -> Entry:
    if facts["dtype"] not in DTYPES:
        raise ValueError(f"dtype {facts['dtype']} is not one of {', '.join(DTYPES)}")
    shape = tuple(int(size) for size in facts["shape"])
    begin, end = (int(offset) for offset in facts["data_offsets"])
    entry = Entry(file, facts["dtype"], shape, base + begin)
    if begin < 0 or min(shape, default=0) < 0 or end - begin != entry.nbytes:
        raise ValueError("offsets and shapes disagree")
    return entry


def write_weights(
    folder: Path,
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    read: Callable[[str], np.ndarray],
    *,
    shard_bytes: int,
) -> None:
    """Writes `tensors` (name, dtype, shape) in diffusers' layout, asking `read(name)` for one at a time.

    One file where they fit into `shard_bytes`, else shards and an index.
    """
    sizes = [math.prod(shape) * DTYPES[dtype].itemsize for _, dtype, shape in tensors]
    shards: list[list[int]] = [[]]
    filled = 0
    for index, size in enumerate(sizes):
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(index)
        filled += size
    count, weight_map = len(shards), {}
    for number, members in enumerate(shards, start=1):
        name = f"{STEM}.safetensors" if count == 1 else f"{STEM}-{number:05d}-of-{count:05d}.safetensors"
        _write_file(folder / name, [tensors[index] for index in members], read)
        weight_map.update({tensors[index][0]: name for index in members})
    if count > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(
    file: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]], read: Callable[[str], np.ndarray]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # what diffusers asks a file to say
    offset, tensors = 0, list(tensors)
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for name, dtype, shape in tensors:
            array = read(name)
            if array.shape != tuple(shape) or array.dtype != DTYPES[dtype]:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, announced as {dtype} {tuple(shape)}")
            np.ascontiguousarray(array).tofile(handle)


def shorten(names: Sequence[object], most: int = 6) -> str:
    """The names on one line, the first few of many."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
