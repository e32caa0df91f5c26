"""How well the model does on held-out identities: a loss with the same samples and noise every time."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Batches, local_rows
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.training.metrics import MetricsLog
from mvp4d_jax.training.plan import Plan
from mvp4d_jax.training.state import ModelTemplate, TrainState
from mvp4d_jax.training.step import MODEL_INPUTS, loss_of, noisy_batch


class Validation:
    """Runs on every process: the EMA's loss on the last stage's mixture of held-out scenes.

    Args:
      held_out: opened validation shards; none: nothing is measured.
    """

    def __init__(self, config: ml_collections.ConfigDict, plan: Plan, template: ModelTemplate, held_out: list[Shards],
                 mesh: Mesh):
        self.active = bool(held_out) and config.validation.batches > 0
        if not self.active:
            return
        stage = plan.stages[-1]
        self._layouts, rows = {}, {}
        with parallel.use_mesh(mesh):
            for modality in stage.modalities:
                layout = NamedSharding(mesh, parallel.fit_spec((modality.batch,), ("batch",)))
                self._layouts[modality.kind], rows[modality.kind] = layout, local_rows(layout, modality.batch)
        self._batches = Batches(held_out, stage.modalities, plan.sampling, plan.conditioning,
                                steps=config.validation.batches, seed=config.seed, rows=rows)
        schedule = NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift)

        def loss(params: Any, key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
            return loss_of(template.model(params), noisy_batch(key, batch, plan.loss, schedule))

        self._loss = jax.jit(loss)

    def run(self, state: TrainState, step: int, metrics: MetricsLog) -> float:
        """Measures, writes a line, and returns the mean loss."""
        losses: dict[str, list[float]] = {}
        for index in range(len(self._batches)):
            modality = self._batches.modality(index)
            local = self._batches[index]
            placed = {name: jax.make_array_from_process_local_data(
                self._layouts[modality.kind], local[name], (modality.batch, *local[name].shape[1:]))
                for name in MODEL_INPUTS}
            value = float(self._loss(state.ema, jax.random.key(index), placed))
            losses.setdefault(modality.kind, []).append(value)
        mean = float(np.mean([value for values in losses.values() for value in values]))
        metrics.write(step, {"validation_loss": mean,
                             **{f"validation_loss_{kind}": float(np.mean(values)) for kind, values in losses.items()}})
        return mean
