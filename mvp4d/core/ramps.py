"""Smooth passages from 0 to 1."""

from __future__ import annotations

import numpy as np


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high`, smooth between, of the values' type; `low` may exceed `high`."""
    along = ((np.asarray(values) - low) / (high - low)).clip(0, 1)
    return along * along * (3 - 2 * along)
