"""Our video autoencoder against diffusers' on the same weights in the same process: time, and how far they are apart.

    python benchmarks/autoencoder.py                     9 x 128 x 128, the full CogVideoX autoencoder
    python benchmarks/autoencoder.py --size tiny --frames 9 --side 64

Prints one table: wall-clock seconds, and seconds of processor time, which other work on the machine disturbs less. Both
use the accelerator where PyTorch sees one, else the CPU and all of its cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from mvp4d_jax.models.checkpoint import load_autoencoder
from mvp4d_jax.models.config import AutoencoderConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2b", help="tiny, small, 2b or 5b (default 2b)")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--side", type=int, default=128, help="height and width in pixels (default 128)")
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of so many runs counts (default 2)")
    args = parser.parse_args()
    sizes = AutoencoderConfig.named(args.size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    theirs = (
        AutoencoderKLCogVideoX(
            block_out_channels=sizes.block_out_channels,
            layers_per_block=sizes.layers_per_block,
            norm_num_groups=sizes.norm_num_groups,
        )
        .eval()
        .requires_grad_(False)
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder) / "vae")
        ours, _ = load_autoencoder(Path(folder) / "vae")
    theirs.to(device)

    video = np.random.default_rng(0).uniform(-1, 1, (1, args.frames, args.side, args.side, 3)).astype(np.float32)
    video_torch = torch.from_numpy(video).permute(0, 4, 1, 2, 3).contiguous().to(device)
    video_jax = jnp.asarray(video)

    def theirs_encode() -> torch.Tensor:
        return _wait(theirs.encode(video_torch).latent_dist.parameters)

    moments = theirs_encode()
    latents_torch = moments[:, : sizes.latent_channels].contiguous()
    latents_jax = jnp.asarray(latents_torch.permute(0, 2, 3, 4, 1).cpu().numpy())
    rows = [
        ("encode", theirs_encode, lambda: jax.block_until_ready(ours.encode(video_jax))),
        (
            "decode",
            lambda: _wait(theirs.decode(latents_torch).sample),
            lambda: jax.block_until_ready(ours.decode(latents_jax)),
        ),
    ]
    print(
        f"{args.size} autoencoder, 1 x {args.frames} x {args.side} x {args.side}, float32; "
        f"PyTorch on {device} ({torch.get_num_threads()} threads), JAX on {jax.default_backend()}"
    )
    print(f"{'':8}{'diffusers':>12}{'ours':>12}{'ratio':>8}{'ours f/s':>10}{'CPU time ratio':>16}{'rel. error':>12}")
    total = np.zeros((2, 2))
    for name, run_theirs, run_ours in rows:
        reference, result = run_theirs(), run_ours()  # the first run compiles
        reference = reference.permute(0, 2, 3, 4, 1).cpu().numpy()
        error = np.linalg.norm(result - reference) / np.linalg.norm(reference)
        seconds = np.array([_fastest(run_theirs, args.repeats), _fastest(run_ours, args.repeats)])
        total += seconds
        _print_row(name, seconds, args.frames, f"{error:.1e}")
    _print_row("both", total, args.frames, "")


def _wait(result: torch.Tensor) -> torch.Tensor:
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def _fastest(run: Callable[[], object], repeats: int) -> np.ndarray:
    """[wall-clock, processor] seconds."""
    times = []
    for _ in range(repeats):
        began = np.array([time.perf_counter(), time.process_time()])
        run()
        times.append(np.array([time.perf_counter(), time.process_time()]) - began)
    return np.min(times, axis=0)


def _print_row(name: str, seconds: np.ndarray, frames: int, error: str) -> None:
    (theirs, theirs_cpu), (ours, ours_cpu) = seconds
    print(
        f"{name:8}{theirs:10.3f} s{ours:10.3f} s{ours / theirs:8.2f}{frames / ours:10.1f}"
        f"{ours_cpu / theirs_cpu:16.2f}{error:>12}",
        flush=True,
    )


if __name__ == "__main__":
    main()
