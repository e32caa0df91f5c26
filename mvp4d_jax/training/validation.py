"""How well the model does on held-out identities: a loss with the same noise every time, and a sample to look at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
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
from mvp4d_jax.data.pipeline import Batches
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.diffusion.denoising import Conditions, StepShape, denoise_step
from mvp4d_jax.diffusion.guidance import GuidanceConfig
from mvp4d_jax.diffusion.samplers import SamplerConfig, insert_clean, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.autoencoder import compiler_options
from mvp4d_jax.models.checkpoint import load_autoencoder
from mvp4d_jax.training.feed import Feed
from mvp4d_jax.training.metrics import MetricsLog
from mvp4d_jax.training.plan import TrainingPlan, autoencoder_folder, batch_shapes, validates
from mvp4d_jax.training.state import ModelTemplate, TrainState
from mvp4d_jax.training.step import loss_of, noisy_batch

SHEET = 4  # views, and frames of each, in a picture of a sample


class Validation:
    """Runs on every process, with the moving average of the weights, on held-out scenes: `batches` batches of each kind
    of data in the last stage, and a sample of the largest kind, drawn as `mvp4d sample` draws it.

    Args:
      held_out: opened validation shards; none: nothing is measured.
      workdir: where pictures of samples go (`samples/`).
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        plan: TrainingPlan,
        template: ModelTemplate,
        held_out: list[Shards],
        mesh: Mesh,
        workdir: Path,
    ):
        self.active = validates(config)
        if not self.active:
            return
        self._workdir, self._mesh, self._template, self._plan = workdir, mesh, template, plan
        self._drawn = config.validation.sample_steps > 0
        self._stage = plan.stages[-1]
        kinds = [dataclasses.replace(modality, weight=1.0) for modality in self._stage.used]
        self._feeds = {modality.kind: Feed.onto(mesh, modality.batch) for modality in kinds}
        self._batches = Batches(
            held_out,
            kinds,
            plan.sampling,
            plan.conditioning,
            seed=config.seed,
            steps=config.validation.batches * len(kinds),
            rows={kind: feed.rows for kind, feed in self._feeds.items()},
        )
        schedule = NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift)

        grid = plan.distill.samplers(schedule)[0].timesteps if plan.distill.steps else None

        def loss(params: Any, key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
            return loss_of(template.model(params), noisy_batch(key, batch, plan.loss, schedule, grid))

        self._loss = jax.jit(loss, out_shardings=parallel.replicated(mesh))
        if self._drawn:
            largest = max(kinds, key=lambda modality: modality.views * modality.latents)
            # One sample with everything given that sampling is given, and nothing else.
            options = dataclasses.replace(plan.sampling, condition_dropout=0.0, clean_prefix=0.0, clean_views=0.0)
            one = dataclasses.replace(largest, batch=1)
            self._shown = Batches(held_out, [one], options, plan.conditioning, seed=config.seed, steps=1)[0]
            self._sample = make_sample(plan, template, config.validation.sample_steps, config.validation.guidance)
            self._decode = _decoder(autoencoder_folder(config))
        self._compiled: dict[str, Any] = {}

    def compile(self, state: TrainState, check: Callable[[Any, str], None]) -> None:
        """Compiles what `run` will run, so that it is held to the memory there is before the first step.

        Args:
          check: is given every compiled program and what it is.
        """
        if not self.active:
            return
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=parallel.replicated(self._mesh))
        for modality in self._batches.modalities:
            shapes = batch_shapes(self._plan, self._stage, modality, self._feeds[modality.kind].layout)
            self._compiled[modality.kind] = self._loss.lower(state.ema, key, shapes).compile()
            check(self._compiled[modality.kind], f"validation, {modality.kind}")
        if self._drawn:
            self._compiled["sample"] = self._sample.lower(state.ema, key, *self._placed_sample()[:1]).compile()
            check(self._compiled["sample"], "validation, the sample")

    def run(self, state: TrainState, step: int, metrics: MetricsLog) -> float:
        """Measures, writes a line of metrics and a picture, and returns the mean loss."""
        losses: dict[str, list[jax.Array]] = {}
        everywhere = parallel.replicated(self._mesh)
        for index in range(len(self._batches)):
            kind = self._batches.modality(index).kind
            key = jax.device_put(jax.random.key(index), everywhere)
            placed = self._feeds[kind].place(self._batches[index])
            losses.setdefault(kind, []).append(self._compiled[kind](state.ema, key, placed))
        fetched = jax.device_get(losses)
        mean = float(np.mean([value for values in fetched.values() for value in values]))
        values = {
            "validation_loss": mean,
            **{f"validation_loss_{kind}": float(np.mean(each)) for kind, each in fetched.items()},
        }
        if self._drawn:
            values["validation_latent_error"] = self._draw(state, step, metrics)
        metrics.write(step, values)
        return mean

    def _placed_sample(self) -> tuple[Conditions, np.ndarray]:
        """What the sample is conditioned on, on every device, and the true latents [V, L, h, w, C]."""
        shown = {name: np.asarray(value[0], np.float32) for name, value in self._shown.items()}
        conditions = Conditions(
            shown["conditioning"],
            self._shown["clean"][0],
            shown["latents"],
            shown["reference_latents"],
            shown["reference_conditioning"],
        )
        return jax.device_put(conditions, parallel.replicated(self._mesh)), shown["latents"]

    def _draw(self, state: TrainState, step: int, metrics: MetricsLog) -> float:
        """Samples; writes a picture: some views' truth above the sample, some frames from left to right."""
        conditions, truth = self._placed_sample()
        key = jax.device_put(jax.random.key(step), parallel.replicated(self._mesh))
        made = np.asarray(self._compiled["sample"](state.ema, key, conditions))
        if self._decode is not None and jax.process_index() == 0:
            picture = contact_sheet(truth, made, self._decode)
            with atomic_file(self._workdir / "samples" / f"step-{step:07d}.png") as temporary:
                Image.fromarray(picture).save(temporary)
            metrics.picture(step, "sample", picture)
        return float(np.mean(np.square(made - truth)))


def make_sample(plan: TrainingPlan, template: ModelTemplate, steps: int, guidance_scale: float) -> jax.stages.Wrapped:
    """The jitted (params, key, conditions) -> latents [V, L, h, w, C]: all views of one sample, denoised from noise.

    Under the template's mesh. `conditions` are placed on every device; latent frames given clean come out unchanged.
    """
    method = "ddim" if plan.distill.steps else "dpm"  # what a student has learned
    sampler = make_sampler(SamplerConfig(method, steps), NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift))
    guidance, mask = GuidanceConfig(guidance_scale), plan.conditioning.parts["reference"]

    def draw(params: Any, key: jax.Array, conditions: Conditions) -> jax.Array:
        views, model = conditions.maps.shape[0], template.model(params)
        shape = StepShape(views, parallel.batch_rows(template.mesh), (mask.start, mask.stop), guidance_scale != 1)
        noise = jax.random.normal(key, conditions.clean_latents.shape, jnp.float32)
        start = sampler.start(insert_clean(noise, conditions.clean_latents, conditions.clean))
        groups = jnp.arange(views)[None]
        return jax.lax.fori_loop(
            0,
            steps,
            lambda index, state: denoise_step(model, sampler, guidance, state, index, key, conditions, groups, shape),
            start,
        ).sample

    return jax.jit(draw, out_shardings=parallel.replicated(template.mesh))


def contact_sheet(truth: np.ndarray, made: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[H', W', 3] uint8: at most SHEET views and frames, spread over what there is, truth above sample.

    Args:
      truth, made: latents [V, L, h, w, C].
      decode: latents [1, L, h, w, C] -> video [1, F, H, W, 3] in [-1, 1].
    """
    views = np.unique(np.linspace(0, len(truth) - 1, SHEET).round().astype(int))
    rows = []
    for view in views:
        for latents in (truth, made):
            video = np.asarray(decode(latents[view][None]))[0]  # [F, H, W, 3]
            frames = np.unique(np.linspace(0, len(video) - 1, SHEET).round().astype(int))
            rows.append(np.concatenate(list(video[frames]), axis=1))
    return np.clip(np.round((np.concatenate(rows) + 1) * 127.5), 0, 255).astype(np.uint8)


def _decoder(folder: Path | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """[1, L, h, w, C] -> [1, F, H, W, 3], on one device of this process, loaded when it is first asked."""
    if folder is None:
        return None

    @functools.cache
    def decode() -> Callable[[np.ndarray], jax.Array]:
        graph, state = nnx.split(load_autoencoder(folder)[0])
        return jax.jit(
            lambda latents: nnx.merge(graph, state).decode_latents(latents), compiler_options=compiler_options()
        )

    return lambda latents: decode()(latents)
