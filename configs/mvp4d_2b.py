"""MVP4D at the paper's scale: CogVideoX-2B, 512 x 512 pixels, up to 8 views x 49 frames, on a TPU pod or a GPU cluster.

    mvp4d convert CogVideoX-2b weights
    mvp4d prepare CAPTURE... --config mvp4d_2b --config.autoencoder=weights/vae --out shards/512
    mvp4d prepare CAPTURE... --config mvp4d_2b --config.autoencoder=weights/vae --config.prepare.image_size=256 \\
        --config.prepare.frames=25 --out shards/256
    mvp4d preflight --config mvp4d_2b --topology v5p:4x4x4 --job train
    mvp4d train --config mvp4d_2b --config.initial=weights/transformer --config.autoencoder=weights/vae \\
        --config.data.shards=shards/512 --config.stages.images.shards=shards/256 --workdir runs/mvp4d

The first stage works at 256 pixels and has shards of its own. Captures are tracked with the head `flame2023-nojaw`
(`mvp4d track --head flame:PATH`).
107,520 tokens a sample in the last stage (1,024 of the reference, 8 views x 13 latent frames x 1,024). The paper tells
the curriculum's kinds of data, not its sizes: stage sizes, batch, learning rates and steps are this project's choice.
"""

from ml_collections import ConfigDict

from mvp4d_configs.base import base, mix, stage, transformer


def get_config() -> ConfigDict:
    config = base()
    config.head = "flame2023-nojaw"
    config.autoencoder_size = "2b"
    config.mesh = (1, 8, -1)  # 8 samples, each over all the devices that are left
    config.transformer = transformer("2b", dtype="bfloat16", remat="attention", text_dim=0)
    config.data.threads, config.data.workers = 8, 4
    config.optimiser.ema, config.optimiser.weight_decay = 0.9999, 1e-3
    config.loss.timesteps, config.loss.snr_shift = "mixed", 3.0
    config.checkpoint.every, config.checkpoint.keep_last, config.validation.every = 500, 4, 2000
    config.curriculum = ("images", "views", "full")
    config.stages = ConfigDict(
        {
            # Learn to follow the maps and to hold an identity: cheap samples, many of them.
            "images": stage(
                steps=20000,
                learning_rate=1e-4,
                warmup=1000,
                image_size=256,
                snr_shift="tokens",
                mixture={
                    "monocular": mix(weight=0.4, frames=25, batch=128),
                    "static": mix(weight=0.6, views=8, batch=128),
                },
            ),
            # Views and time together.
            "views": stage(
                steps=30000,
                learning_rate=1e-4,
                warmup=500,
                image_size=512,
                snr_shift="tokens",
                mixture={
                    "monocular": mix(weight=0.3, frames=49, batch=64),
                    "static": mix(weight=0.3, views=8, batch=64),
                    "multiview": mix(weight=0.4, views=4, frames=25, batch=16),
                },
            ),
            # The full size.
            "full": stage(
                steps=30000,
                learning_rate=5e-5,
                warmup=500,
                decay="cosine",
                image_size=512,
                snr_shift="tokens",
                mixture={
                    "monocular": mix(weight=0.15, frames=49, batch=64),
                    "static": mix(weight=0.15, views=16, batch=32),
                    "multiview": mix(weight=0.7, views=8, frames=49, batch=8),
                },
            ),
        }
    )
    return config
