"""The tiny model at 128 x 128 pixels, 4 views x 9 frames: weights that ship, too, trained on one GPU.

    mvp4d prepare CAPTURE... --config tiny_128 --out shards
    mvp4d train --config tiny_128 --config.data.shards=shards --workdir runs/tiny_128

1,344 tokens a sample (64 of the reference, 4 views x 5 latent frames of two frames x 64). The autoencoder makes of
single images what `tiny`'s does.
docs/weights.md says what it cost and gives.
"""

from ml_collections import ConfigDict

from mvp4d_configs.base import mix, stage
from mvp4d_configs.tiny import get_config as tiny


def get_config() -> ConfigDict:
    config = tiny()
    config.autoencoder_size, config.autoencoder = "tiny_128", "builtin:tiny_128"
    config.mesh = (1, -1, 1)
    config.transformer.spatial_scale = 2 * 1.875  # tokens are half as far apart on the head as `tiny`'s
    config.prepare.image_size = 128
    config.data.threads, config.data.workers = 2, 8
    config.optimiser.ema = 0.998
    config.checkpoint.every, config.validation.every = 500, 1000
    mixture = {
        "monocular": mix(weight=0.1, frames=9, batch=32),
        "static": mix(weight=0.45, views=4, batch=32),
        "multiview": mix(weight=0.45, views=4, frames=9, batch=16),
    }
    config.stages = ConfigDict(
        {
            "all": stage(steps=6000, learning_rate=1e-3, warmup=200, image_size=128, mixture=mixture),
            "settle": stage(steps=4000, learning_rate=1e-3, warmup=0, decay="cosine", image_size=128, mixture=mixture),
        }
    )
    return config
