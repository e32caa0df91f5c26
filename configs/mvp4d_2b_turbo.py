"""A four-step student of `mvp4d_2b`: 512 x 512 pixels, up to 8 views x 49 frames.

    mvp4d preflight --config mvp4d_2b_turbo --topology v5p:4x4x4 --job train
    mvp4d train --config mvp4d_2b_turbo --config.distill.teacher=release --config.autoencoder=release/vae \\
        --config.data.shards=shards --workdir runs/turbo

The teacher is a release of `mvp4d_2b` (`mvp4d train --config mvp4d_2b --export release`). A step costs the teacher's
2 x `substeps` evaluations beside the student's update; steps and learning rate are this project's choice.
"""

from ml_collections import ConfigDict

from mvp4d_configs.base import mix, stage
from mvp4d_configs.mvp4d_2b import get_config as mvp4d_2b


def get_config() -> ConfigDict:
    config = mvp4d_2b()
    config.initial = ""  # a student starts from its teacher
    config.distill.steps, config.distill.substeps, config.distill.guidance = 4, 4, 2.0
    config.sampling.condition_dropout = 0.0  # guidance is folded in: nobody asks a student without conditions
    config.validation.sample_steps, config.validation.guidance = config.distill.steps, 1.0
    config.curriculum = ("distill",)
    config.stages = ConfigDict(
        {
            "distill": stage(
                steps=4000,
                learning_rate=2e-5,
                warmup=200,
                decay="cosine",
                image_size=512,
                snr_shift="tokens",  # as the teacher's last stage, whose largest sample this is
                mixture={
                    "monocular": mix(weight=0.15, frames=49, batch=64),
                    "static": mix(weight=0.15, views=16, batch=32),
                    "multiview": mix(weight=0.7, views=8, frames=49, batch=8),
                },
            ),
        }
    )
    return config
