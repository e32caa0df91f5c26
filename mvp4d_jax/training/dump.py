"""What is left of a step whose loss was not finite: enough to run it again and look."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mvp4d.core.files import atomic_file, write_json
from mvp4d.core.places import is_remote
from mvp4d_jax.training.state import TrainState


def write(workdir: Path, step: int, state: TrainState, batch: dict[str, np.ndarray], result: dict[str, Any]) -> Path:
    """Writes `dump-step-N/`: every process's rows of the batch, the metrics, the state as it was before the step."""
    folder = workdir / f"dump-step-{step}"
    folder = folder if is_remote(folder) else folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / f"batch-{jax.process_index()}.npz") as temporary:
        np.savez(temporary, **batch)
    if jax.process_index() == 0:
        write_json(folder / "metrics.json", {"step": step, **{name: repr(value) for name, value in result.items()}})
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            folder / "state",
            {field.name: getattr(state, field.name) for field in dataclasses.fields(state)},
            force=True,
        )
    return folder
