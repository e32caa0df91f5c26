"""Atomic files and folders: a reader sees the old content or the new, never a half-written one. Reading what others
wrote: JSON and npz files that may be damaged or hostile."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.lock import hold
from mvp4d.core.outputs import check_folder, mark_folder
from mvp4d.core.owner import discard, sweep_once, temporary_name
from mvp4d.core.places import absolute, is_remote, uploaded
from mvp4d.core.room import Full, is_full
from mvp4d.core.stamps import settle_modes, stamp


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same suffix); on success it is flushed to disk and renamed over `path`.

    In a bucket (`gs://`) the object appears when it is complete. Whether `path` may be replaced is the caller's to ask
    (`outputs.check_file`).

    Raises:
      UserError: the disk is full.
    """
    if is_remote(path):
        with uploaded(path) as temporary:
            yield temporary
        return
    path = absolute(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_once(path.parent)
    temporary = temporary_name(path)
    try:
        with _told_when_full(path):
            yield temporary
            stamp(temporary)
            settle_modes(temporary)
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        discard(temporary)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, overwrite: bool = False, kind: str = "folder") -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it takes the place of `path`, marked with its kind.

    In a bucket (`gs://`) its files are uploaded, and nothing there is replaced.

    Raises:
      UserError: something is in the way (checked before anything is written), another process writes there, or the
        disk is full.
    """
    check_folder(path, kind, overwrite)
    if is_remote(path):
        with uploaded(path) as temporary:
            temporary.mkdir()
            yield temporary
            mark_folder(temporary, kind)
        return
    shown, path = path, absolute(path)
    with hold(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(path.parent)
        temporary = temporary_name(path)
        try:
            with _told_when_full(path):
                temporary.mkdir()
                yield temporary
                mark_folder(temporary, kind)
                settle_modes(temporary)
                check_folder(shown, kind, overwrite)  # nothing may have come in the meantime
                _take_place(temporary, path)
        finally:
            discard(temporary)


def _take_place(temporary: Path, path: Path) -> None:
    """Renames a folder over another; there is no moment without one where the system can exchange two names."""
    if not path.exists():
        os.replace(temporary, path)
    elif not _exchange(temporary, path):
        retired = temporary_name(path, "old")  # a process that dies in between leaves it, and `sweep` puts it back
        os.replace(path, retired)
        os.replace(temporary, path)
        discard(retired)


def _exchange(first: Path, second: Path) -> bool:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # glibc 2.28, Linux
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def _told_when_full(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_full(path, error):
            raise Full(
                path,
                "cannot be written: the disk is full, or a limit on file sizes is reached",
                "free some space; what was there before is whole",
            ) from error
        raise


def checksum(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes `value` as indented JSON, atomically; numbers that are not finite, which JSON lacks, become null."""
    with atomic_file(path) as temporary:
        text = json.dumps(_finite(value), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    """The value with None in the place of every number in it that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike, *, limit: int = 64 << 20) -> object:
    """Reads a JSON file of at most `limit` bytes.

    Raises:
      UserError: no regular file there, too large, not UTF-8, not JSON, or nested too deeply.
    """
    try:
        return json.loads(read_text(path, limit=limit), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"not readable JSON ({str(error)[:120] or type(error).__name__})") from None


def read_text(path: str | os.PathLike, *, limit: int = 64 << 20) -> str:
    """Reads a text file of at most `limit` bytes, UTF-8 with or without a byte order mark.

    Raises:
      UserError: no regular file there, too large, not UTF-8.
    """
    check_regular(path, limit)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(path, f"is no UTF-8 text ({str(error)[:100]})") from None


def read_npz(path: str | os.PathLike, *, limit: int = 1 << 30) -> dict[str, np.ndarray]:
    """Reads every array of an npz file that nobody vouches for: no pickles, no zip bombs.

    Sizes are taken from the zip directory and from each array's own header and must agree before a byte of data is
    read or a byte of memory taken for it.

    Args:
      limit: bytes that all arrays may take together once unpacked.

    Returns:
      name -> array of plain numbers, booleans or strings, in native byte order.

    Raises:
      UserError: missing, damaged, too large, or holding objects (which would have to be unpickled).
    """
    check_regular(path, limit)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("data.pkl") for entry in entries):
                raise UserError(
                    path,
                    "is a PyTorch file, whose pickle is not read",
                    "write its arrays as an npz with the fields that docs/formats.md lists",
                )
            if len(entries) > 4096 or sum(entry.file_size for entry in entries) > limit:
                raise UserError(path, f"unpacks to more than {limit >> 20} MiB", "this is not a file of this kind")
            arrays = {}
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as stream:
                    arrays[name] = _read_npy(stream, entry.file_size, f"array '{name}'", path)
            return arrays
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(path, f"not a readable npz file ({str(error)[:120] or type(error).__name__})") from None


def read_npy(path: str | os.PathLike, *, limit: int = 1 << 30) -> np.ndarray:
    """Reads an npy file, as `read_npz` does the arrays of an npz.

    Raises:
      UserError: missing, damaged, too large, or holding objects.
    """
    check_regular(path, limit)
    try:
        with open(path, "rb") as stream:
            return _read_npy(stream, os.fstat(stream.fileno()).st_size, "the array", path)
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(path, f"not a readable npy file ({str(error)[:120] or type(error).__name__})") from None


# What zipfile, zlib and numpy's header parser raise on damaged bytes; NotImplementedError and RuntimeError are
# zipfile's words for compression methods and encryption that it does not know.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    lzma.LZMAError,
    tokenize.TokenError,
)


def _read_npy(stream: IO[bytes], length: int, what: str, path: str | os.PathLike) -> np.ndarray:
    """The array of an npy file of `length` bytes; `what` names it."""
    major, _ = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.kind not in "biufcUS":
        raise UserError(path, f"{what} holds {dtype} values", "only plain numbers and strings are read")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != length - stream.tell():
        raise UserError(
            path,
            f"{what} says shape {shape} {dtype} but holds another number of bytes",
            "the file is damaged",
        )
    data = stream.read(size)
    if len(data) != size or stream.read(1):
        raise UserError(path, f"{what} is cut short", "the file is damaged")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))


# The file that tells each kind of folder, what such a folder is called, and what makes one.
_FOLDERS = {
    "capture.json": ("a capture", "mvp4d sample, studio or import"),
    "portrait/portrait.json": ("a person's folder", "mvp4d track PHOTO --out PERSON"),
    "avatar.json": ("an avatar", "mvp4d distill"),
    "manifest.json": ("a shards folder", "mvp4d prepare"),
    "mvp4d.json": ("a release", "mvp4d train --export"),
}


def check_kind(path: Path, marker: str) -> None:
    """Refuses what is no folder, or a folder of another kind than `marker` (a key of `_FOLDERS`) tells.

    Raises:
      UserError: says what it is instead, and what makes the kind that is needed.
    """
    wanted, maker = _FOLDERS[marker]
    if not path.is_dir():
        raise UserError(path, "no such folder" if not path.exists() else "not a folder", f"{wanted} is a folder")
    if (path / marker).exists():
        return
    found = kind_of(path)
    what = f"is {found}, not {wanted}" if found else f"is not {wanted} ({marker} is missing)"
    inside = None if found else find_inside(path, (marker,))
    raise UserError(path, what, f"{wanted} is made by {maker}" if inside is None else f"there is one at {inside}")


def kind_of(path: Path) -> str | None:
    """What a folder is ("an avatar"), where it is one of the project's."""
    return next((what for name, (what, _) in _FOLDERS.items() if (path / name).is_file()), None)


def find_inside(path: Path, markers: Iterable[str]) -> Path | None:
    """The first folder in a folder, by name, that holds one of these files, the first of them before others."""
    try:
        inside = sorted(child for child in path.iterdir() if child.is_dir() and os.access(child, os.X_OK))
        return next((child for marker in markers for child in inside if (child / marker).exists()), None)
    except OSError:
        return None


def check_regular(path: str | os.PathLike, limit: int) -> None:
    """Refuses what is missing, no ordinary file (a named pipe would be waited for), or larger than `limit` bytes."""
    path = Path(path)
    if not path.exists():
        raise UserError(path, "no such file")
    if not path.is_file():
        raise UserError(path, "not a regular file")
    if path.stat().st_size > limit:
        raise UserError(path, f"{path.stat().st_size >> 20} MiB, more than the {limit >> 20} MiB such a file may have")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
