"""Regions of a head by its landmarks and parts: the scalp, the front of the face."""

from __future__ import annotations

import numpy as np

from mvp4d.core.heads.model import EYES, INTERIOR, HeadModel
from mvp4d.core.ramps import smoothstep

LANDMARKS = 68  # Multi-PIE's, of which these are the places:
BROWS, CHIN, JAW = (19, 24), 8, (0, 16)  # landmarks: the middle of either brow, the chin, the jaw's ends at the ears
# Where hair begins on the neutral head: how far from the ears (0) to the brows (1), and how high over these, in half
# the distance of brows and chin.
HAIRLINE = ((-0.7, -1.15), (0.0, 0.0), (1.0, 1.0))
RAMP = 0.15  # of that unit on either side of it over which hair begins
FACE = (-1.2, -0.3)  # likewise the heights between which a face's front is skin


def parts_named(names: tuple[str, ...], words: tuple[str, ...]) -> np.ndarray:
    """[parts] bool: whose names, in any case, hold one of the words."""
    return np.array([any(word in name.lower() for word in words) for name in names], bool)


def vertices_of(head: HeadModel, words: tuple[str, ...]) -> np.ndarray:
    """[N] float32: 1 on vertices of parts whose names hold one of the words."""
    chosen = parts_named(head.part_names, words)
    marked = np.zeros(head.vertex_count, np.float32)
    marked[np.asarray(head.faces)[chosen[np.asarray(head.face_parts)]]] = 1
    return marked


def has_landmarks(head: HeadModel) -> bool:
    """Whether a head has the landmarks that tell its regions; those of another set lie elsewhere."""
    return len(head.landmark_faces) == LANDMARKS


def landmarks_of(head: HeadModel) -> np.ndarray:
    """[K, 3] metres of the landmarks of the neutral head."""
    return at_landmarks(head, head.template)


def at_landmarks(head: HeadModel, values: np.ndarray) -> np.ndarray:
    """[..., K, C] at the landmarks, of values [..., N, C] of a head's vertices."""
    corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)]  # [K, 3]
    return (np.asarray(values)[..., corners, :] * np.asarray(head.landmark_barycentric)[..., None]).sum(-2)


def scalp_and_face(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """[N] float32 in [0, 1] where hair may grow, and [N] bool the front of the face below the brows, but for eyes and
    mouth, of a head that has landmarks (`has_landmarks`)."""
    template, landmarks = np.asarray(head.template), landmarks_of(head)
    brow, chin, ear = landmarks[list(BROWS)].mean(0), landmarks[CHIN], landmarks[list(JAW)].mean(0)
    along = (template[:, 2] - ear[2]) / (brow[2] - ear[2])
    height = (template[:, 1] - brow[1]) / ((brow[1] - chin[1]) / 2)
    scalp = smoothstep(height - np.interp(along, *np.transpose(HAIRLINE)), -RAMP, RAMP)
    face = (along > 0.5) & (height > FACE[0]) & (height < FACE[1]) & (vertices_of(head, (*EYES, *INTERIOR)) == 0)
    return (scalp * (1 - vertices_of(head, ("ears",)))).astype(np.float32), face
