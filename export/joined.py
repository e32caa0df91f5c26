"""What hangs together: places that are reached from others in short steps."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor


def joined(places: Tensor, begin: Tensor, reach: float | Tensor) -> Tensor:
    """Places that are reached from those of `begin` in steps of at most `reach`.

    Args:
      places: [M, 3] metres. begin: [M] bool.
      reach: metres, one or [M]: a step is as long as the longer one of its two ends allows.

    Returns:
      [M] bool.
    """
    points = places.cpu().double().numpy()
    steps = torch.as_tensor(reach, dtype=torch.float64).expand(len(places)).cpu().numpy()
    pairs = cKDTree(points).query_pairs(float(steps.max(initial=0)), output_type="ndarray")
    gaps = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    pairs = pairs[gaps <= steps[pairs].max(1)]
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(places),) * 2)
    part = torch.from_numpy(connected_components(links, directed=False)[1]).to(places.device)
    return torch.isin(part, part[begin])
