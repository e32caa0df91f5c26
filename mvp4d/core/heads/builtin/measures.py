"""Measures of the built-in head that several of its parts share. Metres; pupils at y = 0, ear canals near z = 0."""

from __future__ import annotations

import numpy as np

EYE_CENTRE = np.array([0.0320, 0.0, 0.0800])  # of the head's left eye; interpupillary distance 64 mm
EYE_RADIUS = 0.0121
IRIS_RADIUS = 0.0060
PUPIL_RADIUS = 0.0021
LID_RADIUS = 0.0137  # outside of the closed lid over the eyeball
INNER_CANTHUS = np.array([0.0168, -0.0036])
OUTER_CANTHUS = np.array([0.0462, -0.0006])
MOUTH_HALF_WIDTH = 0.0250
MOUTH_HEIGHT = -0.0690
JAW_JOINT = np.array([0.0, -0.0200, 0.0100])
NECK_JOINT = np.array([0.0, -0.1250, -0.0220])
JAW_OPEN_ANGLE = 0.34  # radians of the jaw joint that jawOpen = 1 stands for


def rotate_x(points: np.ndarray, pivot: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Turns points about the axis through `pivot` along x; positive angles take the front of the head down."""
    offset = points - pivot
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack(
        [offset[..., 0], cos * offset[..., 1] - sin * offset[..., 2], sin * offset[..., 1] + cos * offset[..., 2]], -1
    )
    return turned + pivot
