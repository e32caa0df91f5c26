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
