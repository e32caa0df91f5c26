"""What cameras measure of a head: landmarks and irises in pixels, how far each may be trusted, how exact they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d_jax.tracking.landmarks import Landmarks

# How far each landmark may be trusted: the contour of the jaw is not a fixed place on the skin.
WEIGHTS = np.concatenate([np.full(17, 0.3), np.full(10, 0.7), np.full(9, 1.0), np.full(12, 1.3), np.full(20, 1.0)])
EYES = np.array([[42, 43, 44, 45, 46, 47], [36, 37, 38, 39, 40, 41]])  # of the person's left eye and of the right


def observations(seen: Landmarks, landmark: float) -> dict[str, np.ndarray]:
    """What one camera measures in each frame; `landmark` is the standard deviation of landmarks over the face box."""
    count = len(seen.points)
    found, iris_found = seen.found, np.isfinite(seen.iris).all(-1)  # [F], [F, 2]
    return {
        "points": np.where(found[:, None, None], seen.points, 0.0)[:, None],  # [F, 1, 68, 2]
        "weights": (found[:, None] * WEIGHTS)[:, None],
        "iris": np.where(iris_found[..., None], seen.iris, 0.0)[:, None],
        "iris_weights": (iris_found & found[:, None])[:, None] * 1.0,
        "spread": np.full((count, 1), landmark * (seen.box_size if found.any() else 1.0)),
        "image_size": np.tile(np.asarray(seen.image_size, float), (count, 1)),
    }


def observations_of_rig(
    seen: Sequence[Landmarks], cameras: Camera, visible: np.ndarray, landmark: float
) -> dict[str, np.ndarray]:
    """What V cameras measure in each frame, and the cameras.

    Args:
      seen: of each camera; cameras: [V], known.
      visible: [F, V, 68] how far each landmark may be trusted in each picture, 0 to 1.
    """
    parts = [observations(view, landmark) for view in seen]
    data = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0] if name != "image_size"}
    data["weights"] = data["weights"] * visible
    data["iris_weights"] = data["iris_weights"] * visible[..., EYES].mean(-1)
    count = len(data["points"])
    for name in FIELDS:
        value = np.asarray(getattr(cameras, name), np.float64)
        data[name] = np.broadcast_to(value, (count, *value.shape))
    return data
