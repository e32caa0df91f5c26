"""Pinhole cameras, batched over any leading axes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

Array = Any


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pinhole camera in OpenCV axes: x right, y down, z forward. Pixel centres lie at +0.5.

    A world point X (y up, metres) lands at pixel u = fx x/z + cx, v = fy y/z + cy with (x, y, z) = world_to_camera X;
    the top-left corner of the image is (0, 0) and the centre of its first pixel (0.5, 0.5).

    Attributes:
      world_to_camera: [..., 4, 4], right-handed rigid transform.
      fx, fy, cx, cy: [...] pixels.
    """

    world_to_camera: Array
    fx: Array
    fy: Array
    cx: Array
    cy: Array


FIELDS = ("world_to_camera", "fx", "fy", "cx", "cy")
jax.tree_util.register_dataclass(Camera, data_fields=list(FIELDS), meta_fields=[])
