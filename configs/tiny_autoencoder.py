"""The tiny autoencoder: 64 x 64 pixels, on two CPU cores. Trained first; the tiny transformer works on its latents.

    mvp4d studio --identities 0:160 --cameras random:6 --frames 13 --size 64 --out captures
    mvp4d train --config tiny_autoencoder --config.data.captures=captures --workdir runs/tiny_autoencoder
    mvp4d train --config tiny_autoencoder --workdir runs/tiny_autoencoder --export vae

docs/weights.md says what it cost and gives.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "autoencoder"
    config.size = "tiny"
    config.seed = 0
    config.steps = 6000
    config.learning_rate, config.warmup = 2e-3, 100  # cosine decay to a twentieth
    config.ema = 0.998
    config.clip = 1.0
    config.image_batch, config.clip_batch = 24, 6  # single images and clips take turns
    config.clip_frames = 5
    config.data = ConfigDict({"captures": "", "held_out": 8})  # a folder of captures; the last ones measure
    config.loss = ConfigDict({"gradient": 0.6, "kl": 3e-5})
    config.every = ConfigDict({"metrics": 25, "checkpoint": 250, "validation": 250})
    return config
