"""Few-step distillation: what a student must predict to arrive in one step where its teacher arrives in several.

Progressive distillation (Salimans & Ho, arXiv 2202.00512) in one go: the student's N DDIM steps are cut into K of the
teacher's, whose guided path (Meng et al., arXiv 2210.03142) is followed from a student's timestep to the next; the
student's target is the v whose single DDIM step ends at the same place. Every view and latent frame may be at a step of
its own, and clean frames stay as they are, as in training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d.core.errors import UserError
from mvp4d_jax.diffusion.samplers import Sampler, SamplerConfig, insert_clean, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule

Predict = Callable[[jax.Array, jax.Array], jax.Array]  # (sample, timesteps) -> v


@dataclasses.dataclass(frozen=True)
class DistillOptions:
    """A distillation; `steps` 0: none, training is as usual.

    Attributes:
      teacher: weights that come along, or a release folder. Its transformer is where the student starts.
      steps: N of the student.
      substeps: K of the teacher in each of them.
      guidance: of the teacher, folded into the student; 1 is off.
      truth: 0 .. 1, share of the true clean latents in the target. They lie at the mean of what is possible, the
        teacher's on one of its samples: more of them is closer to the truth, and softer.
      rollout: 0 .. 1, share of samples that start where the student's own steps lead from pure noise instead of at
        the noised truth, so that the student learns to mend its own errors.
    """

    teacher: str = ""
    steps: int = 0
    substeps: int = 4
    guidance: float = 1.5
    truth: float = 0.0
    rollout: float = 0.0

    def __post_init__(self):
        if self.steps and (self.steps < 1 or self.substeps < 1 or self.steps * self.substeps > 1000):
            raise UserError(
                "distill.steps and distill.substeps",
                f"are {self.steps} and {self.substeps}",
                "give at least 1 of each, 1000 in all at most",
            )
        for name in ("truth", "rollout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"distill.{name}", f"is {getattr(self, name)}", "choose 0 to 1")

    def samplers(self, schedule: NoiseSchedule) -> tuple[Sampler, Sampler]:
        """The student's and the teacher's; step i of the first begins at the timestep of step i K of the second."""
        return (
            make_sampler(SamplerConfig("ddim", self.steps), schedule),
            make_sampler(SamplerConfig("ddim", self.steps * self.substeps), schedule),
        )


def timesteps_at(sampler: Sampler, index: jax.Array, clean: jax.Array) -> jax.Array:
    """The timestep of each frame's own step, 0 where clean; `index` and `clean` [B, V, L]."""
    return jnp.where(clean, 0, jnp.asarray(sampler.timesteps)[index])


def ddim_step(sampler: Sampler, sample: jax.Array, v: jax.Array, index: jax.Array, clean: jax.Array) -> jax.Array:
    """`Sampler.step` with a step of its own for every frame: `index` [B, V, L], sample and v [B, V, L, h, w, C]."""
    alpha, sigma, sample_coeff, x0_coeff = _ddim_coefficients(sampler, index)
    x0 = alpha * sample - sigma * v
    return insert_clean(sample_coeff * sample + x0_coeff * x0, sample, clean)


def teacher_path(
    predict: Predict, sample: jax.Array, index: jax.Array, clean: jax.Array, teacher: Sampler, substeps: int
) -> jax.Array:
    """Where the teacher's `substeps` lead from `sample`, each frame from the student's step `index` of its own."""

    def step(count: int | jax.Array, sample: jax.Array) -> jax.Array:
        place = index * substeps + count
        v = predict(sample, timesteps_at(teacher, place, clean))
        return ddim_step(teacher, sample, v.astype(jnp.float32), place, clean)

    return jax.lax.fori_loop(0, substeps, step, sample)


def v_that_leads_to(
    end: jax.Array, sample: jax.Array, index: jax.Array, student: Sampler, truth: jax.Array, share: float
) -> jax.Array:
    """The v whose one DDIM step of the student from `sample` ends at `end`, [B, V, L, h, w, C].

    The step is solved for x0 = (end - sample_coeff sample) / x0_coeff; then v = (alpha_t sample - x0) / sigma_t.

    Args:
      truth: clean latents; `share` of them is mixed into the clean sample that the step implies.
    """
    alpha, sigma, sample_coeff, x0_coeff = _ddim_coefficients(student, index)
    x0 = (end - sample_coeff * sample) / x0_coeff
    x0 += share * (truth - x0)
    return (alpha * sample - x0) / sigma


def roll_out(
    predict: Predict, noise: jax.Array, given: jax.Array, index: jax.Array, clean: jax.Array, student: Sampler
) -> jax.Array:
    """Where the student's own steps lead from pure noise: each frame as it is before the step `index` of its own.

    Args:
      noise: standard normal, [B, V, L, h, w, C]; given: latents of clean frames.
    """
    start = insert_clean(noise, given, clean)

    def step(count: int | jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        sample, reached = carry
        reached = insert_clean(reached, sample, index == count)  # frames whose own step this is
        place = jnp.broadcast_to(count, index.shape)
        v = predict(sample, timesteps_at(student, place, clean))
        return ddim_step(student, sample, v.astype(jnp.float32), place, clean), reached

    sample, reached = jax.lax.fori_loop(0, student.config.steps - 1, step, (start, start))
    return insert_clean(reached, sample, index == student.config.steps - 1)


def _ddim_coefficients(sampler: Sampler, index: jax.Array) -> tuple[jax.Array, ...]:
    """alpha_t, sigma_t, sample_coeff, x0_coeff (`Sampler`) of each frame's step, [B, V, L, 1, 1, 1] each."""
    table = np.asarray(sampler.coefficients)[:, :4]
    rows = jnp.asarray(table)[index]  # [B, V, L, 4]
    return tuple(rows[..., column, None, None, None] for column in range(4))
