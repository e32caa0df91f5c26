"""What every training config has; `tiny`, `small` and `mvp4d_2b` fill it in."""

import dataclasses

from ml_collections import ConfigDict

from mvp4d_jax.data.options import PrepareOptions
from mvp4d_jax.data.pipeline import SamplingOptions
from mvp4d_jax.diffusion.distillation import DistillOptions
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.training.state import OptimiserOptions
from mvp4d_jax.training.step import LossOptions

LATENTS_SAY = {"latent_channels", "conditioning_channels"}


def defaults(kind: type, **given: object) -> ConfigDict:
    """The fields of an options' dataclass; those without a default there are given."""
    return ConfigDict({field.name: field.default for field in dataclasses.fields(kind)} | given)


def base() -> ConfigDict:
    """All settings with neutral values: those of the dataclasses that explain them, where a section fills one."""
    config = ConfigDict()
    config.seed = 0
    config.head = "builtin"  # name of the head that captures must have
    config.autoencoder_size = "2b"
    config.autoencoder = ""  # folder with the autoencoder's weights (config.json, *.safetensors), or "none"
    config.initial = ""  # transformer folder to start from (a converted CogVideoX, a release's), or "random"
    config.mesh = (1, 1, -1)  # devices along data, fsdp, context; -1 takes what is left

    config.transformer = transformer("2b")
    config.conditioning = ConfigDict({})  # fields of ConditioningConfig that differ from its defaults
    config.prepare = defaults(PrepareOptions, image_size=512, frames=49, stride=24, images=4, variants=2)
    del config.prepare.photo_angle  # that of `sampling`
    config.data = ConfigDict(
        {
            "shards": (),  # folders that `mvp4d prepare` wrote
            "validation_shards": (),  # likewise, of other identities
            "threads": 4,
            "buffer": 4,
            "workers": 0,  # see data.pipeline.iterate
            "resident": False,  # shards are read once into the devices' memory (data.resident)
            "verify": True,  # compare every shard's checksum before the start
        }
    )
    config.optimiser = defaults(OptimiserOptions)
    config.loss = defaults(LossOptions)
    config.distill = defaults(DistillOptions)
    config.sampling = defaults(SamplingOptions)
    config.checkpoint = ConfigDict({"every": 1000, "keep_last": 3, "keep_best": 1})
    config.metrics = ConfigDict({"every": 20})
    config.profile = ConfigDict({"after": 10, "steps": 0})  # a JAX profile of so many steps, `after` others; 0: none
    config.validation = ConfigDict(
        {
            "every": 1000,
            "batches": 2,  # of each kind of data: loss on held-out samples, with the same noise every time
            "sample_steps": 25,
            "guidance": 2.0,  # of the sample that is drawn for the eye; 0 steps: none
        }
    )
    config.curriculum = ()  # names of the stages, in the order they run
    config.stages = ConfigDict()
    return config


def transformer(size: str, **changes: object) -> ConfigDict:
    """A transformer by its size's name; what is None stays as the size has it."""
    fields = {field.name for field in dataclasses.fields(TransformerConfig)} - LATENTS_SAY
    return ConfigDict({"size": size, **dict.fromkeys(sorted(fields)), **changes})


def stage(
    *,
    steps: int,
    learning_rate: float,
    image_size: int,
    mixture: dict[str, dict],
    warmup: int = 1000,
    decay: str = "constant",
    shards: tuple[str, ...] = (),
    mesh: tuple[int, int, int] | None = None,
    remat: str | None = None,
    snr_shift: float | str | None = None,
) -> ConfigDict:
    """One stage of the curriculum; see `mvp4d_jax.training.plan.Stage`."""
    return ConfigDict(
        {
            "steps": steps,
            "learning_rate": learning_rate,
            "warmup": warmup,
            "decay": decay,
            "image_size": image_size,
            "mixture": mixture,
            "shards": shards,
            "mesh": mesh,
            "remat": remat,
            "snr_shift": snr_shift,
        }
    )


def mix(*, weight: float, batch: int, views: int = 1, frames: int = 1) -> dict:
    """One kind of data in a mixture; see `mvp4d_jax.data.pipeline.Modality`."""
    return {"weight": weight, "views": views, "frames": frames, "batch": batch}
