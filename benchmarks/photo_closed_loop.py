"""What a photo in the fit is worth: test identities of the studio, avatars at 512 pixels against the studio's own.

    python benchmarks/photo_closed_loop.py                          # four people, two fits each
    python benchmarks/photo_closed_loop.py --identities 11004 --json out/photo.json --keep out/photo

Every identity is filmed by 8 cameras over 360 degrees, and by one within 30 degrees of the front, whose picture, at
another moment and 512 x 512, is the photo. From it the weights generate 8 views in their own size. Two avatars are
fitted to these, one with the photo, one without, and rendered through the studio's cameras. Rings of angle are
measured from the photo, in the head's axes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from closed_loop import VIEWS, film, frames_of

import mvp4d
from mvp4d.core.cameras.camera import resize
from mvp4d.core.cameras.rigs import rig_names
from mvp4d_jax.evaluation.evaluate import reference_angles, score_view

PEOPLE = (11_004, 11_007, 11_012, 11_019)
SIDE, FRAMES = 512, 5
RINGS = ((0, 45), (45, 90), (90, 180.1))
WITHOUT, WITH = "without the photo", "with it"


def score(avatar: mvp4d.Avatar, truth: mvp4d.Capture) -> list[dict]:
    """Angle, PSNR and SSIM of an avatar in each of the studio's views."""
    cameras = f"file:{truth.path / 'cameras.npz'}"
    views = avatar.render(truth.motion[slice(0, FRAMES)], cameras=cameras, size=SIDE).each_view()
    angles, expected = reference_angles(truth, truth), frames_of(truth, FRAMES)
    rows = []
    for index, name in enumerate(rig_names(VIEWS)):
        found = score_view(name, angles[name], views[index].frames() / np.float32(255), expected[index])
        rows.append({"angle": found.angle, "psnr": found.psnr, "ssim": found.ssim})
    return rows


def captures(model: mvp4d.Model, identity: int, folder: Path) -> tuple[mvp4d.Capture, mvp4d.Capture]:
    """The studio's views of a person, and the weights' from its photo; those that are there are taken."""
    filmed, generated = folder / f"{identity}", folder / f"{identity}-generated"
    truth = mvp4d.open_capture(filmed) if filmed.exists() else film(identity, SIDE, folder, FRAMES)
    cameras = resize(truth.cameras[:VIEWS], truth.image_size, (model.facts.image_size,) * 2)
    if not generated.exists():
        model.sample(truth, motion=truth.motion[slice(0, FRAMES)], cameras=cameras, seed=identity, out=generated)
    return truth, mvp4d.open_capture(generated)


def measure(model: mvp4d.Model, identity: int, steps: int | None, folder: Path) -> list[dict]:
    """Both avatars of one person, view by view."""
    truth, generated = captures(model, identity, folder)
    rows = []
    for method, photos in ((WITHOUT, False), (WITH, True)):
        options = {"photos": photos} | ({} if steps is None else {"steps": steps})
        out = folder / f"{identity}-avatar-{photos:d}"
        avatar = mvp4d.distill(generated, out=out, preset="cpu", overwrite=True, **options)
        rows += [{"identity": identity, "method": method, **row} for row in score(avatar, truth)]
    return rows


def table(rows: list[dict]) -> str:
    """Mean PSNR and SSIM by ring without and with the photo, and what it gains, for each person and all of them."""
    lines = [f"| person | degrees from the photo | {WITHOUT}: PSNR / SSIM | {WITH} | gain |", "| --- " * 5 + "|"]
    for person in (*sorted({row["identity"] for row in rows}), None):
        for low, high in RINGS:
            means = []
            for method in (WITHOUT, WITH):
                chosen = [
                    (row["psnr"], row["ssim"])
                    for row in rows
                    if row["method"] == method and person in (None, row["identity"]) and low <= row["angle"] < high
                ]
                means.append(np.mean(chosen, axis=0) if chosen else np.full(2, np.nan))
            cells = [f"{psnr:.2f} / {ssim:.3f}" for psnr, ssim in means]
            gain = "{:+.2f} / {:+.3f}".format(*(means[1] - means[0]))
            lines.append(f"| {person or 'all'} | {low} to {min(high, 180):.0f} | {cells[0]} | {cells[1]} | {gain} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny_128_turbo")
    parser.add_argument("--identities", type=int, nargs="+", default=list(PEOPLE))
    parser.add_argument("--steps", type=int, help="of the fits (default: the preset's)")
    parser.add_argument("--json", help="also write every view's numbers here")
    parser.add_argument(
        "--keep", help="folder for captures and avatars (default: a temporary one); captures that are there are taken"
    )
    args = parser.parse_args()
    model, rows, began = mvp4d.load(args.weights), [], time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(args.keep or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for identity in args.identities:
            rows += measure(model, identity, args.steps, folder)
            print(table([row for row in rows if row["identity"] == identity]), file=sys.stderr, flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(rows))
    print(f"weights {args.weights}, {VIEWS} views x {FRAMES} frames, {SIDE} pixels, {time.monotonic() - began:.0f} s\n")
    print(table(rows))


if __name__ == "__main__":
    main()
