"""How fast the input pipeline is by itself, and how long the tiny step waits for it.

    python benchmarks/pipeline.py SHARDS [--config tiny] [--seconds 20] [--threads 1] [--workers 0]

Prints samples/s, batches/s and MB/s of every kind of data, read alone, and the processor time of a sample (which other
work on the machine changes little; with --workers 0 only). The step's wait is in a run's metrics.jsonl
(`data_wait`):
    mvp4d train --config tiny --config.data.shards=SHARDS --workdir RUN
"""

from __future__ import annotations

import argparse
import time

from mvp4d_jax.data.pipeline import Batches, iterate
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    plan = resolve(load_config(args.config))
    folders = [Shards.open(path) for path in args.shards]
    stage = plan.stages[-1]
    print(
        f"{'kind':<12}{'batch':>6}{'views':>6}{'latents':>8}{'samples/s':>11}{'batches/s':>11}{'MB/s':>8}{'CPU ms':>8}"
    )
    for modality in stage.modalities:
        batches = Batches(folders, [modality], plan.sampling, plan.conditioning, steps=100_000, seed=0)
        stream = iterate(batches, 0, threads=args.threads, workers=args.workers)
        size = sum(value.nbytes for value in next(stream).values())
        began, worked, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < args.seconds / len(stage.modalities):
            next(stream)
            count += 1
        rate = count / (time.perf_counter() - began)
        cost = 1e3 * (time.process_time() - worked) / count / modality.batch
        print(
            f"{modality.kind:<12}{modality.batch:>6}{modality.views:>6}{modality.latents:>8}"
            f"{rate * modality.batch:>11.1f}{rate:>11.2f}{rate * size / 1e6:>8.1f}{cost:>8.2f}"
        )


if __name__ == "__main__":
    main()
