"""Meshes as graphs, by hand."""

import numpy as np

from mvp4d.core.heads.mesh import neighbour_mean


def test_neighbour_mean_by_hand():
    """Two triangles that share an edge, and a vertex of no face."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    found = neighbour_mean(np.array([[0, 1, 2], [2, 1, 3]]), 5)(values)
    np.testing.assert_allclose(found, [7 / 3, 15 / 4, 15 / 4, 14 / 3, 16.0], rtol=1e-15)
