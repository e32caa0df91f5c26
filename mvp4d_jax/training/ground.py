"""What a stage's updates stand on: its mesh, and the model and optimiser laid out over it."""

from __future__ import annotations

import dataclasses

import jax
import optax

from mvp4d_jax import parallel
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.plan import Stage, TrainingPlan
from mvp4d_jax.training.state import ModelTemplate, TrainState, abstract_state, make_optimiser


@dataclasses.dataclass(frozen=True)
class Ground:
    """Of one stage.

    Attributes:
      plan: with what the stage has of its own (`TrainingPlan.for_stage`).
    """

    plan: TrainingPlan
    mesh: jax.sharding.Mesh
    template: ModelTemplate
    optimiser: optax.GradientTransformation

    @classmethod
    def of(cls, plan: TrainingPlan, stage: Stage, mesh: jax.sharding.Mesh | None = None) -> Ground:
        """Args: plan: of the run; mesh: default the stage's own, of all devices."""
        own = plan.for_stage(stage)
        mesh = parallel.make_mesh(own.mesh) if mesh is None else mesh
        template = ModelTemplate(lambda rngs: MultiViewTransformer(own.transformer, rngs=rngs), mesh)
        return cls(own, mesh, template, make_optimiser(own.optimiser, template.shapes))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        return abstract_state(self.template, self.optimiser, self.mesh)
