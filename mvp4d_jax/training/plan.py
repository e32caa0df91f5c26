"""A training config resolved into what the code works with, checked before anything expensive starts."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

import mvp4d_jax
from mvp4d.core.arguments import fits
from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Modality, SamplingOptions
from mvp4d_jax.diffusion.distillation import DistillOptions
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.latent_frames import latent_count
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer_config import REMAT_POLICIES, TransformerConfig
from mvp4d_jax.training.state import OptimiserOptions
from mvp4d_jax.training.step import LossOptions, check_accumulation

BY_TOKENS, COGVIDEOX_TOKENS = "tokens", 17_776  # 226 of text and 13 latent frames of 30 x 45 patches


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
      name: for the log.
      start, steps: first global step; how many.
      learning_rate: highest; `warmup` steps rise to it, then "constant" or a "cosine" falls to a hundredth.
      image_size: pixels a side.
      modalities: the mixture.
      shards: folders to read; () takes those of `config.data.shards`.
      mesh, remat, snr_shift: this stage's own, where they are not None. `snr_shift` may be "tokens":
        `config.loss.snr_shift` times sqrt(N / 17,776) for the N tokens of the stage's largest sample. That is Stable
        Diffusion 3's rule (a noise level's signal-to-noise ratio falls with the square root of what is averaged over;
        arXiv 2403.03206, section 5.3.2), from the 17,776 tokens that CogVideoX-2B was trained with at its shift of 3.
    """

    name: str
    start: int
    steps: int
    learning_rate: float
    warmup: int
    decay: str
    image_size: int
    modalities: tuple[Modality, ...]
    shards: tuple[str, ...]
    mesh: tuple[int, int, int] | None = None
    remat: str | None = None
    snr_shift: float | str | None = None

    @property
    def stop(self) -> int:
        return self.start + self.steps

    @property
    def used(self) -> tuple[Modality, ...]:
        """The kinds of data that have a weight."""
        return tuple(modality for modality in self.modalities if modality.weight > 0)

    @property
    def mesh_field(self) -> str:
        """The config's field that names the stage's mesh."""
        return "config.mesh" if self.mesh is None else f"config.stages.{self.name}.mesh"


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """A config, resolved."""

    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    conditioning: ConditioningConfig
    optimiser: OptimiserOptions
    loss: LossOptions
    sampling: SamplingOptions
    stages: tuple[Stage, ...]
    mesh: tuple[int, int, int]
    distill: DistillOptions

    @property
    def steps(self) -> int:
        return self.stages[-1].stop

    def stage_at(self, step: int) -> Stage:
        """The stage that takes the update after `step` updates."""
        return next((stage for stage in self.stages if step < stage.stop), self.stages[-1])

    def for_stage(self, stage: Stage) -> TrainingPlan:
        """The plan with what a stage has of its own: mesh, remat, shift of the noise schedule."""
        shift = self.loss.snr_shift if stage.snr_shift is None else stage.snr_shift
        if shift == BY_TOKENS:
            patches = (self.latent_size(stage) // self.transformer.patch_size) ** 2
            most = max((1 + modality.views * modality.latents) * patches for modality in stage.used)
            shift = self.loss.snr_shift * math.sqrt(most / COGVIDEOX_TOKENS)
        return dataclasses.replace(
            self,
            mesh=stage.mesh or self.mesh,
            loss=dataclasses.replace(self.loss, snr_shift=float(shift)),
            transformer=dataclasses.replace(self.transformer, remat=stage.remat or self.transformer.remat),
        )

    def latent_size(self, stage: Stage) -> int:
        return stage.image_size // self.autoencoder.spatial_compression_ratio

    def learning_rate(self) -> Callable[[jax.Array], jax.Array]:
        """step -> learning rate, over all stages."""
        starts = jnp.asarray([stage.start for stage in self.stages], jnp.float32)
        lengths = jnp.asarray([stage.steps for stage in self.stages], jnp.float32)
        peaks = jnp.asarray([stage.learning_rate for stage in self.stages], jnp.float32)
        warmups = jnp.asarray([stage.warmup for stage in self.stages], jnp.float32)
        cosine = jnp.asarray([stage.decay == "cosine" for stage in self.stages])

        def rate(step: jax.Array) -> jax.Array:
            step = step.astype(jnp.float32)
            index = jnp.clip(jnp.searchsorted(starts, step, side="right") - 1, 0, len(self.stages) - 1)
            done = step - starts[index]
            rising = (done + 1) / jnp.maximum(warmups[index], 1)
            part = (done - warmups[index]) / jnp.maximum(lengths[index] - warmups[index], 1)
            falling = 0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(part, 0, 1)))
            return peaks[index] * jnp.where(done < warmups[index], rising, jnp.where(cosine[index], falling, 1.0))

        return rate


def resolve(config: ml_collections.ConfigDict) -> TrainingPlan:
    """Reads and checks a config.

    Raises:
      UserError: naming the field at fault.
    """
    autoencoder = AutoencoderConfig.named(config.autoencoder_size)
    conditioning = _conditioning(config, autoencoder)
    transformer = _transformer(config, conditioning)
    if transformer.latent_channels != autoencoder.latent_channels:
        raise UserError(
            "config.autoencoder_size",
            f"'{config.autoencoder_size}' makes {autoencoder.latent_channels} "
            f"latent channels, the transformer takes {transformer.latent_channels}",
            "use the same size",
        )
    optimiser = _options(OptimiserOptions, config.optimiser, "optimiser")
    loss = _loss(config, conditioning)
    stages = _stages(config, autoencoder, transformer, optimiser)
    return TrainingPlan(
        transformer,
        autoencoder,
        conditioning,
        optimiser,
        loss,
        _options(SamplingOptions, config.sampling, "sampling"),
        stages,
        tuple(config.mesh),
        _options(DistillOptions, config.get("distill", ml_collections.ConfigDict()), "distill"),
    )


def _conditioning(config: ml_collections.ConfigDict, autoencoder: AutoencoderConfig) -> ConditioningConfig:
    """The maps' config with what the autoencoder decides: their size beside pictures, in time, and painted channels."""
    ratio = autoencoder.spatial_compression_ratio
    if config.conditioning.get("image_to_latent", ratio) != ratio:
        raise UserError(
            "config.conditioning.image_to_latent",
            f"is {config.conditioning.image_to_latent}",
            f"leave it out: the {config.autoencoder_size} autoencoder makes it {ratio}",
        )
    conditioning = _options(ConditioningConfig, config.conditioning, "conditioning")
    return dataclasses.replace(
        conditioning,
        image_to_latent=ratio,
        temporal_stride=autoencoder.temporal_compression_ratio,
        painted=autoencoder.latent_channels if conditioning.painted else 0,
    )


def _loss(config: ml_collections.ConfigDict, conditioning: ConditioningConfig) -> LossOptions:
    loss = _options(LossOptions, config.loss, "loss")
    if loss.photo and not conditioning.painted:
        raise UserError(
            "config.loss.photo", f"is {loss.photo:g} without config.conditioning.painted", "set that too, or 0 here"
        )
    return loss


def _stages(
    config: ml_collections.ConfigDict,
    autoencoder: AutoencoderConfig,
    transformer: TransformerConfig,
    optimiser: OptimiserOptions,
) -> tuple[Stage, ...]:
    """The stages of the curriculum, in the order they run."""
    stages, start = [], 0
    if not set(config.curriculum) <= set(config.stages) or len(set(config.curriculum)) != len(config.curriculum):
        raise UserError(
            "config.curriculum",
            f"is {tuple(config.curriculum)}",
            f"name stages, each once, in the order they run: {', '.join(config.stages)}",
        )
    for name in config.curriculum:  # a ConfigDict keeps its keys in alphabetical order
        stage = _stage(name, start, config.stages[name], autoencoder.temporal_compression_ratio)
        multiple = autoencoder.spatial_compression_ratio * transformer.patch_size
        if stage.image_size % multiple:
            raise UserError(
                f"config.stages.{name}.image_size", f"is {stage.image_size}", f"choose a multiple of {multiple}"
            )
        for modality in stage.modalities:
            check_accumulation(optimiser, modality.batch, f"config.stages.{name}.mixture.{modality.kind}.batch")
        stages.append(stage)
        start = stage.stop
    if not stages or start < 1:
        raise UserError("config.stages", "have no steps", "give at least one stage with steps")
    return tuple(stages)


def _transformer(config: ml_collections.ConfigDict, conditioning: ConditioningConfig) -> TransformerConfig:
    changes = {name: value for name, value in config.transformer.items() if name != "size" and value is not None}
    if changes.get("context_form") == "gather":  # stored configs may name it; keys and values are always gathered
        del changes["context_form"]
    try:
        return TransformerConfig.named(config.transformer.size, conditioning_channels=conditioning.channels, **changes)
    except (ValueError, TypeError) as error:
        raise UserError("config.transformer", str(error)) from None


def _options(kind: type, settings: ml_collections.ConfigDict, where: str) -> Any:
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})
    except TypeError as error:
        raise UserError(f"config.{where}", str(error).replace("__init__() ", "")) from None


def _stage(name: str, start: int, settings: ml_collections.ConfigDict, stride: int) -> Stage:
    """A stage; `stride` is the number of frames per latent frame after the first."""
    if settings.decay not in ("constant", "cosine"):
        raise UserError(f"config.stages.{name}.decay", f"is '{settings.decay}'", "choose 'constant' or 'cosine'")
    modalities = []
    for kind, mix in settings.mixture.items():
        latents = latent_count(mix.frames, stride, f"config.stages.{name}.mixture.{kind}.frames")
        modalities.append(Modality(kind, mix.weight, mix.views, latents, mix.batch))
    if not any(modality.weight for modality in modalities):
        raise UserError(f"config.stages.{name}.mixture", "has no kind of data of weight above 0", "give one a weight")
    mesh, remat, shift = (settings.get(field) for field in ("mesh", "remat", "snr_shift"))
    if remat not in (None, *REMAT_POLICIES):
        raise UserError(f"config.stages.{name}.remat", f"is '{remat}'", f"choose from {', '.join(REMAT_POLICIES)}")
    if isinstance(shift, str) and shift != BY_TOKENS:  # a number takes the type of the word that it replaces
        with contextlib.suppress(ValueError):
            shift = float(shift)
    if shift not in (None, BY_TOKENS) and not (fits(shift, "float") and shift > 0):
        raise UserError(f"config.stages.{name}.snr_shift", f"is '{shift}'", f"give a positive number, or '{BY_TOKENS}'")
    return Stage(
        name,
        start,
        settings.steps,
        settings.learning_rate,
        settings.warmup,
        settings.decay,
        settings.image_size,
        tuple(modalities),
        tuple(settings.shards),
        _mesh(mesh, name),
        remat,
        shift,
    )


def _mesh(value: Any, stage: str) -> tuple[int, int, int] | None:
    """A stage's mesh; from the command line it may come as the text of three numbers."""
    if value is not None and not isinstance(value, str | list | tuple):
        value = (value,)
    if isinstance(value, str):
        value = tuple(int(part) if part.strip().lstrip("-").isdigit() else part for part in value.split(","))
    if value is not None and (len(value) != 3 or not all(fits(size, "int") for size in value)):
        raise UserError(f"config.stages.{stage}.mesh", f"is {value}", "give data,fsdp,context, as 1,8,8")
    return None if value is None else tuple(value)


NO_AUTOENCODER = "none"


def autoencoder_folder(config: ml_collections.ConfigDict) -> Path | None:
    """Where the config's autoencoder lies: a folder, or "builtin:tiny" for the one that ships.

    None where the config says "none": shards are then not held to an autoencoder, and nothing can be decoded.

    Raises:
      UserError: nothing is named, or the folder holds no autoencoder.
    """
    if not config.autoencoder:
        raise UserError(
            "config.autoencoder", "names no folder", "give --config.autoencoder=FOLDER (config.json and *.safetensors)"
        )
    if config.autoencoder == NO_AUTOENCODER:
        return None
    if config.autoencoder.startswith("builtin:"):
        folder = Path(mvp4d_jax.__file__).parent / "weights" / config.autoencoder.removeprefix("builtin:") / "vae"
    else:
        folder = Path(config.autoencoder)
    if not (folder / "config.json").is_file():
        raise UserError(
            "config.autoencoder",
            f"{folder} holds no autoencoder (no config.json)",
            "give the folder with config.json and *.safetensors",
        )
    return folder


def check_prepare(config: ml_collections.ConfigDict, plan: TrainingPlan) -> None:
    """Raises UserError where shards of `config.prepare` would serve no stage of the config."""
    sizes = sorted({stage.image_size for stage in plan.stages})
    if config.prepare.image_size not in sizes:
        raise UserError(
            "config.prepare.image_size",
            f"is {config.prepare.image_size}, the stages take {' and '.join(map(str, sizes))}",
            "choose one of them; each size has shards of its own",
        )
    longest = max(
        plan.autoencoder.frames_of(modality.latents)
        for stage in plan.stages
        for modality in stage.used
        if stage.image_size == config.prepare.image_size
    )
    if config.prepare.frames < longest:
        raise UserError(
            "config.prepare.frames",
            f"is {config.prepare.frames}, a stage takes windows of {longest}",
            f"choose {longest} or more",
        )


def validates(config: ml_collections.ConfigDict) -> bool:
    """Whether a run measures held-out shards."""
    return bool(config.data.validation_shards) and config.validation.batches > 0


def check_batches(plan: TrainingPlan, devices: Sequence[jax.Device] | None = None, *, validated: bool = False) -> None:
    """Raises UserError for a stage's mesh that the devices cannot form, and for a batch of it that the mesh does not
    divide, micro-batches included.

    Args:
      plan: of the whole run, not of one stage.
      validated: whether held-out shards are measured: in every stage, on its mesh, by batches of the last one.
    """
    for stage in plan.stages:
        mesh = parallel.make_mesh(plan.for_stage(stage).mesh, devices, stage.mesh_field)
        for modality in stage.used:
            where = f"config.stages.{stage.name}.mixture.{modality.kind}.batch"
            parallel.check_batch(mesh, modality.batch, where)
            if plan.optimiser.accumulation > 1:
                parallel.check_batch(
                    mesh, modality.batch // plan.optimiser.accumulation, f"{where} / config.optimiser.accumulation"
                )
        for modality in plan.stages[-1].used if validated else ():
            where = f"config.stages.{plan.stages[-1].name}.mixture.{modality.kind}.batch"
            parallel.check_batch(mesh, modality.batch, f"{where}, which validation takes in stage '{stage.name}', too")


def batch_shapes(plan: TrainingPlan, stage: Stage, modality: Modality, layout: jax.sharding.Sharding) -> dict[str, Any]:
    """The model's inputs of one step, as shapes with shardings."""
    size, channels = plan.latent_size(stage), plan.autoencoder.latent_channels
    b, v, n, cc = modality.batch, modality.views, modality.latents, plan.transformer.conditioning_channels
    shapes = {
        "latents": ((b, v, n, size, size, channels), jnp.float16),
        "conditioning": ((b, v, n, size, size, cc), jnp.float16),
        "reference_latents": ((b, size, size, channels), jnp.float16),
        "reference_conditioning": ((b, size, size, cc), jnp.float16),
        "clean": ((b, v, n), jnp.bool_),
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout) for name, (shape, dtype) in shapes.items()}
