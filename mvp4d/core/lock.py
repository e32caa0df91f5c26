"""One writer at a time: a lock file beside what is written."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

from mvp4d.core.errors import UserError
from mvp4d.core.places import is_remote
from mvp4d.core.room import FULL

_held: dict[Path, int] = {}


class Busy(UserError):
    """Another process writes there."""


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
