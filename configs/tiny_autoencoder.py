"""The tiny autoencoder: 64 x 64 pixels, on two CPU cores. Trained first; the tiny transformer works on its latents.

    mvp4d studio --identities 0:450 --cameras random:8 --frames 13 --size 64 --out captures
    mvp4d train --config tiny_autoencoder --config.data.captures=captures --workdir runs/tiny_autoencoder
    mvp4d train --config tiny_autoencoder --config.data.captures=captures --workdir runs/tiny_autoencoder --export vae

docs/weights.md says what it cost and gives.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "autoencoder"
    config.size = "tiny"
    config.seed = 0
    config.initial = ""  # autoencoder folder to start from; "": from random weights
    config.steps = 8000
    config.learning_rate, config.warmup = 1.5e-3, 100  # cosine decay to a twentieth
    config.ema = 0.998
    config.clip = 1.0
    # Small batches: every pixel is a target, so that many steps are worth more. Every third step learns a clip of nine
    # frames, as many as the tiny transformer makes.
    config.image_batch, config.clip_batch, config.clip_every = 4, 1, 3
    config.clip_frames = 9
    config.recoloured = 2 / 3  # share of the pictures that are shown in other colours
    # A folder of captures, of which the first ones measure; batches are made ahead by threads.
    config.data = ConfigDict({"captures": "", "held_out": 4, "threads": 1, "buffer": 4})
    config.loss = ConfigDict({"gradient": 0.6, "motion": 0.6, "square": 4.0, "kl": 3e-5})
    config.every = ConfigDict({"metrics": 25, "checkpoint": 250, "validation": 500})
    return config
