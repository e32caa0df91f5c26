"""Carrying a recorded head pose from one head to another."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.rotation import rotate, rotation_matrix

Array = Any
# Midpoint of the eyeballs of FLAME's mean head, metres. Estimated: FLAME itself cannot be part of this project.
FLAME_EYES = (0.0, 0.022, 0.018)


def eye_centre(head: HeadModel) -> np.ndarray:
    """[3] midpoint of the eye joints at rest, in head space; the origin where a head has none."""
    eyes = [index for index, name in enumerate(head.joint_names) if name in ("left_eye", "right_eye")]
    return np.asarray(head.joints)[eyes].mean(axis=0) if eyes else np.zeros(3, np.float32)


def carry_pose(motion: Motion, source_eyes: Array, head: HeadModel) -> Motion:
    """The motion for `head`, moved so that its eyes are where the recorded head's eyes were.

    Heads differ in where their origin lies; the midpoint of the eyeballs is a point they all have.

    Args:
      motion: recorded for a head whose eyeballs have their midpoint at `source_eyes` [3] in its head space
        (`FLAME_EYES` for FLAME fits, `eye_centre` of the other head otherwise).
    """
    offset = np.asarray(source_eyes, np.float32) - np.asarray(eye_centre(head), np.float32)
    moved = rotate(rotation_matrix(np.asarray(motion.rotation, np.float32)), offset)
    return dataclasses.replace(motion, translation=np.asarray(motion.translation, np.float32) + moved)
