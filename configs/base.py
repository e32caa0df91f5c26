"""What every training config has; `tiny`, `small` and `mvp4d_2b` fill it in."""

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """All settings with neutral values. Options of `prepare`, `transformer`, `optimiser`, `loss`, `distill` and
    `sampling` are explained by the dataclasses they fill: `PrepareOptions`, `TransformerConfig`, `OptimiserOptions`,
    `LossOptions`, `DistillOptions`, `SamplingOptions`.
    """
    config = ConfigDict()
    config.seed = 0
    config.head = "builtin"  # name of the head that captures must have
    config.autoencoder_size = "2b"
    config.autoencoder = ""  # folder with the autoencoder's weights (config.json, *.safetensors), or "none"
    config.initial = ""  # transformer folder to start from (a converted CogVideoX), or "random"
    config.mesh = (1, 1, -1)  # devices along data, fsdp, context; -1 takes what is left

    config.transformer = transformer("2b")
    config.conditioning = ConfigDict({})  # fields of ConditioningConfig that differ from its defaults
    config.prepare = ConfigDict(
        {
            "image_size": 512,
            "frames": 49,
            "stride": 24,
            "images": 4,
            "crop": "head",
            "variants": 2,
            "jitter_scale": 0.15,
            "jitter_shift": 0.08,
            "colours": 1,
            "photos": 2,
            "captures_per_shard": 8,
            "fit_error": 0.0,
            "photo_error": 0.0,  # of references, as photos and trackers bring them
        }
    )
    config.data = ConfigDict(
        {
            "shards": (),  # folders that `mvp4d prepare` wrote
            "validation_shards": (),  # likewise, of other identities
            "threads": 4,
            "buffer": 4,
            "workers": 0,  # see data.pipeline.iterate
            "verify": True,  # compare every shard's checksum before the start
        }
    )
    config.optimiser = ConfigDict(
        {
            "b1": 0.9,
            "b2": 0.95,
            "eps": 1e-8,
            "weight_decay": 1e-3,
            "clip": 1.0,
            "ema": 0.9999,
            "freeze": (),
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict({"timesteps": "frame", "snr_shift": 3.0, "photo": 0.0})
    config.distill = ConfigDict(
        {  # steps 0: no distillation
            "teacher": "",
            "steps": 0,
            "substeps": 4,
            "guidance": 1.5,
            "truth": 0.0,
            "rollout": 0.0,
        }
    )
    config.sampling = ConfigDict(
        {
            "reference_angle": 1.05,
            "condition_dropout": 0.1,
            "clean_prefix": 0.1,
            "clean_views": 0.1,
            "far_expressions": 0.0,
        }
    )
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
    fields = (
        "dtype",
        "remat",
        "attention_backend",
        "context_form",
        "pad_patches_to",
        "num_layers",
        "num_heads",
        "head_dim",
        "skip_width",
        "detail_width",
        "time_embed_dim",
        "text_dim",
        "prompt_tokens",
        "spatial_scale",
        "temporal_scale",
    )
    return ConfigDict({"size": size, **dict.fromkeys(fields), **changes})


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
