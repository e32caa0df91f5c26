"""Measures a capture against another: PSNR, SSIM, by angle from the reference, consistency across views, flicker.

Writes evaluation.json and evaluation.html beside each other and says which measures were left out, and why.
"""

from __future__ import annotations

import argparse
from pathlib import Path

REPORT = ("evaluation.json", "evaluation.html")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", help="the capture to measure")
    parser.add_argument("--against", required=True, metavar="CAPTURE", help="the ground truth")
    parser.add_argument("--out", metavar="DIR", help="where to write the report (default: the capture's own folder)")
    parser.add_argument("--lpips", metavar="FILE", help="safetensors with VGG-16 features and lpips layers, for LPIPS")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parser.add_argument("--baselines", action="store_true",
                        help="also score the truth's reference image repeated, and painted onto the truth's rig")


def run(args: argparse.Namespace) -> str:
    import mvp4d
    from mvp4d.core.files import write_json
    from mvp4d.core.outputs import add_to_marker, check_file

    folder = Path(args.out or args.capture)
    for name in REPORT:
        check_file(folder / name, args.overwrite)
    capture, truth = mvp4d.open_capture(args.capture), mvp4d.open_capture(args.against)
    scores = mvp4d.evaluate(capture, truth, lpips=args.lpips, baselines=args.baselines)
    from mvp4d_jax.evaluation.report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT[0], {"format": "mvp4d-evaluation", **scores})
    write_report(folder / REPORT[1], scores, capture, truth)
    add_to_marker(folder, *REPORT)
    mean = scores["mean"]
    return (f"PSNR {mean['psnr']:.2f} dB, SSIM {mean['ssim']:.3f} over {len(scores['views'])} views; "
            f"left out: {', '.join(scores['left_out'])}; see {folder / 'evaluation.html'}")
