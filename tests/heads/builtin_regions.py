"""Where things are on the built-in head, by the pieces that it is assembled from."""

from __future__ import annotations

import numpy as np

from mvp4d.core.heads.builtin.assembly import assemble
from mvp4d.core.heads.builtin.skin_mesh import EYE_POINTS, LIP_POINTS


def lip_mask() -> np.ndarray:
    """[N] float32: 1 on the red of the lips, 0.5 on its border."""
    head = assemble()
    mask = np.zeros(len(head.vertices), np.float32)
    for row, value in zip(head.rings["lips"][:5], (1, 1, 1, 1, 0.5)):
        mask[row] = mask[head.mirror[row]] = value
    return mask


def eyelid_lines() -> np.ndarray:
    """Margins of the lids as vertices [2 eyes, 2 lids, P]: left eye first, upper lid first, from the outer to the inner
    corner."""
    head = assemble()
    margin, half = head.rings["eye"][2], EYE_POINTS // 2
    left = np.stack([margin[: half + 1], np.concatenate([margin[:1], margin[: half - 1 : -1]])])
    return np.stack([left, head.mirror[left]])


def lip_lines() -> np.ndarray:
    """Where the lips meet as vertices [2 lips, P]: upper lip first, from the head's right corner to its left."""
    head = assemble()
    contact = head.rings["lips"][0]
    upper, lower = contact[: LIP_POINTS + 1], contact[LIP_POINTS:][::-1]
    return np.stack([np.concatenate([head.mirror[line[:0:-1]], line]) for line in (upper, lower)])


def piece_mask(*names: str) -> np.ndarray:
    """[N] bool: vertices of some pieces of geometry, by the names of `Assembly.pieces`."""
    return assemble().of(*names)


def mirror_map() -> np.ndarray:
    """[N] int: each vertex's partner on the other side of the head."""
    return assemble().mirror.copy()
