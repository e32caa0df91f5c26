"""Hair and clothes that a photo shows lie on a sheet: what is beside each other in it is about as far off.

A photo says nothing along its lines of sight, and generated views say little. Left alone, a dark and a light Gaussian
beside each other drift apart in depth, and a view from beside shows one in the other's place: dots along every edge.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

NEIGHBOURS = 32  # Gaussians through which a plane is laid, at most
AROUND = 0.004  # metres across the line of sight: standard deviation of their weights
STEP = 0.012  # metres along it by which they may differ from the nearer half's median and count: sheets have steps
STIFF = 1e-3  # what holds the plane across the line of sight, in units of `AROUND`: few points tell no slope


@torch.no_grad()
def on_sheet(means: Tensor, eye: Tensor, axis: Tensor) -> Tensor:
    """Points moved along their lines of sight onto planes through what is around them.

    Planes, not means: at an outline all neighbours lie inside, where the surface is nearer.

    Args:
      means: [M, 3] metres. eye: [3] where the camera is. axis: [3] unit vector along which it looks.

    Returns:
      [M, 3]
    """
    count = min(NEIGHBOURS, len(means))
    if count < 2:
        return means
    depth = (means - eye) @ axis
    across = (((means - eye) / depth[:, None] - axis) * depth.mean()).cpu().numpy()  # as if all were as far off
    distance, index = cKDTree(across).query(across, count)  # [M, K]
    around = depth.double().cpu().numpy()[index]
    own, middle = around[:, :1], np.median(around[:, : max(2, count // 2)], axis=1, keepdims=True)
    middle = np.where(np.abs(own - middle) > 2 * STEP, own, middle)  # it is behind a step
    weight = np.exp(-((distance / AROUND) ** 2) / 2 - ((around - middle) / STEP) ** 2 / 2)
    side = np.linalg.svd(np.stack([axis.cpu().numpy()]))[2][1:]  # [2, 3] across the axis
    offsets = (across[index] - across[:, None]) @ side.T / AROUND  # [M, K, 2]
    columns = np.concatenate([np.ones_like(offsets[..., :1]), offsets], -1)  # [M, K, 3]
    normal = np.einsum("mki,mk,mkj->mij", columns, weight, columns) + STIFF * np.diag([0, 1, 1])
    right = np.einsum("mki,mk->mi", columns, weight * (around - middle))
    plane = middle[:, 0] + np.linalg.solve(normal, right[..., None])[:, 0, 0]
    return eye + (means - eye) * (torch.from_numpy(plane).to(depth) / depth)[:, None]
