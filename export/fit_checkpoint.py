"""A fit's state on disk: written while it runs, taken up by the same fit after a stop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file
from mvp4d.core.progress import say
from mvp4d_export.avatar import GAUSSIAN_TENSORS
from mvp4d_export.distill import Distiller
from mvp4d_export.tensors import read_tensors

VERSION = 4  # of what a checkpoint holds


def fingerprint(fit: Distiller) -> str:
    """What a checkpoint must agree on to be resumed."""
    capture = fit.data.capture
    parts = (
        VERSION,
        json.dumps(dataclasses.asdict(fit.config), default=str),
        fit.seed,
        fit.data.digest,
        capture.names,
        fit.data.held_views,
        fit.data.held_frames,
        fit.colour_correction,
        fit.lpips is not None,
        None if fit.photos is None else fit.photos.photos.digest,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def save_checkpoint(fit: Distiller, folder: Path) -> None:
    """Writes the state of a fit to `folder`/checkpoint.safetensors, atomically."""
    tensors = {f"parameters.{name}": value.detach() for name, value in fit.parameters().items()}
    tensors |= {f"optimiser.{name}": value for name, value in fit.optimiser.tensors().items()}
    tensors |= {
        "binding": fit.avatar.binding,
        "start": fit.start,
        "limits.size": fit.limits[0],
        "limits.away": fit.limits[1],
        "statistics.gradient": fit.statistics.gradient,
        "statistics.seen": fit.statistics.seen,
    }
    if fit.photos is not None:
        tensors |= {f"photos.{name}": value for name, value in fit.photos.state().items()}
    metadata = {
        "fingerprint": fingerprint(fit),
        "step": str(fit.step_done),
        "average": repr(fit.average),
        "best": repr(fit.best),
        "finished": str(int(fit.finished)),
    }
    with atomic_file(folder / "checkpoint.safetensors") as path:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path, metadata)


def load_checkpoint(fit: Distiller, folder: Path) -> bool:
    """Goes on from a checkpoint of the same fit; False when there is none or it is of another."""
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
        tensors = {name: value.to(fit.device) for name, value in read_tensors(path).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(path, f"not a readable checkpoint ({error})", "delete it to start over") from None
    if metadata.get("fingerprint") != fingerprint(fit):
        say("note: the fit that was stopped here had other settings or pictures: this one begins anew")
        return False
    try:
        _recall(fit, tensors, metadata)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, ValueError, RuntimeError, IndexError) as error:  # a name that lacks, a shape that differs
        raise UserError(path, f"is damaged ({str(error)[:100]})", "delete it to start over") from None
    say(f"going on from step {fit.step_done}")
    return True


def _recall(fit: Distiller, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Takes up the state of a checkpoint."""
    learned = [f"parameters.{name}" for name in GAUSSIAN_TENSORS]
    per_gaussian = ["binding", "start", "limits.size", "limits.away", *learned]
    if len({len(tensors[name]) for name in per_gaussian}) > 1:
        raise ValueError("its tensors hold different numbers of Gaussians")
    fit.avatar.set_gaussians(tensors["binding"], {name: tensors[f"parameters.{name}"] for name in GAUSSIAN_TENSORS})
    with torch.no_grad():
        for name, value in fit.parameters().items():
            value.copy_(tensors[f"parameters.{name}"])
    fit.optimiser.load(_below("optimiser.", tensors), fit.device)
    fit.start = tensors["start"]
    if fit.photos is not None:
        fit.photos.load_state(_below("photos.", tensors))
    fit.limits = tensors["limits.size"], tensors["limits.away"]
    fit.statistics.gradient, fit.statistics.seen = tensors["statistics.gradient"], tensors["statistics.seen"]
    fit.step_done, fit.best = int(metadata["step"]), float(metadata["best"])
    fit.finished = metadata["finished"] == "1"
    fit.average = None if metadata["average"] == "None" else float(metadata["average"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
