"""The normal equations of frames that smoothness ties together, as a banded matrix."""

from __future__ import annotations

import numpy as np


def second_differences_transposed(rows: np.ndarray) -> np.ndarray:
    """D' of the second-difference operator D: [F - 2, P] -> [F, P]."""
    out = np.zeros((len(rows) + 2, rows.shape[1]))
    out[:-2] += rows
    out[1:-1] -= 2 * rows
    out[2:] += rows
    return out


def band(blocks: np.ndarray, smooth: np.ndarray | None) -> np.ndarray:
    """Lower band of the frames' normal matrix: dense blocks [F, P, P] and, per unknown, weighted D'D in time."""
    count, size, _ = blocks.shape
    band = np.zeros((2 * size + 1 if smooth is not None else size, count * size))
    for offset in range(size):
        rows = np.diagonal(blocks, -offset, axis1=1, axis2=2)  # [F, P - offset]
        band[offset].reshape(count, size)[:, : size - offset] = rows
    if smooth is not None:
        operator = second_differences_transposed(np.diff(np.eye(count), 2, axis=0))  # D'D, [F, F]
        for step in range(3):
            values = np.zeros((count, size))
            values[: count - step] = np.diagonal(operator, -step)[:, None] * smooth
            band[step * size] += values.reshape(-1)
    return band
