"""Time and quality of a preset, with and without the deformation net.

    mvp4d studio --out out/person --identity 11007 --views 12 --frames 24 --size 128
    python benchmarks/distill.py out/person --preset cpu

Holds out 2 views and 4 frames, fits twice with the same seed, prints both scores and their difference.
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mvp4d_export does, before torch is loaded

import torch

from mvp4d.core.capture import Capture
from mvp4d.core.progress import progress
from mvp4d_export.dataset import Dataset
from mvp4d_export.device import pick_device
from mvp4d_export.distill import Distiller
from mvp4d_export.fit_score import score
from mvp4d_export.presets import PRESETS, adapted, preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--hold-views", type=int, default=2)
    parser.add_argument("--hold-times", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", choices=("with", "without"), help="one of the two fits")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    args = parser.parse_args()
    device = pick_device(args.device)
    data = Dataset.load(
        Capture.open(args.capture), hold_views=args.hold_views, hold_times=args.hold_times, device=device
    )
    config = adapted(preset(args.preset), data.size)
    if args.steps:
        config = dataclasses.replace(config, steps=args.steps)
    configs = {
        "with": config,
        "without": dataclasses.replace(config, avatar=dataclasses.replace(config.avatar, net=None)),
    }
    scores = {}
    for name in [args.only] if args.only else list(configs):
        start, busy = time.perf_counter(), time.process_time()
        fit = Distiller(data, configs[name], seed=args.seed)
        for _ in progress(range(config.steps), what=f"{name} the deformation net", unit="step"):
            fit.train_step()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        scores[name] = score(fit)
        print(
            f"{args.preset}, {name} the deformation net, {device}, {torch.get_num_threads()} threads: {seconds:.0f} s "
            f"({busy:.0f} s of processor time), {fit.avatar.gaussian_count} Gaussians",
            flush=True,
        )
        for group, values in scores[name].items():
            print(f"  {group:<22} PSNR {values['psnr']:6.2f} dB   SSIM {values['ssim']:.4f}", flush=True)
    if len(scores) == 2:
        gain = scores["with"]["held_times_expressive"]["psnr"] - scores["without"]["held_times_expressive"]["psnr"]
        print(f"the deformation net is worth {gain:+.2f} dB on the expressive held-out frames")


if __name__ == "__main__":
    main()
