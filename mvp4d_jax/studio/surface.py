"""The head as a height above its centre, direction by direction: what hair must stay outside of and clothes lie on."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

ROWS, COLUMNS = 96, 192


class RadialSurface:
    """Largest distance of a mesh from `centre` along every direction.

    Args:
      vertices: [N, 3]; faces: [T, 3].
      centre: [3].
      blur: standard deviation of the smoothing, in cells of about two degrees.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, centre: np.ndarray, blur: float = 1.0):
        self.centre = np.asarray(centre, np.float64)
        share = np.array([[i, j, 6 - i - j] for i in range(7) for j in range(7 - i)]) / 6.0  # [28, 3]
        points = np.einsum("kc,tcd->tkd", share, vertices[faces]).reshape(-1, 3) - self.centre
        row, column = self._cells(points)
        table = np.zeros((ROWS, COLUMNS))
        cell = np.clip(row.round().astype(int), 0, ROWS - 1) * COLUMNS + column.round().astype(int) % COLUMNS
        np.maximum.at(table.reshape(-1), cell, np.linalg.norm(points, axis=-1))
        for _ in range(12):  # cells that no sample hit take the mean of their neighbours
            empty = table == 0
            if not empty.any():
                break
            padded = np.pad(np.pad(table, ((1, 1), (0, 0)), mode="edge"), ((0, 0), (1, 1)), mode="wrap")
            near = np.stack([padded[i : i + ROWS, j : j + COLUMNS] for i in range(3) for j in range(3)])
            count = (near > 0).sum(0)
            table = np.where(empty & (count > 0), near.sum(0) / np.maximum(count, 1), table)
        self.table = gaussian_filter(table, blur, mode=("nearest", "wrap"))

    def _cells(self, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        radius = np.maximum(np.linalg.norm(offset, axis=-1), 1e-9)
        elevation = np.arcsin(np.clip(offset[..., 1] / radius, -1, 1))
        turn = np.arctan2(offset[..., 0], offset[..., 2])
        return (elevation / np.pi + 0.5) * (ROWS - 1), (turn / (2 * np.pi) + 0.5) * COLUMNS

    def radius(self, points: np.ndarray) -> np.ndarray:
        """[...] distance of the surface from the centre in the direction of points [..., 3]."""
        row, column = self._cells(points - self.centre)
        return map_coordinates(self.table, [row, column], order=1, mode="grid-wrap")

    def push_out(self, points: np.ndarray, clearance: np.ndarray | float) -> np.ndarray:
        """Points moved outwards until they lie `clearance` metres outside of the surface."""
        offset = points - self.centre
        radius = np.maximum(np.linalg.norm(offset, axis=-1), 1e-9)
        wanted = np.maximum(radius, self.radius(points) + clearance)
        return self.centre + offset * (wanted / radius)[..., None]

    def at(self, turn: np.ndarray, elevation: np.ndarray) -> np.ndarray:
        """[..., 3] points of the surface at azimuth and elevation, radians."""
        flat = np.cos(elevation)
        toward = np.stack([np.sin(turn) * flat, np.sin(elevation), np.cos(turn) * flat], -1)
        return self.centre + toward * self.radius(self.centre + toward)[..., None]
