"""Paths by name, and folders that may lie in a bucket: `gs://bucket/path` is reached through etils' epath."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvp4d.core.errors import UserError

_BUCKET = re.compile(r"(gs|s3|az):/+(.*)", re.DOTALL)
FAILED_TRIES = 6  # of gcsfs, which asks twice side by side, until a bucket that does not answer is told
MOUNT = "mount the bucket (docs/launch.md) and give its folder"


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


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path lies in a bucket; one that `pathlib` has made `gs:/bucket` of, too."""
    return _BUCKET.match(os.fspath(path)) is not None


def place(path: str | os.PathLike) -> Any:
    """A path that reads and writes where it lies: a `pathlib.Path`, or an `epath.Path` in a bucket.

    Raises:
      UserError: the scheme is not gs, or what reaches Google Cloud Storage is not installed.
    """
    found = _BUCKET.match(os.fspath(path))
    if found is None:
        return Path(path)
    scheme, rest = found.groups()
    if scheme != "gs":
        raise UserError(f"{scheme}://{rest}", "only gs:// buckets are read and written", MOUNT)
    if not rest.strip("/"):
        raise UserError("gs://", "names no bucket", "give gs://BUCKET/PATH")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"gs://{rest}", "needs the package gcsfs", "in the checkout: pip install '.[gcs]', or " + MOUNT)
    from etils import epath
    from fsspec import config

    config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)  # other hosts write there, too
    return epath.Path(f"gs://{rest}")


def reach(path: Any) -> None:
    """Asks once for a place in a bucket, so that a network, a name or credentials at fault are told in one line.

    Raises:
      UserError: nobody answers in time, or refuses.
    """
    if not is_remote(path):
        return
    place(path)  # what is wrong with the name is told as it is
    tries = _Tries()
    logger = logging.getLogger("gcsfs")
    logger.propagate = False  # it logs a traceback of every try
    logger.addHandler(tries)
    logger.setLevel(logging.DEBUG)
    failed: list[BaseException | None] = []

    def ask() -> None:
        try:
            place(path).exists()
            failed.append(None)
        except Exception as error:  # of gcsfs, aiohttp, google.auth: many kinds, one meaning
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # gcsfs itself goes on for half a minute
    asking.start()
    while asking.is_alive() and tries.count < FAILED_TRIES:
        asking.join(0.05)
    logger.removeHandler(tries)
    logger.setLevel(logging.CRITICAL)
    if failed == [None]:
        return
    error = failed[0] if failed else tries.error
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    raise UserError(
        _shown(path),
        f"cannot be reached ({reason})",
        "check the network, the bucket's name and your rights (gcloud auth application-default login)",
    )


class _Tries(logging.Handler):
    """Counts the tries that gcsfs logs as failed, and keeps the error of the newest."""

    count, error = 0, ""

    def emit(self, record: logging.LogRecord) -> None:
        _, found, error = record.getMessage().partition("exception: ")
        if found:
            self.count, self.error = self.count + 1, error


def require_local(path: str | os.PathLike, where: str, why: str) -> None:
    """Refuses a place in a bucket. Raises UserError: `where` says which argument, `why` what cannot reach it."""
    if is_remote(path):
        raise UserError(where, f"'{_shown(path)}' lies in a bucket, {why}", MOUNT)


@contextlib.contextmanager
def uploaded(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path of the same name; the file or folder that lies there at the end is copied to `path`."""
    target = place(path)
    with tempfile.TemporaryDirectory(prefix="mvp4d-upload-") as folder:
        local = Path(folder) / target.name
        yield local
        files = [local] if local.is_file() else sorted(file for file in local.rglob("*") if file.is_file())
        for file in files:
            copy = target / file.relative_to(local) if local.is_dir() else target
            copy.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "rb") as source, copy.open("wb") as sink:  # an object appears when it is complete
                shutil.copyfileobj(source, sink, 16 << 20)


def on_fuse(path: str | os.PathLike) -> bool:
    """Whether a local path lies on a mount of a user's program (gcsfuse), which uploads a file when it is closed."""
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    real = os.path.realpath(path)
    mounts = [(len(line[1]), line[2]) for line in lines if os.path.commonpath([real, line[1]]) == line[1]]
    return bool(mounts) and max(mounts)[1].startswith("fuse")


def _shown(path: str | os.PathLike) -> str:
    return re.sub(r"^(\w+):/+", r"\1://", os.fspath(path))
