"""One update: v-prediction loss on the noisy latent frames, gradients in micro-batches, AdamW, EMA."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.training.state import ModelTemplate, OptimiserOptions, TrainState, state_shardings

Batch = dict[str, jax.Array]
MODEL_INPUTS = ("latents", "conditioning", "reference_latents", "reference_conditioning", "clean")


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What is learned.

    Attributes:
      timesteps: "frame": drawn per (view, latent frame), as CAP4D does per frame; "shared": one per sample;
        "mixed": half of the samples each.
      snr_shift: of the noise schedule; larger for more frames (CogVideoX-2B: 3; 1 leaves the schedule as it is).
      photo: by how much more a latent pixel counts that the reference photo shows, by the share that the painted maps
        tell (their last channel; needs `conditioning.painted`). Eyes are a hundredth of the loss otherwise.
    """

    timesteps: str = "frame"
    snr_shift: float = 3.0
    photo: float = 0.0

    def __post_init__(self):
        if self.timesteps not in ("frame", "shared", "mixed"):
            raise UserError("loss.timesteps", f"is '{self.timesteps}'", "choose 'frame', 'shared' or 'mixed'")
        if self.photo < 0:
            raise UserError("loss.photo", f"is {self.photo}", "choose 0 or more")


def draw_timesteps(key: jax.Array, shape: tuple[int, int, int], how: str, steps: int) -> jax.Array:
    """Uniform timesteps [B, V, L] int32 in [0, steps)."""
    own, common, choice = jax.random.split(key, 3)
    batch = shape[0]
    frames = jax.random.randint(own, shape, 0, steps)
    shared = jnp.broadcast_to(jax.random.randint(common, (batch, 1, 1), 0, steps), shape)
    if how == "mixed":
        return jnp.where(jax.random.bernoulli(choice, 0.5, (batch, 1, 1)), frames, shared)
    return frames if how == "frame" else shared


def noisy_batch(
    key: jax.Array, batch: Batch, options: LossOptions, schedule: NoiseSchedule, grid: np.ndarray | None = None
) -> Batch:
    """Draws noise and timesteps for a whole batch, before it is cut into micro-batches.

    Args:
      grid: timesteps to draw from, those of a few-step student; None for all of the schedule's.

    Returns:
      The model's inputs and: target [B, V, L, h, w, C], timesteps [B, V, L], weight [B, V, L, h, w], which sums to
      one over the noisy latent frames of the whole batch.
    """
    latents = batch["latents"].astype(jnp.float32)  # [B, V, L, h, w, C]
    clean = batch["clean"]  # [B, V, L]
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, latents.shape, jnp.float32)
    timesteps = draw_timesteps(time_key, clean.shape, options.timesteps, schedule.steps if grid is None else len(grid))
    if grid is not None:
        timesteps = jnp.asarray(grid)[timesteps]
    kept = clean[..., None, None, None]
    return {
        "latents": jnp.where(kept, latents, schedule.add_noise(latents, noise, timesteps)),
        "target": schedule.v_target(latents, noise, timesteps),
        "timesteps": jnp.where(clean, 0, timesteps),
        "weight": loss_weight(batch, options),
        **conditions_of(batch),
    }


def loss_weight(batch: Batch, options: LossOptions) -> jax.Array:
    """What each latent pixel counts, [B, V, L, h, w]; sums to one over the noisy latent frames of the whole batch."""
    noisy = ~batch["clean"][..., None, None]
    weight = jnp.broadcast_to(noisy, batch["latents"].shape[:-1]).astype(jnp.float32)
    if options.photo:
        weight *= 1.0 + options.photo * batch["conditioning"][..., -1].astype(jnp.float32)
    return weight / jnp.sum(weight)


def conditions_of(batch: Batch) -> Batch:
    """Maps and reference of a batch, as the model takes them, float32."""
    return {
        name: batch[name].astype(jnp.float32)
        for name in ("conditioning", "reference_latents", "reference_conditioning")
    }


def loss_of(model: Any, noisy: Batch) -> jax.Array:
    """v-MSE, weighted so that micro-batches add up to the batch's mean over noisy latent frames."""
    prediction = model(
        noisy["latents"],
        noisy["timesteps"],
        conditioning=noisy["conditioning"],
        reference_latents=noisy["reference_latents"],
        reference_conditioning=noisy["reference_conditioning"],
    )
    error = jnp.mean(jnp.square(prediction.astype(jnp.float32) - noisy["target"]), axis=-1)  # [B, V, L, h, w]
    return jnp.sum(error * noisy["weight"])


def make_train_step(
    template: ModelTemplate,
    optimiser: optax.GradientTransformation,
    options: OptimiserOptions,
    loss: LossOptions,
    learning_rate: Callable[[jax.Array], jax.Array],
) -> jax.stages.Wrapped:
    """The jitted update: (state, batch) -> (state, metrics). Call it, or `lower` it, under the template's mesh.

    The state's buffers are donated, and it comes back laid out as it went in: left to itself the partitioner splits
    small arrays otherwise from the first step on, and no compiled step takes them a second time.

    Metrics: loss, gradient_norm, learning_rate, finite. Where loss or gradient are not finite the new state holds the
    old one's values, so that it can be dumped and looked at, and its step n becomes -1 - n: the steps that the host has
    sent already change nothing, so that it need not ask after every one of them.
    """
    schedule = NoiseSchedule.cogvideox(snr_shift=loss.snr_shift)
    update = make_update(template, optimiser, options, learning_rate)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        return update(state, noisy_batch(step_key(state), batch, loss, schedule))

    return jit_step(train_step, template, optimiser)


def step_key(state: TrainState) -> jax.Array:
    """The random key of the step that comes next."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def jit_step(
    step: Callable[..., Any], template: ModelTemplate, optimiser: optax.GradientTransformation
) -> jax.stages.Wrapped:
    """An update (state, batch, ...) -> (state, metrics), jitted; `make_train_step` says what becomes of the state."""
    layout = state_shardings(template, optimiser, template.mesh), parallel.replicated(template.mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=layout)


def make_update(
    template: ModelTemplate,
    optimiser: optax.GradientTransformation,
    options: OptimiserOptions,
    learning_rate: Callable[[jax.Array], jax.Array],
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, what `loss_of` takes) -> (state, metrics), to be traced: gradient, clipping, AdamW, moving average."""
    count = options.accumulation

    def value_and_grad(params: Any, noisy: Batch) -> tuple[jax.Array, Any]:
        return jax.value_and_grad(lambda params: loss_of(template.model(params), noisy))(params)

    def accumulated(params: Any, noisy: Batch) -> tuple[jax.Array, Any]:
        if count == 1:
            return value_and_grad(params, noisy)
        # [B, ...] -> [count, B / count, ...]; sample i goes to micro-batch i % count, so that each spans the data axis.
        cut = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1), noisy)

        def add(carry, micro):
            micro = {name: parallel.constrain(x, "batch", *(None,) * (x.ndim - 1)) for name, x in micro.items()}
            return jax.tree.map(jnp.add, carry, value_and_grad(params, micro)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, zero, cut)[0]

    def update(state: TrainState, noisy: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        value, gradient = accumulated(state.params, noisy)
        norm = optax.global_norm(gradient)
        rate = learning_rate(state.step)
        updates, moments = optimiser.update(gradient, state.moments, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        taken = state.step.astype(jnp.float32)
        decay = jnp.minimum(options.ema, (1 + taken) / (10 + taken))
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        new = TrainState(state.step + 1, state.key, params, ema, moments)
        finite = jnp.isfinite(value) & jnp.isfinite(norm) & (state.step >= 0)
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        stopped = jnp.where(state.step < 0, state.step, -1 - state.step)
        new = dataclasses.replace(new, step=jnp.where(finite, new.step, stopped))
        return new, {"loss": value, "gradient_norm": norm, "learning_rate": rate, "finite": finite}

    return update


def check_accumulation(options: OptimiserOptions, batch: int, where: str) -> None:
    """Raises UserError unless micro-batches divide the batch."""
    if options.accumulation < 1 or batch % options.accumulation:
        raise UserError(
            where,
            f"{batch} samples do not divide into {options.accumulation} micro-batches",
            "choose a batch that is a multiple of optimiser.accumulation",
        )
