"""Alpha of generated frames: they are painted on white, so near-white that touches the border is background."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

WHITE = 0.93  # the darkest channel of a background pixel
SOFTNESS = 0.12  # channel units over which alpha rises from 0 to 1


def matte(rgb: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
    """Estimates alpha from a picture on white.

    Args:
      rgb: [H, W, 3] float in [0, 1].
      head: [H, W] bool, where the head mesh is drawn: opaque whatever its colour (teeth, the white of an eye).

    Returns:
      [H, W] float32 in [0, 1]. An estimate: light clothes that touch the picture's border may be taken for background.
    """
    darkest = rgb.min(axis=-1)
    near_white = darkest > WHITE
    if head is not None:
        near_white &= ~head
    labels, _ = ndimage.label(np.pad(near_white, 1, constant_values=True))
    background = labels[1:-1, 1:-1] == labels[0, 0]
    # A soft edge: one pixel around the background, alpha follows how far the colour is from white.
    rim = ndimage.binary_dilation(background) & ~background
    alpha = np.where(background, 0.0, 1.0)
    soft = np.clip((1 - darkest) / SOFTNESS, 0, 1)
    alpha[rim] = soft[rim]
    if head is not None:
        alpha[head] = 1
    return alpha.astype(np.float32)
