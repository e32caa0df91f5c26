"""The small model: 128 x 128 pixels, 6 views x 17 frames, 130 M parameters, for one GPU of 24 GB or more.

    mvp4d train --config tiny_autoencoder --config.size=small --config.clip_frames=17 \\
        --config.data.captures=captures --workdir runs/small_autoencoder
    mvp4d train --config tiny_autoencoder --config.size=small --config.clip_frames=17 \\
        --config.data.captures=captures --workdir runs/small_autoencoder --export vae
    mvp4d prepare captures --config small --config.autoencoder=vae --out shards
    mvp4d train --config small --config.autoencoder=vae --config.data.shards=shards --workdir runs/small

The autoencoder's steps and batches are those of the tiny one: more of both for a GPU (`--config.steps`, `.image_batch`,
`.clip_batch`). 1,984 tokens a sample (64 of the reference, 6 views x 5 latent frames x 64).
"""

from ml_collections import ConfigDict

from mvp4d_configs.base import base, mix, stage, transformer


def get_config() -> ConfigDict:
    config = base()
    config.autoencoder_size = "small"
    config.initial = "random"
    config.mesh = (1, -1, 1)
    config.transformer = transformer("small", dtype="bfloat16", remat="attention")
    config.prepare.image_size, config.prepare.frames, config.prepare.stride = 128, 17, 16
    config.prepare.variants = 2
    config.optimiser.ema, config.optimiser.weight_decay = 0.9995, 1e-2
    config.loss.timesteps, config.loss.snr_shift = "mixed", 1.5
    config.checkpoint.every, config.validation.every = 1000, 2000
    config.curriculum = ("views", "video")
    config.stages = ConfigDict(
        {
            "views": stage(
                steps=60000,
                learning_rate=3e-4,
                warmup=1000,
                image_size=128,
                mixture={
                    "monocular": mix(weight=0.25, frames=17, batch=96),
                    "static": mix(weight=0.5, views=6, batch=80),
                    "multiview": mix(weight=0.25, views=2, frames=17, batch=48),
                },
            ),
            "video": stage(
                steps=60000,
                learning_rate=2e-4,
                warmup=500,
                decay="cosine",
                image_size=128,
                mixture={
                    "monocular": mix(weight=0.15, frames=17, batch=96),
                    "static": mix(weight=0.15, views=6, batch=80),
                    "multiview": mix(weight=0.7, views=6, frames=17, batch=16),
                },
            ),
        }
    )
    return config
