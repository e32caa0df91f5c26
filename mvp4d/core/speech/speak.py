"""`speak`: a sound file to a motion for a head."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvp4d.core.arguments import checked
from mvp4d.core.driving import check_motion_out, write_motion_out
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_text
from mvp4d.core.heads import load_head
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.retarget import retarget
from mvp4d.core.progress import say
from mvp4d.core.sound import RATE, Sound, read_sound
from mvp4d.core.speech.phones import Phone, read_phones
from mvp4d.core.speech.recognise import align, recognise
from mvp4d.core.speech.talk import talk

_JAW = 0.28  # radians: what jawOpen = 1 turns a jaw joint by, for heads that have no such expression
Pathlike = str | os.PathLike[str]


@checked
def speak(
    sound: Pathlike,
    *,
    text: str | None = None,
    phones: Pathlike | Sequence[Phone] | None = None,
    head: str | HeadModel = "builtin",
    fps: float = 30.0,
    seed: int = 0,
    out: Pathlike | None = None,
    overwrite: bool = False,
) -> Motion:
    """The motion of a head that says what a sound file holds: lips, blinks, brows, small head movements. English.

    Args:
      sound: WAV, FLAC, MP3, M4A and others, of any rate and number of channels.
      text: what is said, or the name of a .txt file of it; recognised where neither this nor `phones` is given.
      phones: timed phones, or a .csv or .json file of them: other languages and synthetic voices come in so.
      head: "builtin", "ict:PATH", "flame:PATH" or a HeadModel. Heads that name ARKit's expressions are driven by them,
        others by their jaw, neck and eye joints alone.
      fps: frames per second.
      seed: of blinks, brows and head movement.
      out: NAME.npz or NAME.csv (Live Link) to write.
      overwrite: replace a motion that this program wrote.

    Raises:
      UserError: no sound, no speech in it, a text that it does not hold, phones that are none.
    """
    if not 1 <= fps <= 240:
        raise UserError("`fps`", f"{fps} frames per second", "use 1 to 240")
    if text is not None and phones is not None:
        raise UserError("`text`", "and `phones` are given", "give one of them")
    _require("openfacefx", *(() if phones is not None else ("pocketsphinx",)))
    if out is not None:
        check_motion_out(Path(out), overwrite)
    heard = read_sound(sound)
    model = load_head(head) if isinstance(head, str) else head
    said = _phones(heard, text, phones, sound)
    motion, notice = retarget(talk(heard, said, fps=fps, seed=seed), "arkit", ARKIT_NAMES, model)
    if not np.any(motion.expression):
        motion = _by_joints(talk(heard, said, fps=fps, seed=seed), motion)
    if notice:
        say(f"note: {notice}")
    if out is not None:
        write_motion_out(Path(out), motion, model)
    return motion


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError("speech", f"needs the package {package}", "in the checkout: pip install '.[speech]'")


def _phones(heard: Sound, text: str | None, phones: Pathlike | Sequence[Phone] | None, where: object) -> list[Phone]:
    if phones is not None:
        found = read_phones(phones) if isinstance(phones, str | os.PathLike) else list(phones)
        if found and found[0].start >= heard.duration:
            raise UserError("`phones`", f"begin at {found[0].start:g} s, the sound lasts {heard.duration:.1f} s")
        return found
    if heard.source_rate < RATE:
        say(f"note: {where} has {heard.source_rate} samples a second; from {RATE} on more is recognised")
    if text is not None:
        return align(heard, _read_text(text), where)
    found = recognise(heard, where)
    if not found:
        say(f"note: {where} is silent: the mouth stays closed")
    return found


def _read_text(text: str) -> str:
    path = Path(text) if text.lower().endswith(".txt") else None
    if path is None:
        return text
    return read_text(path, limit=1 << 20)


def _by_joints(source: Motion, motion: Motion) -> Motion:
    """Opens the jaw joint of a head that has no ARKit expressions."""
    jaw = np.zeros_like(motion.jaw)
    jaw[:, 0] = _JAW * source.expression[:, ARKIT_NAMES.index("jawOpen")]
    return dataclasses.replace(motion, jaw=jaw)
