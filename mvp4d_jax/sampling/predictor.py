"""One model evaluation over all views: dealt into groups, with and without conditions, a mesh full at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mvp4d_jax import parallel
from mvp4d_jax.diffusion.guidance import keep_conditions
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.transformer import MultiViewTransformer

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


class Predictor:
    """Predicts v for all noisy views.

    A row is one sequence through the model: one group of views, with its conditions or without. Rows are independent,
    so they are spread over the mesh's data and fsdp axes; with one row of devices they run one after another, and
    memory is that of one sequence. Views that sit in several groups get the mean of their predictions.

    Args:
      model: the transformer; its parameters stay where they are.
      mesh: devices to run on.
      conditioning: layout of the maps.
    """

    def __init__(self, model: MultiViewTransformer, mesh: Mesh, conditioning: ConditioningConfig):
        self.mesh = mesh
        self.rows = mesh.shape["data"] * mesh.shape["fsdp"]
        self._graph, self._state = nnx.split(model)
        self._mask = conditioning.parts["reference"]
        self._run = jax.jit(self._forward, out_shardings=parallel.replicated(mesh))

    def __call__(self, latents: Array, timesteps: Array, conditions: Conditions, groups: np.ndarray,
                 guided: bool) -> tuple[Array, Array | None]:
        """v of every noisy view under conditions, and without them when `guided`.

        Args:
          latents: [V', L, h, w, C], clean frames in place.
          timesteps: [V', L] int, 0 on clean frames.
          groups: [G, g] indices of noisy views.

        Returns:
          [V, L, h, w, C] conditional, and the same unconditional or None.
        """
        views = int(groups.max()) + 1
        extra = np.arange(views, conditions.clean.shape[0])
        members = np.concatenate([groups, np.broadcast_to(extra, (len(groups), len(extra)))], axis=1)
        kinds = (True, False) if guided else (True,)
        rows = [(index, kind) for kind in kinds for index in range(len(groups))]
        padded = rows + [rows[-1]] * (-len(rows) % self.rows)
        totals = {kind: jnp.zeros((views, *latents.shape[1:]), jnp.float32) for kind in kinds}
        with parallel.use_mesh(self.mesh):
            for start in range(0, len(padded), self.rows):
                part = padded[start : start + self.rows]
                out = self._run(self._state, latents, timesteps, conditions, members[[index for index, _ in part]],
                                np.array([kind for _, kind in part]))
                for (index, kind), row in zip(rows[start : start + self.rows], out):
                    totals[kind] = totals[kind].at[groups[index]].add(row[: groups.shape[1]])
        counts = np.bincount(groups.ravel(), minlength=views).astype(np.float32)[:, None, None, None, None]
        return totals[True] / counts, totals[False] / counts if guided else None

    def _forward(self, state: nnx.State, latents: Array, timesteps: Array, conditions: Conditions, members: Array,
                 conditional: Array) -> Array:
        """[R, g', L, h, w, C] predictions of R rows of g' member views each."""
        model = nnx.merge(self._graph, state)
        rows = conditional.shape[0]

        def spread(array: Array) -> Array:
            return parallel.constrain(array, "batch", *(None,) * (array.ndim - 1))

        def reference(array: Array) -> Array:
            return jnp.broadcast_to(jnp.asarray(array), (rows, *array.shape))

        given = {"conditioning": jnp.asarray(conditions.maps)[members],  # [R, g', L, h, w, Cc]
                 "reference_latents": reference(conditions.reference_latents),
                 "reference_conditioning": reference(conditions.reference_maps)}
        given = jax.tree.map(spread, keep_conditions(given, conditional, self._mask))
        return model(spread(latents[members]), spread(timesteps[members]), **given)


jax.tree_util.register_dataclass(Conditions, [field.name for field in dataclasses.fields(Conditions)], [])
