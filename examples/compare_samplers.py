"""What a sampler setting is worth: quality against ground truth, over numbers of steps.

python examples/compare_samplers.py --steps 1 4 24
"""

import argparse
import tempfile
import time

import mvp4d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--identity", type=int, default=11004, help="a test person of the studio")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 24])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=9)
    args = parser.parse_args()
    model = mvp4d.load(args.weights)
    with tempfile.TemporaryDirectory() as folder, mvp4d.silence():
        truth = mvp4d.film(args.identity, f"{folder}/truth", frames=args.frames, size=model.facts.image_size)
        for steps in args.steps:
            began = time.monotonic()
            views = model.sample(
                truth, motion=truth, cameras=truth, steps=steps, guidance=args.guidance, out=f"{folder}/{steps}"
            )
            seconds = time.monotonic() - began
            mean = mvp4d.evaluate(views, truth)["mean"]
            print(f"{steps:4} steps  {seconds:6.1f} s  PSNR {mean['psnr']:.2f} dB  SSIM {mean['ssim']:.3f}", flush=True)


if __name__ == "__main__":
    main()
