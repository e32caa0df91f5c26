"""Gaussians off the rig where generated views have their background: a photo tells their colour, not how far off they
are, and from elsewhere those that have strayed along its lines of sight are specks beside the outline."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mvp4d_export.avatar import Avatar
from mvp4d_export.dataset import Dataset
from mvp4d_export.seeding import project_points

BACKGROUND = 0.1  # alpha below which a view has its background
BESIDE = 0.003  # metres, at least a pixel, around a Gaussian in which there must be nothing else
AGREE = 2  # pictures that must have it there
FRAMES = 2  # of the capture that are looked at


@torch.no_grad()
def outside(avatar: Avatar, data: Dataset, off: Tensor) -> Tensor:
    """[G] bool: those of the Gaussians `off` the rig, [G] bool, that lie before the background of several views."""
    found = torch.zeros(avatar.gaussian_count, dtype=torch.int64, device=avatar.device)
    if data.masks is None:
        return off & False
    reach = max(1, round(BESIDE / data.pixel_pitch))
    for frame in data.spread_frames(FRAMES):
        pose = data.pose[frame : frame + 1]
        means = avatar.splats(avatar.vertices(pose)).means
        for view in data.train_views:
            if not data.usable[view, frame]:
                continue
            _, masks, viewmats, Ks = data.batch([view], frame)
            clear = max_pool2d(masks[None], 2 * reach + 1, 1, reach)[0, 0] < BACKGROUND
            pixels, depth = project_points(means, viewmats[0] @ pose.head_matrix()[0], Ks[0])
            column, row = pixels.floor().long().unbind(1)
            height, width = clear.shape
            inside = (depth > 0) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
            found += inside & clear[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return off & (found >= AGREE)
