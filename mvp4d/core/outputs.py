"""What a command may write over, who else writes there, and whether there is room.

A folder that this program makes holds `.mvp4d.json`: its kind, and how many files lie below each of its entries. Files
carry the word mvp4d: in a comment of zip, npz, gzip and JPEG, a text chunk of PNG, a `free` box of mp4, the header or
the generator of the others. Only what is recognised so is ever replaced, and only when that was asked for.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

from mvp4d.core.errors import UserError
from mvp4d.core.owner import discard
from mvp4d.core.places import is_remote, place

MARKER, FORMAT = ".mvp4d.json", "mvp4d-output"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORD = b"mvp4d"
_IGNORED = {MARKER, ".DS_Store", "Thumbs.db", "desktop.ini"}
_ADDED = {"evaluation.json", "evaluation.html"}  # by later commands, which may write them again
# Folders that were made before there was a marker: kind -> the file that tells, its `format`, what may lie in it.
_KNOWN = {
    "capture": (
        "capture.json",
        "mvp4d-capture",
        {
            "capture.json",
            "cameras.npz",
            "motion.npz",
            "head.npz",
            "images",
            "videos",
            "masks",
            "portrait",
            "evaluation.json",
            "evaluation.html",
        },
    ),
    "avatar": (
        "avatar.json",
        "mvp4d-avatar",
        {"avatar.json", "avatar.safetensors", "report.json", "motion.npz", "cameras.npz", "tensorboard"},
    ),
    "release": ("mvp4d.json", None, {"mvp4d.json", "vae", "transformer"}),
}
_RUN_ENTRIES = {"compilation_cache", "tensorboard", "samples", "profile", "lost+found"}
_RUN_SUFFIXES = {".log", ".out", ".err", ".txt", ".md", ".py", ".sh", ".yaml", ".yml", ".json"}


def absolute(path: str | os.PathLike) -> Path:
    """The path from the root, `.` and `..` resolved by name, so that it has a name and a parent."""
    return Path(os.path.abspath(path))


def beside(path: str | os.PathLike, ending: str) -> Path:
    """`path` with something added to its name."""
    path = absolute(path)
    return path.with_name(f"{path.name}{ending}")


def without_folders(spec: str) -> str:
    """A path, or "file:PATH", as its name alone: where it lay on this machine is not to be given away."""
    kind, separator, path = spec.partition("file:")
    if separator and not kind:
        return f"file:{Path(path).name}"
    return Path(spec).name if "/" in spec else spec


class Busy(UserError):
    """Another process writes there."""


class Full(UserError):
    """There is no room, or not enough."""


# --- what may be replaced -------------------------------------------------------------------------------------------
def check_folder(path: str | os.PathLike, kind: str, overwrite: bool) -> None:
    """Refuses a folder to write that is there, unless `overwrite` and it is one of this kind that the program made.

    An empty folder is not in the way.

    Raises:
      UserError: something is in the way.
    """
    if is_remote(path):
        target = place(path)
        if target.exists() and any(target.iterdir()):
            raise UserError(path, "is already there, and nothing in a bucket is replaced", "choose another name")
        return
    shown, path = path, absolute(path)
    if Path.cwd().is_relative_to(path):
        raise UserError(shown, "is the folder that you are in, or holds it", f"give the {kind} a name of its own")
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if not overwrite:
        raise UserError(shown, "is already there", f"choose another name, or give `overwrite` to replace the {kind}")
    if path.is_symlink() or not path.is_dir():
        what = "a link" if path.is_symlink() else "a file"
        raise UserError(shown, f"is {what}, so it is not replaced by a folder", "choose another name")
    made = _made(path, kind)
    if made is None:
        raise UserError(shown, f"is no {kind} that this program made, so it is not overwritten", "choose another name")
    foreign = next((name for name, count in _count(path).items() if count > made.get(name, 0)), None)
    if foreign is not None:
        inside = "is not" if foreign not in made else "holds files that are not"
        raise UserError(
            shown,
            f"is not overwritten: '{foreign}' in it {inside} of this program's making",
            "move it away, or choose another name",
        )


def check_workdir(path: str | os.PathLike) -> None:
    """Refuses a run's workdir that is a file, a folder that this program made for something else, or one that holds
    files and was never a run's: settings and logs may lie there before.

    Raises:
      UserError: names what is there.
    """
    if is_remote(path):
        return
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UserError(path, "is a file", "a workdir is a folder: choose another name")
    names = {
        "capture.json": "a capture",
        "avatar.json": "an avatar",
        "mvp4d.json": "a release",
        "manifest.json": "shards",
    }
    found = next((kind for name, kind in names.items() if (folder / name).is_file()), None)
    if found is not None:
        raise UserError(path, f"holds {found}", "give the run a folder of its own")
    if not folder.is_dir() or (folder / "config.json").is_file() or (folder / "checkpoints").is_dir():
        return
    foreign = next((entry.name for entry in sorted(folder.iterdir()) if not _may_lie_in_workdir(entry)), None)
    if foreign is not None:
        raise UserError(path, f"holds '{foreign}', and no run was there", "give the run a folder of its own")


def _may_lie_in_workdir(path: Path) -> bool:
    """Before the first run: what its launch puts there, and what a run that was stopped at once has left."""
    return path.name.startswith(".") or path.name in _RUN_ENTRIES or path.suffix in _RUN_SUFFIXES


def check_file(path: str | os.PathLike, overwrite: bool) -> None:
    """Refuses a file to write that is there, unless `overwrite` and this program made it.

    Raises:
      UserError: something is in the way.
    """
    shown, path = path, absolute(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise UserError(shown, "is already there", "choose another name, or give `overwrite`")
    if path.is_symlink() or not path.is_file():
        what = "a link" if path.is_symlink() else "no ordinary file"
        raise UserError(shown, f"is {what}, so it is not overwritten", "choose another name")
    if path.stat().st_size and not is_ours(path):
        raise UserError(shown, "was not made by this program, so it is not overwritten", "choose another name")
    for kind, (name, _, entries) in _KNOWN.items():
        if path.name in entries - _ADDED and (path.parent / name).is_file():
            raise UserError(
                shown, f"is a part of the {kind} that it lies in, so it is not overwritten", "choose another name"
            )


def mark_folder(folder: Path, kind: str) -> None:
    """Writes the marker: last, when everything else is in the folder."""
    (folder / MARKER).write_text(
        json.dumps({"format": FORMAT, "kind": kind, "files": _count(folder)}) + "\n", encoding="utf-8"
    )


def add_to_marker(folder: Path, *names: str) -> None:
    """Takes up entries that a command added to a folder that another made."""
    try:
        info = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        info["files"] = dict(info["files"]) | {name: count for name, count in _count(folder).items() if name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return  # no marker: nothing to keep in step
    (folder / MARKER).write_text(json.dumps(info) + "\n", encoding="utf-8")


def _made(path: Path, kind: str) -> dict[str, int] | None:
    """How many files below each entry of a folder are this program's; None where it is not of that kind."""
    try:
        info = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if info["format"] == FORMAT and info["kind"] == kind:
            return {str(name): int(count) for name, count in info["files"].items()}
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    except OSError:
        pass
    if kind not in _KNOWN:
        return None
    name, wanted, entries = _KNOWN[kind]
    try:
        info = json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(info, dict) or (wanted is not None and info.get("format") != wanted):
        return None
    return dict.fromkeys(entries, sys.maxsize)


def _count(folder: Path) -> dict[str, int]:
    """Entry -> files below it (1 for a file)."""
    counts = {}
    for entry in os.scandir(folder):
        if entry.name in _IGNORED:
            continue
        counts[entry.name] = 1
        if entry.is_dir(follow_symlinks=False):
            counts[entry.name] = sum(
                len(set(files) - _IGNORED) + (not files and not folders) for _, folders, files in os.walk(entry.path)
            )
    return counts


def work_folder(path: Path, kind: str) -> Path:
    """The folder where a long job keeps what it has done: a new one, or one that an earlier run of it began.

    Raises:
      UserError: another folder or file of that name is in the way.
    """
    if os.path.lexists(path) and not is_work_folder(path, kind):
        raise UserError(path, "is in the way and was not made by this command", "move it away")
    path.mkdir(parents=True, exist_ok=True)
    if not (path / MARKER).exists():
        (path / MARKER).write_text(json.dumps({"format": FORMAT, "kind": kind, "files": {}}) + "\n", encoding="utf-8")
    return path


def mark_finishing(path: Path, kind: str, fingerprint: str) -> None:
    """Says in a work folder that the output of the run with this fingerprint is about to be put in place: should it be
    stopped between that and `drop_work_folder`, the same run may put it there again, unasked."""
    (path / MARKER).write_text(
        json.dumps({"format": FORMAT, "kind": kind, "files": {}, "finishing": fingerprint}), encoding="utf-8"
    )


def was_finishing(path: Path, kind: str) -> str | None:
    """The fingerprint that `mark_finishing` left in a work folder, if it did."""
    if _made(path, kind) is None:
        return None
    try:
        fingerprint = json.loads((path / MARKER).read_text(encoding="utf-8")).get("finishing")
    except (OSError, ValueError):
        return None
    return fingerprint if isinstance(fingerprint, str) else None


def is_work_folder(path: Path, kind: str) -> bool:
    """Whether a folder was made by `work_folder`, or is empty."""
    if path.is_symlink() or not path.is_dir():
        return False
    return not any(path.iterdir()) or _made(path, kind) is not None


def drop_work_folder(path: Path, kind: str) -> None:
    """Removes a folder that `work_folder` made; any other stays."""
    if is_work_folder(path, kind):
        discard(path)


# --- files that say who made them ------------------------------------------------------------------------------------
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


# --- room ------------------------------------------------------------------------------------------------------------
def require_space(path: str | os.PathLike, size: float, what: str) -> None:
    """Refuses to begin what cannot be finished: fewer than `size` bytes are free where `path` will lie.

    Raises:
      Full: says how much is needed and how much there is.
    """
    folder = absolute(path)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise Full(
            path,
            f"{what} takes about {_amount(size)}, and {_amount(free)} are free there",
            "free some space, or write to another disk",
        )


def is_full(path: Path, error: BaseException) -> bool:
    """Whether a write to `path` failed for want of space; libraries have other words for it than the system."""
    if isinstance(error, OSError):
        return error.errno in FULL
    folder = absolute(path).parent
    return isinstance(error, Exception) and folder.exists() and shutil.disk_usage(folder).free < 1 << 16


def _amount(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


# --- one writer at a time --------------------------------------------------------------------------------------------
@contextlib.contextmanager
def hold(path: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
    """Keeps an output for this process while the block runs, by a lock file beside it; within the process as often as
    one likes.

    Args:
      path: the file or folder that is to be written.
      wait: wait until another process is done with it, instead of refusing.

    Raises:
      UserError: another process writes there; says which.
    """
    if is_remote(path):  # no locks there
        yield
        return
    shown, path = path, Path(os.path.realpath(path))
    if not path.name:
        raise UserError(shown, "is the root of the file system", "name a file or folder below it")
    if fcntl is None or _held.get(path) == os.getpid():
        yield
        return
    made: list[Path] = []
    lock = path.with_name(f".{path.name[:100]}.mvp4d-lock")
    try:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(path)  # a name that the file system does not take is told before the work, not after it
            made = _make_parents(path.parent)
            handle = _lock(lock, shown, wait)
        except OSError as error:  # of the lock or a parent: the user has named neither
            if error.errno in FULL:
                raise
            why = "what it lies in is no folder" if error.errno == errno.ENOTDIR else (error.strerror or "").lower()
            raise UserError(shown, f"cannot be written: {why}", "choose another name") from None
        _held[path] = os.getpid()
        try:
            yield
        finally:
            del _held[path]
            if handle is not None:
                lock.unlink(missing_ok=True)
                os.close(handle)
    finally:
        for folder in made:  # nothing was written after all
            with contextlib.suppress(OSError):
                folder.rmdir()


_held: dict[Path, int] = {}


def _lock(lock: Path, shown: str | os.PathLike, wait: bool) -> int | None:
    """An open, locked file; None where the file system has no locks."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            assert fcntl is not None  # `hold` asked
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            who = os.pread(handle, 400, 0).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise Busy(shown, f"is being written by {who}", "wait for it, or choose another name") from None
        except OSError:  # no locks here: some network file systems
            os.close(handle)
            lock.unlink(missing_ok=True)
            return None
        try:
            same = os.path.samestat(os.fstat(handle), os.stat(lock))
        except FileNotFoundError:
            same = False
        if same:
            break
        os.close(handle)  # its holder removed it just before it was locked
        time.sleep(0.01)
    since = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    command = " ".join(["mvp4d", *sys.argv[1:2]]) if sys.argv[1:] else "a program"
    with contextlib.suppress(OSError):  # a full disk: who it is cannot be told, but the lock holds
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename} ({command}, since {since})".encode(), 0)
    return handle


def _make_parents(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns what was made, the innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing
