"""Train on a device mesh: all stages of a config, from wherever the workdir stands.

Run the same command again to go on after a stop, a preemption or a crash. Settings are changed with
`--config.group.name=value`. On several hosts start the same command on each: on TPU VMs, GKE and SLURM they find each
other (`--distributed`); elsewhere give --coordinator, --processes and --process. `--export OUT` writes the weights
instead of training.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from mvp4d.commands.hosts import add_host_flags, join_hosts
from mvp4d.core.errors import UserError
from mvp4d.core.host import has_accelerator, keep_freed_memory
from mvp4d.core.outputs import check_workdir
from mvp4d.core.places import place, reach

TAKES_OVERRIDES = True
IN_BUCKETS = ("config", "workdir", "export")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        help="tiny, tiny_128, small, mvp4d_2b, their _turbo students, tiny_autoencoder, or a path",
    )
    parser.add_argument(
        "--workdir", required=True, help="checkpoints, metrics and the resolved config; a folder, or gs://BUCKET/PATH"
    )
    add_host_flags(parser)
    parser.add_argument("--no-memory-check", action="store_true", help="start without asking whether the step fits")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would be done, and stop")
    parser.add_argument("--export", type=Path, metavar="OUT", help="write a release folder from a checkpoint and stop")
    parser.add_argument("--overwrite", action="store_true", help="with --export: replace a release that is there")
    parser.add_argument("--step", help="with --export: latest (default), best (not of autoencoders), or a step")


def resumes(args: argparse.Namespace) -> bool:
    """From the newest checkpoint; an export starts over."""
    return not args.dry_run and args.export is None


def run(args: argparse.Namespace) -> str:
    _refuse_mixed(args)
    workdir = place(args.workdir)
    check_workdir(workdir)
    reach(args.workdir)
    if not has_accelerator():
        keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("orbax", "jax", "grain"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _quiet_orbax()
    if args.export is not None:
        return _export(args, workdir)
    join_hosts(args)

    from mvp4d_jax.processes import hold_together
    from mvp4d_jax.programs import keep_programs
    from mvp4d_jax.training.config import load_config

    config = load_config(args.config, args.overrides)
    if not args.dry_run:
        keep_programs(workdir / "compilation_cache")
    if config.get("job") == "autoencoder":
        from mvp4d_jax.training.autoencoder import train_autoencoder

        if args.dry_run:
            raise UserError("--dry-run", "is of no use to the autoencoder's training", "leave it out")
        with hold_together(workdir):
            return train_autoencoder(config, workdir)
    from mvp4d_jax.training.loop import train

    with contextlib.nullcontext() if args.dry_run else hold_together(workdir):
        return train(config, workdir, check_memory=not args.no_memory_check, dry_run=args.dry_run)


def _refuse_mixed(args: argparse.Namespace) -> None:
    """Refuses flags of training with --export, and flags of an export without."""
    if args.export is not None and args.dry_run:
        raise UserError("--dry-run", "is of no use to an export", "leave one of them out")
    given = "--step" if args.step is not None else "--overwrite" if args.overwrite else None
    if args.export is None and given:
        raise UserError(given, "belongs to --export", "leave it out, or give --export OUT")


def _export(args: argparse.Namespace, workdir: Any) -> str:
    """Writes a release; of several processes the first does, through the memory of its host alone."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # an accelerator of the host may be busy, or one of a pod's
    join_hosts(args)

    from mvp4d_jax.processes import is_first, wait_for_all
    from mvp4d_jax.training.autoencoder import export_autoencoder
    from mvp4d_jax.training.config import load_config
    from mvp4d_jax.training.release import export_release

    config = load_config(args.config, args.overrides)
    said, step = f"process 0 writes {args.export}", _step(args.step or "latest")
    if is_first():
        export = export_autoencoder if config.get("job") == "autoencoder" else export_release
        said = export(config, workdir, args.export, step, overwrite=args.overwrite)
    wait_for_all("exported")
    return said


def _quiet_orbax() -> None:
    """A write that failed is raised again in the loop and told in one line: no traces of Orbax's threads beside it."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of every checkpoint without a validation loss
    logging.getLogger("absl").addFilter(lambda record: record.exc_info is None)
    # Writes that failed beside the one that is told, and were not waited for.
    logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)

    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:  # tasks of a write that was given up, coming back to a loop that is gone
        if "Event loop is closed" not in str(unraisable.exc_value):
            report(unraisable)

    sys.unraisablehook = hook


def _step(text: str) -> str | int:
    if text in ("latest", "best"):
        return text
    if not (text.isascii() and text.isdigit() and len(text) < 13):
        raise UserError("--step", f"'{text}' is no step", "give latest, best or a number")
    return int(text)
