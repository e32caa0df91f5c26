"""What a photo in the fit is worth: test identities of the studio, avatars at 512 pixels against the studio's own.

    python benchmarks/photo_closed_loop.py                          # four people, three fits each
    python benchmarks/photo_closed_loop.py --identities 11004 --json out/photo.json --keep out/photo

Every identity is filmed by 8 cameras over 360 degrees, and by one within 30 degrees of the front, whose picture, at
another moment and 512 x 512, is the photo. From it the weights generate 8 views in their own size. Three avatars are
fitted to these and rendered through the studio's cameras: one to bare views, as the sampler leaves them; one to views
that have taken detail and hair colour from the photo, as they are sampled by default; one to these and the photo.
Rings of angle are measured from the photo, in the head's axes.
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
BARE, WITHOUT, WITH = "bare views", "views with its detail", "and the photo"


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


def captures(model: mvp4d.Model, identity: int, folder: Path) -> tuple[mvp4d.Capture, ...]:
    """The studio's views of a person, and the weights' from its photo, bare and as they are by default.

    Those that are there are taken.
    """
    filmed = folder / f"{identity}"
    truth = mvp4d.open_capture(filmed) if filmed.exists() else film(identity, SIDE, folder, FRAMES)
    cameras = resize(truth.cameras[:VIEWS], truth.image_size, (model.facts.image_size,) * 2)
    found = [truth]
    for name, options in (("bare", {"photo_detail": False, "hair_colour": False}), ("generated", {})):
        out = folder / f"{identity}-{name}"
        if not out.exists():
            motion = truth.motion[slice(0, FRAMES)]
            model.sample(truth, motion=motion, cameras=cameras, seed=identity, out=out, **options)
        found.append(mvp4d.open_capture(out))
    return tuple(found)


def measure(model: mvp4d.Model, identity: int, steps: int | None, folder: Path) -> list[dict]:
    """The avatars of one person, view by view."""
    truth, bare, generated = captures(model, identity, folder)
    rows = []
    for number, (method, views) in enumerate(((BARE, bare), (WITHOUT, generated), (WITH, generated))):
        options = {"photos": method == WITH} | ({} if steps is None else {"steps": steps})
        out = folder / f"{identity}-avatar-{number}"
        avatar = mvp4d.distill(views, out=out, preset="cpu", overwrite=True, **options)
        rows += [{"identity": identity, "method": method, **row} for row in score(avatar, truth)]
    return rows


def table(rows: list[dict]) -> str:
    """Mean PSNR and SSIM by ring of the three avatars, and what the last gains, for each person and all of them."""
    methods = (BARE, WITHOUT, WITH)
    header = [f"{methods[0]}: PSNR / SSIM", *methods[1:], f"gain over {BARE}", f"over {WITHOUT}"]
    lines = [f"| person | degrees from the photo | {' | '.join(header)} |", "| --- " * 7 + "|"]
    for person in (*sorted({row["identity"] for row in rows}), None):
        for low, high in RINGS:
            means = []
            for method in methods:
                chosen = [
                    (row["psnr"], row["ssim"])
                    for row in rows
                    if row["method"] == method and person in (None, row["identity"]) and low <= row["angle"] < high
                ]
                means.append(np.mean(chosen, axis=0) if chosen else np.full(2, np.nan))
            cells = [f"{psnr:.2f} / {ssim:.3f}" for psnr, ssim in means]
            cells += ["{:+.2f} / {:+.3f}".format(*(means[2] - other)) for other in means[:2]]
            lines.append(f"| {person or 'all'} | {low} to {min(high, 180):.0f} | {' | '.join(cells)} |")
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
