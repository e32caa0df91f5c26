"""Captures -> training shards of latents, maps and references.

All devices of a host encode. Several processes share the work: the hosts of a TPU slice, GKE or SLURM job
(`--distributed`), or any machines that see the same folders (`--share I/N`: a SLURM array, an indexed job). A run that
was stopped goes on where it was when the same command is given again. Settings are those of `config.prepare`;
`--dry-run` tells what they make. A capture that cannot be prepared ends the run; with `--keep-going` it is left out,
SHARDS/failed.csv says why, and the exit code is 2 when the rest is done.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mvp4d.commands.hosts import add_join_timeout
from mvp4d.core.errors import UserError
from mvp4d.core.shares import SomeFailed, parse_share

TAKES_OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("captures", nargs="+", metavar="CAPTURE", help="capture folders, or folders that hold captures")
    parser.add_argument("--config", required=True, help="name or path; override with --config.prepare.x=y")
    parser.add_argument("--out", required=True, type=Path, help="shards folder to write")
    parser.add_argument("--share", metavar="I/N", help="do every N-th shard from the I-th on")
    parser.add_argument("--keep-going", action="store_true", help="leave out captures that cannot be prepared")
    parser.add_argument("--distributed", action="store_true", help="share with the hosts of a pod, GKE or SLURM job")
    add_join_timeout(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would be made, and stop")


def shares_out(args: argparse.Namespace) -> bool:
    """Processes share the folder; each shard has a lock of its own."""
    return True


def resumes(args: argparse.Namespace) -> bool:
    """Shards that are written are kept."""
    return not args.dry_run


def run(args: argparse.Namespace) -> str:
    from mvp4d_jax.data.options import PrepareOptions
    from mvp4d_jax.data.prepare import autoencoder_identity, describe, prepare
    from mvp4d_jax.models.checkpoint import load_autoencoder
    from mvp4d_jax.models.checkpoint_config import read_autoencoder_config
    from mvp4d_jax.processes import wait_for_all
    from mvp4d_jax.training.config import load_config
    from mvp4d_jax.training.plan import autoencoder_folder, check_prepare, resolve

    config: Any = load_config(args.config, args.overrides)  # a field may hold anything, says its type
    plan = resolve(config)
    check_prepare(config, plan)
    folder = autoencoder_folder(config)
    if folder is None:
        raise UserError(
            "config.autoencoder",
            f"is '{config.autoencoder}'",
            "give --config.autoencoder=FOLDER (config.json, *.safetensors)",
        )
    coder = read_autoencoder_config(folder)
    for name in ("latent_channels", "spatial_compression_ratio", "temporal_compression_ratio"):
        theirs, ours = getattr(coder, name), getattr(plan.autoencoder, name)
        if theirs != ours:
            raise UserError(
                "config.autoencoder",
                f"{folder}: its {name} is {theirs}, that of config.autoencoder_size '{config.autoencoder_size}' {ours}",
                "give an autoencoder of that size, or another config.autoencoder_size here and in training",
            )
    options = PrepareOptions(**config.prepare.to_dict(), photo_angle=plan.sampling.reference_angle)
    if args.distributed and args.share is not None:
        raise UserError("`share`", "and --distributed both deal out the work", "leave one of them out")
    captures, process = find_captures(args.captures), parse_share(args.share or "0/1")
    if args.dry_run:
        return describe(captures, options, coder, plan.conditioning, config.head, process, args.keep_going)
    if args.distributed:
        process = _join(args.join_timeout)
    failed = None
    try:
        said = prepare(
            captures,
            args.out,
            options,
            load_autoencoder(folder)[0],
            plan.conditioning,
            head=config.head,
            identity=autoencoder_identity(folder),
            seed=config.seed,
            process=process,
            keep_going=args.keep_going,
        )
    except SomeFailed as error:  # the work is done
        failed = error
    if args.distributed:
        wait_for_all("prepared")
    if failed is not None:
        raise failed
    return said


def _join(timeout: float) -> tuple[int, int]:
    """(index, count) of this process among those of the job."""
    import jax

    from mvp4d_jax import processes

    processes.initialise_processes(timeout=timeout, otherwise="give `share` I/N")
    return jax.process_index(), jax.process_count()


def find_captures(arguments: list[str]) -> list[Path]:
    """Every argument that is a capture, and every capture in an argument that is a folder of them, in order."""
    found = []
    for argument in map(Path, arguments):
        inside = [] if (argument / "capture.json").is_file() else sorted(argument.glob("*/capture.json"))
        found += [file.parent for file in inside] or [argument]
    return found
