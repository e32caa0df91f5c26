"""A student of `tiny_128` that samples in four steps without guidance.

    mvp4d prepare CAPTURE... --config tiny_128 --out shards
    mvp4d train --config tiny_128_turbo --config.data.shards=shards --workdir runs/turbo
    mvp4d train --config tiny_128_turbo --workdir runs/turbo --export turbo

The teacher is the release `tiny_128`; another of the same maps and latents is `--config.distill.teacher=RELEASE`.
"""

from ml_collections import ConfigDict

from mvp4d_configs.base import mix, stage
from mvp4d_configs.tiny_128 import get_config as tiny_128


def get_config() -> ConfigDict:
    config = tiny_128()
    config.initial = ""  # a student starts from its teacher
    config.distill.teacher = "tiny_128"
    config.distill.steps, config.distill.substeps, config.distill.guidance = 4, 4, 1.5
    config.sampling.condition_dropout = 0.0  # guidance is folded in: nobody asks a student without conditions
    config.validation.sample_steps, config.validation.guidance = config.distill.steps, 1.0
    config.curriculum = ("distill",)
    mixture = {
        "monocular": mix(weight=0.1, frames=9, batch=32),
        "static": mix(weight=0.45, views=4, batch=32),
        "multiview": mix(weight=0.45, views=4, frames=9, batch=16),
    }
    config.stages = ConfigDict(
        {
            "distill": stage(
                steps=2000, learning_rate=2e-4, warmup=50, decay="cosine", image_size=128, mixture=mixture
            ),
        }
    )
    return config
