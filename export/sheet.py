"""Hair and clothes that a photo shows lie on a sheet: what is beside each other in it is about as far off.

A photo says nothing along its lines of sight, and generated views say little. Left alone, a dark and a light Gaussian
beside each other drift apart in depth, and a view from beside shows one in the other's place: dots along every edge.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

NEIGHBOURS = 32  # Gaussians whose depths are averaged, at most
AROUND = 0.004  # metres across the line of sight: standard deviation of that mean
STEP = 0.012  # metres along it by which they may differ from the nearer half's median and count: sheets have steps


@torch.no_grad()
def on_sheet(means: Tensor, eye: Tensor, axis: Tensor) -> Tensor:
    """Points moved along their lines of sight to the mean depth around them.

    Args:
      means: [M, 3] metres. eye: [3] where the camera is. axis: [3] unit vector along which it looks.

    Returns:
      [M, 3]
    """
    count = min(NEIGHBOURS, len(means))
    if count < 2:
        return means
    depth = (means - eye) @ axis
    across = ((means - eye) / depth[:, None] - axis) * depth.mean()  # as if all were as far off
    distance, index = cKDTree(across.cpu().numpy()).query(across.cpu().numpy(), count)  # [M, K]
    around = depth.cpu().numpy()[index]
    own, middle = around[:, :1], np.median(around[:, : max(2, count // 2)], axis=1, keepdims=True)
    middle = np.where(np.abs(own - middle) > 2 * STEP, own, middle)  # it is behind a step
    weight = np.exp(-((distance / AROUND) ** 2) / 2 - ((around - middle) / STEP) ** 2 / 2)
    mean = (weight * around).sum(1) / weight.sum(1).clip(1e-12)
    return eye + (means - eye) * (torch.from_numpy(mean).to(depth) / depth)[:, None]
