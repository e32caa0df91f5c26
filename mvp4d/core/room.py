"""Whether a disk has room."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from mvp4d.core.errors import UserError
from mvp4d.core.places import absolute

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Full(UserError):
    """There is no room, or not enough."""


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
