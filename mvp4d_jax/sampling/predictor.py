"""The transformer on a mesh, ready to denoise: its weights placed once, its step compiled once per shape."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mvp4d_jax import parallel, processes
from mvp4d_jax.diffusion.denoising import Conditions, StepShape, denoise_step, predict
from mvp4d_jax.diffusion.guidance import GuidanceConfig
from mvp4d_jax.diffusion.samplers import Sampler, SamplerState
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.sampling.ahead import placed

__all__ = ["Conditions", "Predictor"]

Array = Any


class Predictor:
    """Predicts v for all noisy views, and takes denoising steps.

    Args:
      model: the transformer; parameters that do not lie on the mesh yet are placed there, in shards.
      mesh: devices to run on.
      conditioning: layout of the maps.
    """

    def __init__(self, model: MultiViewTransformer, mesh: Mesh, conditioning: ConditioningConfig):
        self.mesh, self.rows = mesh, parallel.batch_rows(mesh)
        self.everywhere = parallel.replicated(mesh)
        self._graph, state = nnx.split(model)
        self._state = jax.device_put(state, parallel.parameter_shardings(state, mesh))
        mask = conditioning.parts["reference"]
        self._mask = (mask.start, mask.stop)
        self._predict = jax.jit(self._forward, static_argnames="shape", out_shardings=self.everywhere)
        self._step = jax.jit(
            self._advance,
            static_argnames=("sampler", "guidance", "shape"),
            donate_argnames="state",
            out_shardings=self.everywhere,
        )

    def place(self, tree: Any) -> Any:
        """Arrays of the host, on every device of the mesh."""
        return processes.place(tree, self.everywhere)

    def __call__(
        self, latents: Array, timesteps: Array, conditions: Conditions, groups: np.ndarray, guided: bool
    ) -> tuple[Array, Array | None]:
        """`diffusion.denoising.predict` for groups [G, g] of noisy views."""
        shape = StepShape(int(groups.max()) + 1, self.rows, self._mask, guided)
        with parallel.use_mesh(self.mesh):
            return self._predict(self._state, *self.place((latents, timesteps, conditions, np.asarray(groups))), shape)

    def step(
        self,
        sampler: Sampler,
        guidance: GuidanceConfig,
        state: SamplerState,
        index: int,
        key: Array,
        conditions: Conditions,
        groups: np.ndarray,
    ) -> SamplerState:
        """`diffusion.denoising.denoise_step` number `index`; the state's memory is used again.

        Everything but `index` and `groups` must have been placed (`place`).
        """
        shape = StepShape(state.sample.shape[0], self.rows, self._mask, guidance.active(sampler.timesteps[index]))
        number, groups = self.place((np.int32(index), np.asarray(groups, np.int32)))
        with parallel.use_mesh(self.mesh):
            return self._step(self._state, sampler, guidance, state, number, key, conditions, groups, shape)

    def compile_step(
        self, sampler: Sampler, guidance: GuidanceConfig, conditions: Conditions, groups: tuple[int, int], views: int
    ) -> None:
        """Compiles what `step` runs.

        Args:
          conditions: with the shapes and dtypes of the arrays.
          groups: (G, g) of the groups; views: V of them are noisy.
        """

        def laid(array: Any) -> jax.ShapeDtypeStruct:
            return placed(array.shape, array.dtype, self.everywhere)

        latents = conditions.clean_latents
        sample = placed((views, *latents.shape[1:]), np.float32, self.everywhere)
        key = laid(jax.eval_shape(lambda: jax.random.key(0)))
        number, dealt = (placed(shape, np.int32, self.everywhere) for shape in ((), groups))
        conditions = jax.tree.map(laid, conditions)
        with parallel.use_mesh(self.mesh):
            for guided in {guidance.active(timestep) for timestep in sampler.timesteps}:
                shape = StepShape(views, self.rows, self._mask, guided)
                state = SamplerState(sample, sample)
                self._step.lower(self._state, sampler, guidance, state, number, key, conditions, dealt, shape).compile()

    def _forward(
        self,
        params: nnx.State,
        latents: Array,
        timesteps: Array,
        conditions: Conditions,
        groups: Array,
        shape: StepShape,
    ) -> tuple[Array, Array | None]:
        return predict(nnx.merge(self._graph, params), latents, timesteps, conditions, groups, shape)

    def _advance(
        self,
        params: nnx.State,
        sampler: Sampler,
        guidance: GuidanceConfig,
        state: SamplerState,
        index: Array,
        key: Array,
        conditions: Conditions,
        groups: Array,
        shape: StepShape,
    ) -> SamplerState:
        return denoise_step(
            nnx.merge(self._graph, params), sampler, guidance, state, index, key, conditions, groups, shape
        )
