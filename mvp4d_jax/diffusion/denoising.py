"""The denoising step: the model over groups of views, with conditions and without, then the sampler.

Sampling, validation and preflight run this one step. All of it is one program, so that nothing but the step's number
and its groups travels to the devices while a window is denoised.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax import parallel
from mvp4d_jax.diffusion.guidance import GuidanceConfig, guide, keep_conditions
from mvp4d_jax.diffusion.samplers import Sampler, SamplerState

Array = Any


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What one window is conditioned on. V noisy views come first, then the clean views: V' in all.

    Attributes:
      maps: [V', L, h, w, Cc], reference mask set on clean frames.
      clean: [V', L] bool.
      clean_latents: [V', L, h, w, C]; read where `clean`.
      reference_latents: [h, w, C].
      reference_maps: [h, w, Cc].
    """

    maps: Array
    clean: Array
    clean_latents: Array
    reference_latents: Array
    reference_maps: Array


jax.tree_util.register_dataclass(Conditions, [field.name for field in dataclasses.fields(Conditions)], [])


@dataclasses.dataclass(frozen=True)
class StepShape:
    """What is fixed when a step is compiled.

    Attributes:
      views: V, noisy views; clean ones follow them in the conditions.
      rows: sequences through the model at a time: `parallel.batch_rows` of the mesh.
      mask: first and last + 1 channel of the reference mask, which stays where conditions are dropped.
      guided: whether the model runs without its conditions, too.
    """

    views: int
    rows: int
    mask: tuple[int, int]
    guided: bool


def predict(
    model: Any, latents: Array, timesteps: Array, conditions: Conditions, groups: Array, shape: StepShape
) -> tuple[Array, Array | None]:
    """v of every noisy view under conditions, and without them where `shape.guided`.

    A row is one sequence through the model: one group of views, with its conditions or without. `shape.rows` of them
    are spread over the mesh at a time, so that memory is that of one sequence for each row of devices. Views that sit
    in several groups get the mean of their predictions.

    Args:
      model: the transformer.
      latents: [V', L, h, w, C], clean frames in place.
      timesteps: [V', L] int, 0 on clean frames.
      groups: [G, g] indices of noisy views, every one of them at least once.

    Returns:
      [V, L, h, w, C] float32 conditional, and the same unconditional or None.
    """
    count, size = groups.shape
    extra = jnp.arange(shape.views, conditions.clean.shape[0])
    members = jnp.concatenate([groups, jnp.broadcast_to(extra, (count, len(extra)))], axis=1)  # [G, g']
    kinds = 2 if shape.guided else 1
    real = kinds * count
    order = np.minimum(np.arange(-(-real // shape.rows) * shape.rows), real - 1).reshape(-1, shape.rows)  # [J, R]
    counts_once = np.arange(order.size).reshape(order.shape) < real  # the last row fills up the last turn

    def turn(totals: Array, chosen: tuple[Array, Array]) -> tuple[Array, None]:
        row, counted = chosen  # [R] each
        kind, group = row // count, row % count  # kind 0: with conditions
        out = _rows(model, latents, timesteps, conditions, members[group], kind == 0, slice(*shape.mask))
        out = out[:, :size] * counted.reshape(-1, 1, 1, 1, 1, 1)
        return totals.at[kind[:, None], groups[group]].add(out), None

    totals = jnp.zeros((kinds, shape.views, *latents.shape[1:]), jnp.float32)
    if len(order) == 1:
        totals, _ = turn(totals, (jnp.asarray(order[0]), jnp.asarray(counts_once[0])))
    else:
        totals, _ = jax.lax.scan(turn, totals, (jnp.asarray(order), jnp.asarray(counts_once)))
    often = jnp.zeros(shape.views).at[groups].add(1.0)
    mean = totals / often[:, None, None, None, None]
    return mean[0], mean[1] if shape.guided else None


def _rows(
    model: Any, latents: Array, timesteps: Array, conditions: Conditions, members: Array, keep: Array, mask: slice
) -> Array:
    """[R, g', L, h, w, C] predictions of R rows of g' member views each."""
    rows = members.shape[0]

    def spread(array: Array) -> Array:
        return parallel.constrain(array, "batch", *(None,) * (array.ndim - 1))

    def reference(array: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(array), (rows, *array.shape))

    given = {
        "conditioning": jnp.asarray(conditions.maps)[members],  # [R, g', L, h, w, Cc]
        "reference_latents": reference(conditions.reference_latents),
        "reference_conditioning": reference(conditions.reference_maps),
    }
    given = jax.tree.map(spread, keep_conditions(given, keep, mask))
    return model(spread(jnp.asarray(latents)[members]), spread(jnp.asarray(timesteps)[members]), **given)


def denoise_step(
    model: Any,
    sampler: Sampler,
    guidance: GuidanceConfig,
    state: SamplerState,
    index: Array,
    key: Array,
    conditions: Conditions,
    groups: Array,
    shape: StepShape,
) -> SamplerState:
    """One step of one window.

    Args:
      state: of the noisy views, [V, L, h, w, C], clean frames in place.
      index: which step, may be traced; key: of the sampler's own noise.
      groups: [G, g] indices of noisy views.
      shape: `guided` must be what `guidance` says of this step's timestep.
    """
    clean = jnp.asarray(conditions.clean)  # [V', L]
    latents = jnp.concatenate([state.sample, jnp.asarray(conditions.clean_latents, jnp.float32)[shape.views :]])
    v, dropped = predict(model, latents, sampler.timesteps_for(index, clean), conditions, groups, shape)
    if dropped is not None:
        v = guide(v, dropped, guidance)
    return sampler.step(state, v, index, key, clean=clean[: shape.views])
