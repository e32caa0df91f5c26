"""The tiny model: 64 x 64 pixels, 4 views x 9 frames, on two CPU cores. The weights that ship with the project.

    mvp4d prepare CAPTURE... --config tiny --out shards
    mvp4d train --config tiny --config.data.shards=shards --workdir runs/tiny

592 tokens a sample (16 of the reference, 4 views x 9 frames x 16). docs/weights.md says what it cost and gives.
"""

from ml_collections import ConfigDict

from mvp4d_configs.base import base, mix, stage, transformer


def get_config() -> ConfigDict:
    config = base()
    config.autoencoder_size = "tiny"
    config.autoencoder = "builtin:tiny"
    config.initial = "random"
    config.mesh = (1, 1, 1)
    config.transformer = transformer("tiny", dtype="float32", num_layers=4)
    config.conditioning = ConfigDict({"supersampling": 4, "painted": True})
    config.prepare.image_size, config.prepare.frames, config.prepare.stride = 64, 9, 4
    config.prepare.images, config.prepare.crop, config.prepare.variants = 3, "reference", 1
    config.prepare.colours = 2  # 450 people are few: more skins, hairs and shirts than they have
    config.prepare.photos = 1  # of each of them, 900 in all
    config.data.threads, config.data.buffer = 1, 8
    # Few steps on one machine: a short EMA, a high learning rate, no shift of the noise towards more frames.
    config.optimiser.ema, config.optimiser.weight_decay = 0.995, 1e-2
    config.loss.timesteps, config.loss.snr_shift, config.loss.photo = "mixed", 1.0, 4.0
    config.sampling.reference_angle = 1.05
    config.sampling.clean_prefix = 0.3  # every window but a video's first begins with one
    config.checkpoint.every, config.validation.every = 200, 400
    config.validation.batches, config.validation.sample_steps = 4, 0
    config.curriculum = ("all", "settle")
    mixture = {
        "monocular": mix(weight=0.1, frames=9, batch=16),
        "static": mix(weight=0.5, views=4, batch=16),
        "multiview": mix(weight=0.4, views=4, frames=9, batch=6),
    }
    config.stages = ConfigDict(
        {
            "all": stage(steps=8000, learning_rate=1e-3, warmup=100, image_size=64, mixture=mixture),
            "settle": stage(steps=2500, learning_rate=1e-3, warmup=0, decay="cosine", image_size=64, mixture=mixture),
        }
    )
    return config
