"""`--motion` and `--audio` of the commands that make a page: several motions, each with or without a sound."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_clips(parser: argparse._ActionsContainer, where: str = "") -> None:
    """Adds both flags: `args.motion` (None or a list), `args.audio` (as long as there are sounds; None for silence)."""
    parser.add_argument(
        "--motion",
        type=Path,
        action="append",
        help=f"motion.npz, fit.npz, .csv or capture (default: the avatar's own); {where}may be given several times",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        action=_Sound,
        default=[],
        metavar="SOUND",
        help=f"{where}a sound file for the --motion before it",
    )


class _Sound(argparse.Action):
    """Keeps a sound at the place of the motion that was named last, or of the first where none was yet."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        place, sounds = max(len(namespace.motion or ()) - 1, 0), list(namespace.audio)
        sounds += [None] * (place + 1 - len(sounds))
        if sounds[place] is not None:
            raise argparse.ArgumentError(
                self, f"'{values}' is a second sound for one motion; put it after its --motion"
            )
        sounds[place] = values
        namespace.audio = sounds
