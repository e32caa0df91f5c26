"""Fits a 4D Gaussian avatar to a capture.

Presets: cpu (minutes on two cores, for captures of about 128 x 128), low (a small GPU), default (one GPU, minutes),
high (one GPU, hours). The avatar folder holds report.json with the scores of held-out views and frames.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

PRESETS = ("cpu", "low", "default", "high")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", type=Path, help="capture folder")
    parser.add_argument("--out", type=Path, required=True, help="avatar folder to write")
    parser.add_argument("--preset", choices=PRESETS, help="default: 'default' with CUDA, else 'cpu'")
    parser.add_argument("--hold-views", type=int, default=0, metavar="N", help="views left out of the fit and scored")
    parser.add_argument("--hold-times", type=int, default=0, metavar="N", help="frames left out of the fit and scored")
    parser.add_argument("--steps", type=int, help="optimiser steps in place of the preset's")
    parser.add_argument("--views-per-step", type=int, metavar="N", help="views of a frame per step (0: all)")
    parser.add_argument("--densify", choices=("default", "mcmc", "none"), help="how the set of Gaussians grows")
    parser.add_argument(
        "--no-deformation", dest="deformation", action="store_false", help="rig and Gaussians only, no deformation net"
    )
    parser.add_argument("--antialiased", action="store_true", help="fit and render with Mip-Splatting's compensation")
    parser.add_argument(
        "--colour-correction",
        action="store_true",
        help="learn a colour transform per view (generated views differ in exposure)",
    )
    parser.add_argument(
        "--no-photos",
        dest="photos",
        action="store_false",
        help="leave out the photos that the capture keeps of the person",
    )
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="safetensors file with VGG-16 and LPIPS weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace an avatar that is already there")


def resumes(args: argparse.Namespace) -> bool:
    """A fit that is stopped leaves a checkpoint."""
    return True


def run(args: argparse.Namespace) -> str:
    import mvp4d

    options = {name: value for name, value in vars(args).items() if name != "capture"}
    report = mvp4d.distill(args.capture, **options).report
    lines = [
        f"  {group:<22} PSNR {score['psnr']:6.2f} dB   SSIM {score['ssim']:.4f}   ({score['pictures']} pictures)"
        for group, score in report["scores"].items()
    ]
    made = f"avatar: {args.out} ({report['gaussians']} Gaussians, {report['seconds']:.0f} s)"
    return "\n".join([*lines, f"{made}; next: mvp4d view {shlex.quote(str(args.out))}"])
