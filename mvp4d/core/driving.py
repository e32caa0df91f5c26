"""Driving motion for a head, from any file that holds one, and into one: expressions are matched by name, never by
position."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

import numpy as np

from mvp4d.core import video
from mvp4d.core.arguments import Pathlike, checked
from mvp4d.core.capture.fit import check_same_head, pad_expression, read_fit_motion
from mvp4d.core.capture.motion_file import NamedMotion, read_motion, write_motion
from mvp4d.core.errors import UserError
from mvp4d.core.files import find_inside, read_npz
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.retarget import retarget
from mvp4d.core.heads.transfer import FLAME_EYES, carry_pose
from mvp4d.core.live_link import check_recording, read_live_link, write_live_link
from mvp4d.core.outputs import check_file
from mvp4d.core.progress import say

_MAKERS = {"track": video.SUFFIXES, "speak": (".wav", ".flac", ".mp3", ".m4a", ".ogg")}  # verb -> what it takes
_KINDS = "give a motion.npz, a fit.npz, a capture or avatar folder, or a Live Link Face .csv"


@checked
def load_motion(path: Pathlike, head: str | HeadModel) -> tuple[Motion, str]:
    """Reads a driving motion for `head`: a HeadModel, or "builtin", "ict:PATH" or "flame:PATH".

    Args:
      path: a `motion.npz`, a `fit.npz`, a capture or avatar folder, or a Live Link Face CSV.

    Returns:
      motion: in the head's own expression order; a coefficient that the source lacks is zero.
      notice: one line on what could not be carried over, empty when everything was.

    Raises:
      UserError: the file is missing, damaged or of no known kind; of a folder that is none, names the motion in it.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(path, "no such motion", _KINDS)
    if isinstance(head, str):
        head = load_head(head)
    if path.suffix.lower() == ".csv":
        motion, names = read_live_link(path)
        return retarget(motion, "arkit", names, head)
    if path.is_dir() and not (path / "motion.npz").exists():
        inside = _motion_inside(path)
        raise UserError(path, "is no motion", _KINDS if inside is None else f"there is one at {inside}")
    if path.is_dir() or path.suffix.lower() == ".npz":
        where = path / "motion.npz" if path.is_dir() else path
        arrays = read_npz(where)
        if "expr" in arrays:
            return _from_fit(*read_fit_motion(arrays, where), head, where)
        return _from_motion(read_motion(where, arrays), head, where)
    maker = next((maker for maker, suffixes in _MAKERS.items() if path.suffix.lower() in suffixes), None)
    if maker is not None:
        source = shlex.quote(str(path))
        raise UserError(path, "is no motion yet", f"mvp4d {maker} {source} --out NAME.npz makes one of it")
    raise UserError(path, f"cannot tell what kind of motion '{path.suffix or path.name}' is", _KINDS)


def check_motion(motion: Motion, head: HeadModel) -> None:
    """Refuses a Motion that cannot be one of `head`: its coefficients are [F, E] in the head's own order.

    Raises:
      UserError: another number of expressions.
    """
    shape = np.shape(motion.expression)
    if len(shape) != 2 or shape[1] != head.expression_count:
        raise UserError(
            "`motion`",
            f"has expressions {list(shape)}, head '{head.name}' takes [frames, {head.expression_count}]",
            "give a motion of this head, or a file, which names its own",
        )


def _motion_inside(path: Path) -> Path | None:
    """The first motion in a folder, by name: files before folders."""
    for file in sorted(item for item in path.iterdir() if item.is_file() and item.suffix.lower() in (".npz", ".csv")):
        with contextlib.suppress(UserError):  # some other file
            if file.suffix.lower() == ".csv":
                read_live_link(file)
                return file
            if {"expr", "expression"} & set(read_npz(file)):
                return file
    return find_inside(path, ("motion.npz",))


def _from_fit(motion: Motion, name: str, head: HeadModel, where: Path) -> tuple[Motion, str]:
    try:
        check_same_head(name, head, where)
    except UserError:
        carried, notice = retarget(motion, name, (), head)
        return (carry_pose(carried, FLAME_EYES, head) if name.startswith("flame") else carried), notice
    return pad_expression(motion, head, where), ""


def _from_motion(found: NamedMotion, head: HeadModel, where: Path) -> tuple[Motion, str]:
    if found.names is None:
        if found.motion.expression.shape[1] != head.expression_count:
            raise UserError(
                where,
                f"holds {found.motion.expression.shape[1]} expressions without names, head "
                f"'{head.name}' has {head.expression_count}",
                "write it again with this version, or give the capture that it belongs to",
            )
        return found.motion, f"{where} names no expressions: they are taken in the order of head '{head.name}'"
    motion, notice = retarget(found.motion, found.head, found.names, head)
    if found.eyes is not None and found.head.partition("+")[0] != head.name.partition("+")[0]:
        motion = carry_pose(motion, np.asarray(found.eyes), head)
    return motion, notice


def check_motion_out(out: Path, overwrite: bool) -> None:
    """Refuses a name that `write_motion_out` cannot write. Raises UserError."""
    if out.suffix.lower() == ".csv":
        check_recording(out, overwrite)
    elif out.suffix.lower() == ".npz":
        check_file(out, overwrite)
    else:
        raise UserError("`out`", f"'{out.name}' is no motion", "use NAME.npz or NAME.csv")


def write_motion_out(out: Path, motion: Motion, head: HeadModel) -> None:
    """Writes a motion by its name: NAME.npz, or NAME.csv as a Live Link recording."""
    if out.suffix.lower() == ".npz":
        write_motion(out, motion, head)
        return
    lost = write_live_link(out, motion, head.expression_names)
    if lost:
        say(f"note: {lost}")
