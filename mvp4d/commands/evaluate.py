"""Measures a capture against another: PSNR, SSIM, by angle from the reference, consistency across views, flicker; or a
capture or an avatar against the photos of its person: likeness by angle, of an avatar at the photos' own views, too.

  mvp4d evaluate CAPTURE --against CAPTURE
  mvp4d evaluate CAPTURE --against PERSON
  mvp4d evaluate AVATAR --against PERSON --motion drive.npz

Writes evaluation.json and evaluation.html beside each other, of an avatar also photo_NN.png for each photo, and says
which measures were left out, and why.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvp4d.core.words import counted, signed

REPORT = ("evaluation.json", "evaluation.html")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", metavar="CAPTURE|AVATAR", help="what to measure")
    parser.add_argument(
        "--against",
        required=True,
        metavar="CAPTURE|PERSON",
        help="the ground truth; or the person's folder (of an avatar, also a capture that keeps the photos)",
    )
    parser.add_argument("--out", metavar="DIR", help="where to write the report (default: the capture's own folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parser.add_argument("--lpips", metavar="FILE", help="safetensors with VGG-16 features and lpips layers, for LPIPS")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also score the truth's reference image repeated, and painted onto the truth's rig",
    )
    parser.add_argument(
        "--likeness",
        action="store_true",
        help="CSIM of faces (against a person, always): fetches dlib's descriptors on first use, 240 MB",
    )
    parser.add_argument(
        "--jod",
        action="store_true",
        help="JOD: fetches FovVideoVDP on first use (CC BY-NC 4.0: not for commercial use)",
    )
    parser.add_argument("--motion", metavar="FILE", help="what an avatar does while it is measured (default: its own)")


def run(args: argparse.Namespace) -> str:
    from mvp4d.core.capture.portrait import is_person
    from mvp4d.core.errors import UserError
    from mvp4d.core.outputs import check_file

    avatar = (Path(args.capture) / "avatar.json").is_file()
    kind = "an avatar" if avatar else "views against photos" if is_person(args.against) else "a capture"
    measure, *foreign = KINDS[kind]
    for name in foreign:
        if getattr(args, name):
            raise UserError(f"--{name}", f"is not for measuring {kind}", "leave it out")
    folder = Path(args.out or args.capture)
    for name in REPORT:
        check_file(folder / name, args.overwrite)
    return measure(args, folder)


def _capture(args: argparse.Namespace, folder: Path) -> str:
    import mvp4d
    from mvp4d_jax.evaluation.report import write_report

    capture, truth = mvp4d.open_capture(args.capture), mvp4d.open_capture(args.against)
    scores = mvp4d.evaluate(
        capture, truth, lpips=args.lpips, baselines=args.baselines, likeness=args.likeness, jod=args.jod
    )
    _keep(folder, scores)
    write_report(folder / REPORT[1], scores, capture, truth)
    _finish(folder)
    mean, views = scores["mean"], counted(len(scores["views"]), "view")
    return (
        f"PSNR {mean['psnr']:.2f} dB, SSIM {mean['ssim']:.3f} over {views}; "
        f"left out: {', '.join(scores['left_out'])}; see {folder / 'evaluation.html'}"
    )


def _views(args: argparse.Namespace, folder: Path) -> str:
    import mvp4d
    from mvp4d.likeness import measure_views
    from mvp4d_jax.evaluation.likeness_report import write_likeness

    found = measure_views(mvp4d.open_capture(args.capture), args.against)
    _keep(folder, found.scores)
    write_likeness(folder / REPORT[1], found.scores, found.pairs)
    _finish(folder)
    return _distances(found.scores["likeness"], folder)


def _avatar(args: argparse.Namespace, folder: Path) -> str:
    import mvp4d
    from mvp4d.core.outputs import check_file
    from mvp4d.likeness import find_portrait, measure_avatar
    from mvp4d_jax.evaluation.likeness_report import pair_names, save_pairs, write_likeness

    portrait = find_portrait(args.against)
    pictures = pair_names(len(portrait.photos))
    for name in pictures:
        check_file(folder / name, args.overwrite)
    found = measure_avatar(mvp4d.open_avatar(args.capture), portrait, motion=args.motion)
    _keep(folder, found.scores)
    save_pairs(folder, found.pairs)
    write_likeness(folder / REPORT[1], found.scores, found.pairs)
    _finish(folder, *pictures)
    if "likeness" not in found.scores:
        return f"CSIM left out: {found.scores['left_out']['CSIM']}; see {folder / 'evaluation.html'}"
    return _distances(found.scores["likeness"], folder)


def _distances(likeness: dict, folder: Path) -> str:
    rows = [row for row in likeness["views"] if row["distance"] is not None]
    by_angle = ", ".join(f"{signed(row['angle'])}: {row['distance']:.2f}" for row in rows)
    return (
        f"distance of face descriptors to {likeness['reference']} by degrees to the side: "
        f"{by_angle or 'no face found'} (0.6 is the limit of the same person); see {folder / 'evaluation.html'}"
    )


def _keep(folder: Path, scores: dict) -> None:
    from mvp4d.core.files import write_json

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT[0], {"format": "mvp4d-evaluation", **scores})


def _finish(folder: Path, *more: str) -> None:
    from mvp4d.core.outputs import add_to_marker

    add_to_marker(folder, *REPORT, *more)


# What is measured -> how, and the flags that are not for it.
KINDS = {
    "an avatar": (_avatar, "lpips", "baselines", "jod"),
    "views against photos": (_views, "lpips", "baselines", "jod", "motion"),
    "a capture": (_capture, "motion"),
}
