"""The egg with photos: a sharper capture's pictures as a portrait, and a small fit of both."""

import dataclasses

import numpy as np
from export_world import small_config

from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait
from mvp4d_export.dataset import Dataset
from mvp4d_export.distill import Distiller
from mvp4d_export.photos import Photos
from mvp4d_export.presets import PhotoConfig

SIDE = 96
PHOTOS = PhotoConfig(side=SIDE, start_gaussians=900)


def portrait_of(capture: Capture, views: list[int]) -> Portrait:
    """Pictures of a capture's first frame as photos."""
    photos = [
        np.concatenate([capture.frame(capture.names[view], 0), capture.masks(view)[0][..., None]], -1) for view in views
    ]
    for photo in photos:  # straight colours: taken off the white
        alpha = photo[..., 3:].astype(float) / 255
        photo[..., :3] = np.clip(255 + (photo[..., :3] - 255.0) / np.maximum(alpha, 1 / 255), 0, 255)
    motion = capture.motion[np.zeros(len(views), int)]
    return Portrait(tuple(photos), capture.cameras[np.array(views), 0], motion, capture.head)


def photo_fit(egg, portrait: Portrait, **changes) -> Distiller:
    config = small_config(**{"photos": PHOTOS, "frames_per_step": 3, "max_gaussians": 3500, **changes})
    config = dataclasses.replace(config, avatar=dataclasses.replace(config.avatar, antialiased=True))
    return Distiller(Dataset.load(Capture.open(egg)), config, photos=Photos.load(portrait, SIDE))
