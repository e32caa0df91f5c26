"""The update of a distillation: a teacher's guided path is what the student learns to walk in one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvp4d.core.errors import UserError
from mvp4d_jax.diffusion.distillation import (
    DistillOptions,
    Predict,
    roll_out,
    teacher_path,
    timesteps_at,
    v_that_leads_to,
)
from mvp4d_jax.diffusion.guidance import GuidanceConfig, guide, keep_conditions
from mvp4d_jax.diffusion.samplers import insert_clean
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.checkpoint import load_transformer
from mvp4d_jax.models.checkpoint_config import read_config
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.release import read_facts, resolve_weights
from mvp4d_jax.training.plan import TrainingPlan
from mvp4d_jax.training.state import ModelTemplate, Tree
from mvp4d_jax.training.step import (
    Batch,
    LossOptions,
    conditions_of,
    draw_timesteps,
    jit_step,
    loss_weight,
    make_train_step,
    make_update,
    step_key,
)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a distilling step needs beside the student.

    Attributes:
      options: of the distillation.
      teacher: its model's structure, on the student's mesh.
      mask: channel of the reference mask, which stays when conditions are dropped.
    """

    options: DistillOptions
    teacher: ModelTemplate
    mask: slice

    def targets(
        self,
        key: jax.Array,
        batch: Batch,
        student: Predict,
        teacher: Callable[[Batch], Predict],
        loss: LossOptions,
        schedule: NoiseSchedule,
    ) -> Batch:
        """`noisy_batch` for a student: noisy latents at the steps of its grid, and the v that it is to learn.

        Args:
          student: the student as it is now.
          teacher: conditions -> the teacher's guided prediction under them.
        """
        latents, clean = batch["latents"].astype(jnp.float32), batch["clean"]
        noise_key, time_key, choice = jax.random.split(key, 3)
        own, others = self.options.samplers(schedule)
        index = draw_timesteps(time_key, clean.shape, loss.timesteps, own.config.steps)  # [B, V, L]
        noise = jax.random.normal(noise_key, latents.shape, jnp.float32)
        sample = insert_clean(schedule.add_noise(latents, noise, timesteps_at(own, index, clean)), latents, clean)
        if self.options.rollout:
            rolled = jax.random.bernoulli(choice, self.options.rollout, (latents.shape[0],))
            sample = insert_clean(sample, roll_out(student, noise, latents, index, clean, own), rolled)
        conditions = conditions_of(batch)
        end = teacher_path(teacher(conditions), sample, index, clean, others, self.options.substeps)
        target = v_that_leads_to(end, sample, index, own, latents, self.options.truth)
        return jax.lax.stop_gradient(
            {
                "latents": sample,
                "target": target,
                "timesteps": timesteps_at(own, index, clean),
                "weight": loss_weight(batch, loss),
                **conditions,
            }
        )

    def predict_guided(self, params: Tree, conditions: Batch) -> Predict:
        """The teacher's prediction, guided as the options say: with conditions and, beside it, without."""
        guidance, model = GuidanceConfig(self.options.guidance), self.teacher.model(params)

        def predict(sample: jax.Array, timesteps: jax.Array) -> jax.Array:
            kept = model(sample, timesteps, **conditions)
            if guidance.scale == 1:
                return kept
            dropped = keep_conditions(conditions, jnp.zeros((), bool), self.mask)
            return guide(kept, model(sample, timesteps, **dropped), guidance)

        return predict


class BoundStep:
    """A step with the teacher's numbers bound to it: it is lowered, compiled and called like any other step."""

    def __init__(self, step: Any, teacher: Tree):
        self._step, self._teacher = step, teacher

    def lower(self, state: Any, batch: Any) -> BoundStep:
        return BoundStep(self._step.lower(state, batch, self._teacher), self._teacher)

    def compile(self, **options: Any) -> BoundStep:
        return BoundStep(self._step.compile(**options), self._teacher)

    def __call__(self, state: Any, batch: Any) -> Any:
        return self._step(state, batch, self._teacher)

    def __getattr__(self, name: str) -> Any:  # memory_analysis, as_text, cost_analysis
        return getattr(self._step, name)


def make_step(
    plan: TrainingPlan, template: ModelTemplate, optimiser: optax.GradientTransformation, *, abstract: bool = False
) -> Any:
    """The update that a plan asks for: training's, or a distillation's with its teacher bound to it.

    Args:
      abstract: the teacher's numbers are not read; what comes back can be lowered and compiled, not called. Where no
        teacher is named it is then of the student's size.

    Raises:
      UserError: a teacher that is missing or does not fit the plan.
    """
    if not plan.distill.steps:
        return make_train_step(template, optimiser, plan.optimiser, plan.loss, plan.learning_rate())
    folder = teacher_folder(plan)
    if folder is None and not abstract:
        raise UserError("config.distill.teacher", "names no teacher", "give --config.distill.teacher=RELEASE")
    config = plan.transformer if folder is None else _teacher_config(plan, folder)
    teacher = ModelTemplate(lambda rngs: MultiViewTransformer(config, rngs=rngs), template.mesh)
    distillation = Distillation(plan.distill, teacher, plan.conditioning.parts["reference"])
    step = make_distill_step(template, distillation, optimiser, plan)
    if abstract:
        return BoundStep(
            step,
            jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                teacher.shapes,
                teacher.shardings,
            ),
        )
    model = load_transformer(folder / "transformer", config, shardings=teacher.shardings)[0]
    return BoundStep(step, teacher.params_of(model))


def make_distill_step(
    template: ModelTemplate, distillation: Distillation, optimiser: optax.GradientTransformation, plan: Any
) -> jax.stages.Wrapped:
    """The jitted update (state, batch, teacher's parameters) -> (state, metrics); else as `make_train_step`.

    Args:
      plan: its `optimiser` (OptimiserOptions), `loss` (LossOptions) and `learning_rate()` are read.
    """
    schedule = NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift)
    update = make_update(template, optimiser, plan.optimiser, plan.learning_rate())

    def distill_step(state: Any, batch: Batch, teacher: Tree) -> tuple[Any, dict[str, jax.Array]]:
        conditions, model = conditions_of(batch), template.model(state.params)
        noisy = distillation.targets(
            step_key(state),
            batch,
            lambda sample, timesteps: model(sample, timesteps, **conditions),
            lambda given: distillation.predict_guided(teacher, given),
            plan.loss,
            schedule,
        )
        return update(state, noisy)

    return jit_step(distill_step, template, optimiser)


def teacher_folder(plan: TrainingPlan) -> Path | None:
    """The release a plan distils; None where it names none.

    Raises:
      UserError: nothing is there.
    """
    return resolve_weights(plan.distill.teacher) if plan.distill.teacher else None


def _teacher_config(plan: TrainingPlan, folder: Path) -> TransformerConfig:
    """The teacher's transformer, computed as the student's is.

    Args:
      plan: of one stage (`TrainingPlan.for_stage`): its shift of the noise schedule is what is compared.

    Raises:
      UserError: it was trained for other maps, latents or noise.
    """
    facts, (config, _) = read_facts(folder), read_config(folder / "transformer")
    theirs = {
        "conditioning": facts.conditioning,
        "snr_shift": facts.snr_shift,
        "latent_channels": config.latent_channels,
    }
    ours = {
        "conditioning": plan.conditioning,
        "snr_shift": plan.loss.snr_shift,
        "latent_channels": plan.transformer.latent_channels,
    }
    for name, value in theirs.items():
        if value != ours[name]:
            own = f", or --config.stages.NAME.snr_shift={value}" if name == "snr_shift" else ""
            raise UserError(
                "config.distill.teacher",
                f"{folder} has {name} {value}, the config {ours[name]}",
                f"take the config that the teacher was trained with{own}",
            )
    student = plan.transformer
    return dataclasses.replace(
        config, dtype=student.dtype, attention_backend=student.attention_backend, pad_patches_to=student.pad_patches_to
    )


def check_teacher(plan: TrainingPlan) -> None:
    """Raises UserError for a teacher that is missing or does not fit one of the stages, before anything is built."""
    if plan.distill.steps:
        folder = teacher_folder(plan)
        if folder is None:
            raise UserError("config.distill.teacher", "names no teacher", "give --config.distill.teacher=RELEASE")
        for stage in plan.stages:
            _teacher_config(plan.for_stage(stage), folder)
