"""A person cut out of a photo without any network: random-walker segmentation seeded by the fitted head.

Grady 2006, through scikit-image. It is an aid for plain backgrounds, not a matting network: hair against a busy
background comes out ragged, and a mask that the user brings is always better.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import random_walker
from skimage.transform import resize

WORKING_SIDE = 160  # pixels: the walk solves a linear system with one unknown per pixel
BETA = 400.0  # how much a colour edge hinders the walk


def segment_person(rgb: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Estimates alpha of the person whose fitted head is drawn in a crop.

    Args:
      rgb: [H, W, 3] float in [0, 1].
      head: [H, W] bool, silhouette of the fitted head, neck and shoulders (no hair).

    Returns:
      [H, W] float32 in [0, 1].
    """
    size = rgb.shape[:2]
    scale = WORKING_SIDE / max(size)
    small_size = tuple(max(16, round(side * scale)) for side in size)
    small = resize(rgb, small_size, order=1, anti_aliasing=scale < 1)
    silhouette = resize(head.astype(float), small_size, order=1) > 0.5
    labels = seeds(silhouette)
    probability = random_walker(small, labels, beta=BETA, mode="bf", channel_axis=-1, return_full_prob=True)[0]
    alpha = np.clip((ndimage.gaussian_filter(probability, 0.7) - 0.35) / 0.3, 0, 1)
    return resize(alpha, size, order=1).astype(np.float32)


def seeds(silhouette: np.ndarray) -> np.ndarray:
    """Seed labels [h, w]: 1 well inside the head, 2 far outside of it, 0 where the walk decides.

    Far outside: further from the silhouette than a head of hair reaches, a third of the head's height, or at the upper
    and side borders of the picture where the silhouette does not come near.
    """
    rows = np.flatnonzero(silhouette.any(1))
    height = np.ptp(rows) + 1 if len(rows) else silhouette.shape[0] // 2
    inside = ndimage.binary_erosion(silhouette, iterations=max(1, round(0.03 * height)))
    distance = ndimage.distance_transform_edt(~silhouette)
    outside = distance > 0.34 * height
    border = np.zeros_like(silhouette)
    border[:2], border[:, :2], border[:, -2:] = True, True, True
    outside |= border & (distance > 0.12 * height)
    labels = np.zeros(silhouette.shape, np.int32)
    labels[outside], labels[inside] = 2, 1
    if not outside.any():
        labels[0, [0, -1]] = 2
    return labels
