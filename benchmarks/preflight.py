"""Preflight over the topologies that the docs speak of: one table, and the scaling from 64 to 512 chips.

    python benchmarks/preflight.py [--quick]

Every line is `mvp4d preflight` with the arguments shown. Scaling keeps the work per chip: eight times the chips, eight
times the samples, along the mesh's data axis. `s` are the seconds that a step takes at least: products at the device's
peak (attention at what its heads of 64 leave of it), and what the links need beside that for what is moved.
"""

from __future__ import annotations

import argparse

from mvp4d.core.errors import UserError
from mvp4d_jax.devices import GIB
from mvp4d_jax.preflight.preflight import Topology, least_seconds, preflight

VIEWS = "--config.stages.full.mixture.multiview.views={}"
BATCH = "--config.stages.full.mixture.multiview.batch={}"
KIND = {"stage": "full", "kind": "multiview"}
TRAIN = ["v5p:4x4x4", "v5p:2x2x2", "v5p:8x8x8", "v6e:8x8", "v6e:16x16", "v5e:4x4", "v5e:16x16"]
JOBS = [
    *((topology, "train", [], {}) for topology in TRAIN),
    ("v5p:4x4x8", "train", [VIEWS.format(16)], {}),
    ("v5e:4x4", "sample", [], {}),
    ("v6e:2x4", "sample", [], {}),
    ("v5p:2x2x2", "sample", [], {"views": 16}),
    ("v5p:4x4x4", "sample", [], {"views": 32}),
    ("rtx4090:1", "sample", [], {"views": 48, "mesh": (1, 1, 1)}),
]
SCALING = [("v5p:4x4x4", ["--config.mesh=1,8,8"]), ("v5p:8x8x8", ["--config.mesh=8,8,8", BATCH.format(64)])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first job alone")
    args = parser.parse_args()
    print(
        f"{'topology':<11}{'job':<7}{'part':<11}{'GiB':>7}{'limit':>8}{'TFLOP':>9}{'kernels':>9}{'GB moved':>10}"
        f"{'s':>8}{'s moved':>9}{'compile':>9}{'cpu s':>7}  changes"
    )
    for text, job, overrides, sampling in JOBS[: 1 if args.quick else None]:
        _print(text, job, overrides, sampling)
    if not args.quick:
        small, large = (_print(text, "train", overrides, {}) for text, overrides in SCALING)
        if small and large:
            flops = large["flops"] / small["flops"] - 1
            moved = sum(large["collective_bytes"].values()) / sum(small["collective_bytes"].values()) - 1
            print(f"64 -> 512 chips at constant work per chip: FLOPs {flops:+.1%}, moved bytes {moved:+.1%}")


def _print(text: str, job: str, overrides: list[str], sampling: dict) -> dict | None:
    try:
        topology = Topology.parse(text)
        reports = preflight("mvp4d_2b", overrides, topology, job, sampling=sampling, **KIND)
    except UserError as error:
        print(f"{text:<11}{job:<7}{error}", flush=True)
        return None
    for report in reports:
        computed, moved = least_seconds(report, topology.device)
        print(
            f"{text:<11}{job:<7}{report['part']:<11}{report['total'] / GIB:>7.2f}{report['limit'] / GIB:>8.2f}"
            f"{report['flops'] / 1e12:>9.1f}{report['kernel_flops'] / 1e12:>9.1f}"
            f"{sum(report['collective_bytes'].values()) / 1e9:>10.2f}{computed:>8.2f}{moved:>9.2f}"
            f"{report['seconds']:>9.0f}{report['processor_seconds']:>7.0f}  "
            f"{' '.join([*overrides, *(f'{key}={value}' for key, value in sampling.items())])}"
            f"{'' if report['fits'] else '  DOES NOT FIT'}",
            flush=True,
        )
    return reports[0]


if __name__ == "__main__":
    main()
