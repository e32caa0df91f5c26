"""Turn recorded speech into a motion: lips, blinks, brows and small head movements (English).

  mvp4d speak SPEECH.wav --out talk.npz                              recognises what is said
  mvp4d speak SPEECH.wav --text "what is said" --out talk.npz        aligns it: better
  mvp4d speak VOICE.mp3 --phones timed.json --out talk.npz           another language or a synthetic voice
  mvp4d render AVATAR --motion talk.npz --audio SPEECH.wav --out talk.mp4

Timed phones are a CSV with the columns phone, start, end, or JSON with these keys, in ARPAbet or IPA and seconds. With
--out NAME.csv a Live Link recording is written. Needs the extra `speech` (in the checkout: pip install '.[speech]').
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mvp4d.core.words import counted


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sound", metavar="SPEECH", type=Path, help="a sound file: WAV, FLAC, MP3, M4A, ...")
    parser.add_argument("--text", help="what is said, or a .txt file of it (default: recognised)")
    parser.add_argument("--phones", type=Path, help="timed phones (.csv or .json) in place of recognition")
    parser.add_argument("--head", default="builtin", help="builtin, ict:PATH or flame:PATH (default: builtin)")
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of blinks, brows and head movement")
    parser.add_argument("--out", type=Path, required=True, help="NAME.npz, or NAME.csv for Live Link")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(args: argparse.Namespace) -> str:
    import mvp4d

    motion = mvp4d.speak(
        args.sound,
        text=args.text,
        phones=args.phones,
        head=args.head,
        fps=args.fps,
        seed=args.seed,
        out=args.out,
        overwrite=args.overwrite,
    )
    out, sound = shlex.quote(str(args.out)), shlex.quote(str(args.sound))
    return (
        f"{args.out}: {counted(motion.frame_count, 'frame')} at {motion.fps:g} a second; "
        f"next: mvp4d render AVATAR --motion {out} --audio {sound} --out NAME.mp4"
    )
