"""How well the model does on held-out identities: a loss with the same noise every time, and a sample to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from PIL import Image

from mvp4d.core.files import atomic_file
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Batches, Modality
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.diffusion.guidance import GuidanceConfig, guide, keep_conditions
from mvp4d_jax.diffusion.samplers import SamplerConfig, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.checkpoint import load_autoencoder
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.metrics import MetricsLog
from mvp4d_jax.training.plan import Plan, autoencoder_folder
from mvp4d_jax.training.state import ModelTemplate, TrainState
from mvp4d_jax.training.step import loss_of, noisy_batch


class Validation:
    """Runs on every process, with the moving average of the weights, on the last stage's mixture of held-out scenes.

    Args:
      held_out: opened validation shards; none: nothing is measured.
      workdir: where pictures of samples go (`samples/`).
    """

    def __init__(self, config: ml_collections.ConfigDict, plan: Plan, template: ModelTemplate, held_out: list[Shards],
                 mesh: Mesh, workdir: Path):
        self.active = bool(held_out) and config.validation.batches > 0
        if not self.active:
            return
        self._workdir, self._mesh, self._steps = workdir, mesh, config.validation.sample_steps
        stage = plan.stages[-1]
        self._feeds = {modality.kind: Feed.onto(mesh, modality.batch) for modality in stage.used}
        self._batches = Batches(held_out, stage.modalities, plan.sampling, plan.conditioning,
                                steps=config.validation.batches, seed=config.seed,
                                rows={kind: feed.rows for kind, feed in self._feeds.items()})
        schedule = NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift)

        def loss(params: Any, key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
            return loss_of(template.model(params), noisy_batch(key, batch, plan.loss, schedule))

        self._loss = jax.jit(loss)
        if self._steps:
            sampler = make_sampler(SamplerConfig("dpm", self._steps), schedule)
            guidance = GuidanceConfig(config.validation.guidance)
            mask = plan.conditioning.parts["reference"]
            self._sample = jax.jit(lambda params, key, batch: sample(
                template.model(params), key, batch, sampler, guidance, mask), out_shardings=parallel.replicated(mesh))
            self._decode = _decoder(autoencoder_folder(config))

    def run(self, state: TrainState, step: int, metrics: MetricsLog) -> float:
        """Measures, writes a line of metrics and a picture, and returns the mean loss."""
        losses: dict[str, list[float]] = {}
        for index in range(len(self._batches)):
            modality = self._batches.modality(index)
            value = float(self._loss(state.ema, jax.random.key(index), self._placed(index, modality)))
            losses.setdefault(modality.kind, []).append(value)
        mean = float(np.mean([value for values in losses.values() for value in values]))
        values = {"validation_loss": mean,
                  **{f"validation_loss_{kind}": float(np.mean(each)) for kind, each in losses.items()}}
        if self._steps:
            values["validation_latent_error"] = self._draw(state, step, metrics)
        metrics.write(step, values)
        return mean

    def _placed(self, index: int, modality: Modality) -> dict[str, jax.Array]:
        return self._feeds[modality.kind].place(self._batches[index])

    def _draw(self, state: TrainState, step: int, metrics: MetricsLog) -> float:
        """Samples the largest kind of batch; writes truth above sample, one column per view and latent frame."""
        index = max(range(len(self._batches)),
                    key=lambda n: self._batches.modality(n).views * self._batches.modality(n).latents)
        batch = self._placed(index, self._batches.modality(index))
        made, truth = self._sample(state.ema, jax.random.key(step), batch)
        error = float(np.mean((np.asarray(made) - np.asarray(truth)) ** 2))
        if self._decode is not None and jax.process_index() == 0:
            strip = np.concatenate([self._decode(np.asarray(part[0])) for part in (truth, made)], axis=0)
            with atomic_file(self._workdir / "samples" / f"step-{step:07d}.png") as temporary:
                Image.fromarray(strip).save(temporary)
            metrics.picture(step, "sample", strip)
        return error


def sample(model: nnx.Module, key: jax.Array, batch: dict[str, jax.Array], sampler: Any, guidance: GuidanceConfig,
           mask: slice) -> tuple[jax.Array, jax.Array]:
    """Denoises a batch from pure noise, clean frames given.

    Args:
      mask: channel of the reference mask, which stays when conditions are dropped.

    Returns:
      Sampled and true latents, [B, V, L, h, w, C] each.
    """
    truth = batch["latents"].astype(jnp.float32)
    clean = batch["clean"]
    conditions = {name: batch[name].astype(jnp.float32)
                  for name in ("conditioning", "reference_latents", "reference_conditioning")}

    def step(index, state):
        timesteps = sampler.timesteps_for(index, clean)
        kept, dropped = (model(state.sample, timesteps, **keep_conditions(conditions, keep, mask))
                         for keep in (True, False))
        return sampler.step(state, guide(kept, dropped, guidance), index, clean=clean)

    noise = jax.random.normal(key, truth.shape)
    start = sampler.start(jnp.where(clean[..., None, None, None], truth, noise))
    return jax.lax.fori_loop(0, sampler.config.steps, step, start).sample, truth


def _decoder(folder: Path | None):
    """[V, L, h, w, C] -> a strip of pictures [H, V L W, 3] uint8, the last frame of each latent frame."""
    if folder is None:
        return None
    graph, state = nnx.split(load_autoencoder(folder)[0])
    decode = jax.jit(lambda latents: nnx.merge(graph, state).decode_latents(latents))

    def strip(latents: np.ndarray) -> np.ndarray:
        video = np.concatenate([np.asarray(decode(view[None])) for view in latents])[:, ::4]  # [V, L, H, W, 3]
        pictures = np.clip(np.round((video + 1) * 127.5), 0, 255).astype(np.uint8)
        return np.concatenate(list(pictures.reshape(-1, *pictures.shape[2:])), axis=1)

    return strip
