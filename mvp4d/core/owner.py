"""Temporaries that say which process makes them, so that those of a process that is gone can be told and removed.

A temporary of `PATH/NAME.ext` is `PATH/.NAME.mvp4d-HOST-PID-START-TOKEN.tmp.ext`: HOST a hash of the machine's name and
process namespace, START the moment that process began. No name that a person gives looks like that.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

OTHER_HOST_SECONDS = 86_400  # a temporary of a machine that cannot be asked is given up after a day
_NAME = re.compile(
    r"\.(?P<stem>.+)\.mvp4d-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>[0-9a-f]+)-[0-9a-f]{8}"
    r"\.(?P<role>tmp|old)(?:\.[^/]*)?",
    re.DOTALL,
)
_STEM_BYTES = 120  # of a temporary's name; a file system takes 255


def temporary_name(path: Path, role: str = "tmp") -> Path:
    """A new name beside `path`, with its suffix, that names this process; `role` is "tmp" or "old"."""
    stem = path.name[: -len(path.suffix)] if path.suffix else path.name
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    pid = os.getpid()
    owner = f"{_host()}-{pid}-{_start(pid)}-{secrets.token_hex(4)}"
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 32 else ""
    return path.with_name(f".{stem}.mvp4d-{owner}.{role}{suffix}")


def is_abandoned(path: Path) -> bool:
    """Whether `path` is a temporary whose process is gone."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return False
    if match["host"] != _host():
        try:
            return time.time() - path.lstat().st_mtime > OTHER_HOST_SECONDS
        except OSError:
            return False
    return _start(int(match["pid"])) != match["start"]


def sweep(folder: str | os.PathLike) -> list[Path]:
    """Removes what processes that are gone left in a folder (not below it). Returns what was removed.

    An output that was moved aside for its successor, which then never came, is put back.
    """
    removed = []
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if ".mvp4d-" in entry.name]
    except OSError:
        return removed
    for path in filter(is_abandoned, found):
        match = _NAME.fullmatch(path.name)
        assert match is not None  # is_abandoned says so
        target = path.with_name(match["stem"] + path.name[match.end("role") :])
        if match["role"] == "old" and not target.exists():
            os.replace(path, target)
        else:
            discard(path)
            removed.append(path)
    return removed


def sweep_once(folder: Path) -> None:
    """`sweep`, the first time that this process comes to a folder."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


_swept: set[Path] = set()


def discard(path: Path) -> None:
    """Removes a file or a folder that this program made, as far as the system lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1)
def _host() -> str:
    """Of the machine and its process namespace: equal process numbers mean the same process only within one."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{os.uname().nodename} {namespace}".encode()).hexdigest()[:8]


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When a process began, hashed with the boot; "0" where there is no such process."""
    try:
        # Fields after the command, which may hold spaces and brackets; the 20th is the start time in ticks since boot.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if os.path.isdir("/proc/self"):
            return "0"
        try:
            os.kill(pid, 0)  # no /proc (macOS): a number that is taken counts as the same process
        except ProcessLookupError:
            return "0"
        except OSError:
            pass
        return "1"
    if fields[0] in "ZX":  # ended, and not yet asked for by its parent
        return "0"
    return hashlib.sha256(f"{_boot()} {fields[19]}".encode()).hexdigest()[:8]
