"""The person goes on below a photo that ends above the model's crop, as references in training do.

A reference is the square around the head. Of a tight portrait, part of it lies outside the photo. Left white there, the
body is drawn white: the model takes the edge of the photo for the edge of the clothes.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

WHOLE = 0.99  # share of a pixel inside the photo from which it is told by it alone
SHOULDER = 0.6  # rows by which an outline falls, a column outside of the photo
SHOULDERS = 2.0  # half width of a body over the head's, to which what ends narrower widens


def continue_below(
    crop: np.ndarray, inside: np.ndarray, chin: float, half_width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Continues what the photo shows of the body beyond its lower edge, and beyond its sides below the chin.

    Downwards every column goes on as it ends, wider by as much as shoulders are; sidewards every row does, lower by
    `SHOULDER` for every column.

    Args:
      crop: [H, W, 4] float32 in [0, 1] of `shot.crop_reference`: the person on white, and alpha.
      inside: [H, W], the share of each pixel inside the photo.
      chin: row of the chin. Nothing above it is continued.
      half_width: half the head's width in columns.

    Returns:
      crop with the continuation, alpha 0 where there is neither photo nor person; and `inside`, 1 where it continues.
    """
    crop = crop.copy()
    crop[..., 3] -= 1 - inside  # around a photo a crop is 1
    whole = inside > WHOLE
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    if not len(rows) or whole.all():
        return crop, inside
    (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
    ends = np.flatnonzero(crop[bottom, left : right + 1, 3] > 0.5) + left
    height, width = inside.shape
    row, column = np.mgrid[:height, :width].astype(np.float64)
    below = np.maximum(row - bottom, 0)
    if len(ends):
        middle, half = ends.mean(), max((ends[-1] - ends[0] + 1) / 2, 1.0)
        widest = SHOULDERS * half_width / half
        widening = np.clip(SHOULDERS - half / half_width, 0, 1)
        column = middle + (column - middle) / np.clip(1 + widening * below / half, 1, max(widest, 1))
    aside = np.maximum(np.maximum(left - column, column - right), 0)
    row = np.minimum(row - SHOULDER * aside, bottom)
    taken = ~whole & (np.mgrid[:height, :width][0] >= chin) & (row >= max(chin, top))
    there = [row[taken], np.clip(column, left, right)[taken]]
    told = np.stack([map_coordinates(crop[..., index], there, order=1, mode="nearest") for index in range(4)], axis=-1)
    outside = 1 - inside[taken][:, None]
    crop[taken] += outside * (told - [1, 1, 1, 0])
    known = inside.copy()
    known[taken] = np.maximum(known[taken], told[:, 3] > 0.5)
    return crop, known
