"""Times the CPU compositor forward and backward: `python benchmarks/compositor.py [--gaussians N] [--sizes 128 256]`.

Gaussians lie on a sphere that fills most of the picture, with the sizes and opacities of a fitted avatar.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mvp4d_export does, before torch is loaded

import torch

from mvp4d_export.rasterize import rasterize


def scene(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random Gaussians on a sphere of radius 0.1 m, one camera at 0.6 m."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 0.1
    return {
        "means": means,
        "quaternions": torch.randn(count, 4, generator=generator),
        "scales": torch.rand(count, 3, generator=generator) * 0.003 + 0.0005,
        "opacities": torch.rand(count, generator=generator) * 0.8 + 0.1,
        "colours": torch.rand(count, 3, generator=generator),
    }


def camera(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """World-to-camera and intrinsics of a frontal camera whose picture the sphere fills to three quarters."""
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    viewmat[2, 3] = 0.6
    focal = size * 0.375 / 0.1 * 0.6
    return viewmat[None], torch.tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gaussians", type=int, default=10000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in args.sizes:
        tensors = {name: value.requires_grad_() for name, value in scene(args.gaussians).items()}
        viewmat, K = camera(size)
        forward, total = [], []
        for _ in range(args.repeats + 2):
            start = time.perf_counter()
            result = rasterize(**tensors, viewmats=viewmat, Ks=K, width=size, height=size)
            forward.append(time.perf_counter() - start)
            result.rgb.square().mean().backward()
            total.append(time.perf_counter() - start)
        forward, total = sorted(forward[2:]), sorted(total[2:])
        print(
            f"{args.gaussians} Gaussians {size}x{size}: forward {1e3 * forward[len(forward) // 2]:.1f} ms, "
            f"forward + backward {1e3 * total[len(total) // 2]:.1f} ms (best {1e3 * total[0]:.1f})"
        )


if __name__ == "__main__":
    main()
