"""What a command may write over.

A folder that this program makes holds `.mvp4d.json`: its kind, and how many files lie below each of its entries. Files
say it themselves (`stamps`). Only what is recognised so is ever replaced, and only when that was asked for.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mvp4d.core.errors import UserError
from mvp4d.core.owner import discard
from mvp4d.core.places import absolute, is_remote, place
from mvp4d.core.stamps import is_ours

MARKER, FORMAT = ".mvp4d.json", "mvp4d-output"
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
    check_nothing_else(path, "run")
    if not folder.is_dir() or (folder / "config.json").is_file() or (folder / "checkpoints").is_dir():
        return
    foreign = next((entry.name for entry in sorted(folder.iterdir()) if not _may_lie_in_workdir(entry)), None)
    if foreign is not None:
        raise UserError(path, f"holds '{foreign}', and no run was there", "give the run a folder of its own")


def check_nothing_else(path: str | os.PathLike, what: str) -> None:
    """Refuses a folder for a run or a demo, which are many files, that this program made for something else.

    Raises:
      UserError: says what it holds.
    """
    names = {
        "capture.json": "a capture",
        "avatar.json": "an avatar",
        "mvp4d.json": "a release",
        "manifest.json": "shards",
        "portrait/portrait.json": "a person",
    }
    found = next((kind for name, kind in names.items() if (Path(path) / name).is_file()), None)
    if found is not None:
        raise UserError(path, f"holds {found}", f"give the {what} a folder of its own")


def check_demo(path: str | os.PathLike, record: str) -> None:
    """Refuses a demo's folder that is a file, or holds files and not the demo's record.

    Args:
      record: name of the file that every demo leaves in its folder.

    Raises:
      UserError: something is in the way.
    """
    folder = Path(path)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(path, "is already there, and is no folder", "choose another name")
    check_nothing_else(path, "demo")
    if not (folder / record).is_file() and any(entry.name not in _IGNORED for entry in folder.iterdir()):
        raise UserError(path, "is already there, and no demo made it", "choose another name")


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
