"""Motion: what a head does, frame by frame."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mvp4d.core.words import sides

Array = Any


@dataclasses.dataclass(frozen=True)
class Motion:
    """Per-frame pose and expression of one head. F frames, E expression coefficients. Angles are axis-angle radians.

    Attributes:
      expression: [F, E] coefficients in the order of the head's `expression_names`.
      rotation: [F, 3] head rotation in world axes (y up, z towards the viewer).
      translation: [F, 3] metres; a posed vertex is R(rotation) x + translation, x being the skinned vertex.
      neck, jaw: [F, 3] joint rotations.
      eyes: [F, 2, 3] joint rotations, left eye then right eye (the head's own left).
      fps: frames per second.
    """

    expression: Array
    rotation: Array
    translation: Array
    neck: Array
    jaw: Array
    eyes: Array
    fps: float = 25.0

    def __repr__(self) -> str:
        return f"Motion(frames x expressions: {sides(self.expression)}, {self.fps} a second)"

    @property
    def frame_count(self) -> int:
        return self.expression.shape[0]

    def __getitem__(self, index: slice | Array) -> Motion:
        """A window of frames; `index` is a slice or an integer array, never a bare integer."""
        arrays = {name: getattr(self, name)[index] for name in ARRAYS}
        return dataclasses.replace(self, **arrays)

    @classmethod
    def still(cls, frames: int, expression_count: int, fps: float = 25.0) -> Motion:
        """A head at rest at the origin."""
        rotation, translation, neck, jaw = np.zeros((4, frames, 3), np.float32)
        return cls(
            np.zeros((frames, expression_count), np.float32),
            rotation,
            translation,
            neck,
            jaw,
            np.zeros((frames, 2, 3), np.float32),
            fps,
        )


ARRAYS = ("expression", "rotation", "translation", "neck", "jaw", "eyes")
