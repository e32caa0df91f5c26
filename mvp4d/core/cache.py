"""The user's cache folder, and what JAX keeps there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import warnings
from pathlib import Path

FOLDER, SHORTEST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MOST_BYTES = 10**9  # of compiled programs; on a CPU a demo leaves 2 MB


def user_cache() -> Path:
    """`mvp4d` below $XDG_CACHE_HOME (where that is an absolute path, as its standard asks) or ~/.cache.

    Raises:
      RuntimeError: the user has no home folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mvp4d"


def keep_programs() -> None:
    """Has JAX keep the programs that it compiles in the user's cache, for the next process of the same shapes.

    Told through the environment, which JAX reads when it is imported: nothing is imported here. A folder that the user
    has given (JAX_COMPILATION_CACHE_DIR) stays. Where JAX is loaded already, or the folder cannot be written, nothing
    is kept. Each kind of processor has a folder of its own, since programs use its instructions and homes are shared.
    Programs that cannot be read, such as one that another process is writing, are compiled as if there were none.
    """
    if "jax" in sys.modules or FOLDER in os.environ:
        return
    try:
        folder = user_cache() / "compiled" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    _make_room(folder)
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault(SHORTEST, "0")
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")


def _make_room(folder: Path) -> None:
    """Removes empty files, which a full disk leaves, and the oldest beyond `MOST_BYTES`."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = sorted(
            ((entry.stat(), entry.path) for entry in entries if entry.is_file(follow_symlinks=False)),
            key=lambda item: item[0].st_mtime,
            reverse=True,
        )
        total = 0
        for stat, path in found:
            total += stat.st_size
            if not stat.st_size or total > MOST_BYTES:
                os.unlink(path)


def _processor() -> str:
    """Names the kind of processor by what it can do."""
    told = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
        told = next((line for line in handle if line.startswith(("flags", "Features"))), told)
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
