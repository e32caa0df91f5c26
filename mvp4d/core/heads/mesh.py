"""Triangle meshes as graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse


def neighbour_mean(faces: np.ndarray, vertex_count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The function that averages each vertex's value, values [N], with those of the vertices an edge away.

    Args:
      faces: [T, 3] int.
      vertex_count: N; a vertex of no face keeps its value.
    """
    ends = faces[:, [0, 1, 1, 2, 2, 0, 1, 0, 2, 1, 0, 2]].reshape(-1, 2)
    links = sparse.coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(vertex_count,) * 2).tocsr()
    links.data[:] = 1.0  # an edge counts once, whichever faces share it
    links = links + sparse.eye_array(vertex_count)
    counts = links.sum(1)
    return lambda values: (links @ values) / counts


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[N, 3] unit normals of vertices [N, 3], of their type: the mean of the faces [T, 3] around each, by area."""
    corners = vertices[faces]
    crossed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    around = [np.bincount(faces.ravel(), np.repeat(crossed[:, axis], 3), len(vertices)) for axis in range(3)]
    total = np.stack(around, axis=-1)
    return (total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)).astype(vertices.dtype)
