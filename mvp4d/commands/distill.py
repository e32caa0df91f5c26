"""Fits a 4D Gaussian avatar to a capture.

Presets: cpu (minutes on two cores, for captures of about 128 x 128), low (a small GPU), default (one GPU, minutes),
high (one GPU, hours). The avatar folder holds report.json with the scores of held-out views and times.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mvp4d.core.errors import UserError
from mvp4d_export.presets import PRESETS, DistillConfig, adapted, preset

if TYPE_CHECKING:
    from mvp4d_export.distill import Distiller


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", type=Path, help="capture folder")
    parser.add_argument("--out", type=Path, required=True, help="avatar folder to write")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="default: 'default' with CUDA, else 'cpu'")
    parser.add_argument("--hold-views", type=int, default=0, metavar="N", help="views left out of the fit and scored")
    parser.add_argument("--hold-times", type=int, default=0, metavar="N", help="frames left out of the fit and scored")
    parser.add_argument("--steps", type=int, help="optimiser steps in place of the preset's")
    parser.add_argument("--views-per-step", type=int, metavar="N", help="views of a moment per step (0: all)")
    parser.add_argument("--densify", choices=("default", "mcmc", "none"), help="how the set of Gaussians grows")
    parser.add_argument("--no-deformation", action="store_true", help="rig and Gaussians only, no deformation net")
    parser.add_argument("--antialiased", action="store_true", help="fit and render with Mip-Splatting's compensation")
    parser.add_argument(
        "--colour-correction",
        action="store_true",
        help="learn a colour transform per view (generated views differ in exposure)",
    )
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="safetensors file with VGG-16 and LPIPS weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace an avatar that is already there")


def run(args: argparse.Namespace) -> str:
    """Checks everything cheap first, then fits."""
    if args.out.exists() and not (args.overwrite and (args.out / "avatar.json").is_file()):
        raise UserError(args.out, "is already there", "choose another name, or give --overwrite to replace an avatar")
    from mvp4d.core.capture import Capture
    from mvp4d_export.dataset import Dataset
    from mvp4d_export.device import guard_memory, pick_device
    from mvp4d_export.distill import Distiller
    from mvp4d_export.fitting import distill, perceptual_term
    from mvp4d_export.losses import Lpips

    device = pick_device(args.device)
    name = args.preset or ("default" if device == "cuda" else "cpu")
    capture = Capture.open(args.capture)
    config = configured(adapted(preset(name), capture.image_size), args)
    lpips = Lpips(args.lpips) if args.lpips else None
    if lpips is None:
        print(f"perceptual term: {perceptual_term(config, False)}", file=sys.stderr)
    with guard_memory("a smaller --preset, --views-per-step, or --device cpu"):
        data = Dataset.load(capture, hold_views=args.hold_views, hold_times=args.hold_times, device=device)
        fit = Distiller(data, config, seed=args.seed, lpips=lpips, colour_correction=args.colour_correction)
        print(describe(fit, name), file=sys.stderr)
        report = distill(fit, args.out, overwrite=args.overwrite)
    lines = [
        f"  {group:<22} PSNR {values['psnr']:6.2f} dB   SSIM {values['ssim']:.4f}   ({values['pictures']} pictures)"
        for group, values in report["scores"].items()
    ]
    return "\n".join([*lines, f"avatar: {args.out} ({report['gaussians']} Gaussians, {report['seconds']:.0f} s)"])


def describe(fit: Distiller, name: str) -> str:
    """One line: what is about to be fitted to what."""
    data, config = fit.data, fit.config
    return (
        f"fitting {fit.avatar.gaussian_count} Gaussians ({fit.on_hull} off the rig) to {len(data.train_views)} views x "
        f"{len(data.train_times)} frames of {data.size[1]} x {data.size[0]}: {config.steps} steps, preset {name}, "
        f"{fit.device}"
    )


def configured(config: DistillConfig, args: argparse.Namespace) -> DistillConfig:
    """The preset with the flags' changes."""
    avatar = config.avatar
    if args.no_deformation:
        avatar = dataclasses.replace(avatar, net=None)
    if args.antialiased:
        avatar = dataclasses.replace(avatar, antialiased=True)
    changes: dict = {"avatar": avatar}
    if args.steps is not None:
        if args.steps < 1:
            raise UserError("--steps", f"{args.steps} is no number of steps")
        changes["steps"] = args.steps
    if args.views_per_step is not None:
        if args.views_per_step < 0:
            raise UserError("--views-per-step", f"{args.views_per_step} is no number of views")
        changes["views"] = args.views_per_step
    if args.densify is not None:
        changes["densify"] = dataclasses.replace(config.densify, strategy=args.densify)
    return dataclasses.replace(config, **changes)
