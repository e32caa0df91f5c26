"""Alpha of generated frames: they are painted on white, so near-white that touches the border is background."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

WHITE = 0.93  # the darkest channel of a background pixel
RIM = 2  # pixels from the background within which a pixel may hold some of it
REACH = 1.5  # pixels over which the colours of the person are averaged
FEW = 0.02  # share of such an average below which the nearest one tells a pixel's colour
PALE = 0.02  # squared distance of a colour from white below which white behind it does not show


def matte(rgb: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
    """Estimates alpha from a picture on white.

    A pixel beside the background is a mixture: of white, and of the person's colour a little further in.

    Args:
      rgb: [H, W, 3] float in [0, 1].
      head: [H, W] bool, where the head mesh is drawn: opaque whatever its colour (teeth, the white of an eye).

    Returns:
      [H, W] float32 in [0, 1]. An estimate: light clothes that touch the picture's border may be taken for background.
    """
    near_white = rgb.min(axis=-1) > WHITE
    if head is not None:
        near_white &= ~head
    labels, _ = ndimage.label(np.pad(near_white, 1, constant_values=True))
    background = labels[1:-1, 1:-1] == labels[0, 0]
    inner = ~ndimage.binary_dilation(background, iterations=RIM)
    alpha = np.where(background, 0.0, 1.0)
    if not inner.any():
        return alpha.astype(np.float32)
    rim = ndimage.binary_dilation(~background) & ~inner
    if head is not None:
        rim &= ~ndimage.binary_erosion(head, border_value=1)
    less = 1 - _person(rgb, inner)[rim]  # how far the person is from white
    square = (less**2).sum(-1)
    share = ((1 - rgb[rim]) * less).sum(-1) / np.maximum(square, PALE)
    alpha[rim] = np.where(square > PALE, share.clip(0, 1), alpha[rim])
    return alpha.astype(np.float32)


def _person(rgb: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """[H, W, 3] the mean colour of `inner` pixels [H, W] around each pixel; far from them that of the nearest."""
    weight = ndimage.gaussian_filter(inner.astype(np.float32), REACH)
    total = ndimage.gaussian_filter(np.where(inner[..., None], rgb, 0), (REACH, REACH, 0))
    mean = total / np.maximum(weight, 1e-6)[..., None]
    rows, columns = ndimage.distance_transform_edt(weight < FEW, return_distances=False, return_indices=True)
    return mean[rows, columns]
