"""Coarse Gaussians that reach beyond a photo's silhouette are cut there.

Off the rig, generated views leave Gaussians of several of their pixels. What of one stands beside the person weighs
little in any loss, and is a cloud in every larger picture.
"""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from mvp4d_export.avatar import Avatar
from mvp4d_export.cut import cut_off
from mvp4d_export.photos import Picture
from mvp4d_export.projection import quaternion_to_matrix
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points

PERSON = 0.1  # alpha of a photo from which it shows the person
EVEN = 2.0  # pixels over which its outline is smoothed
COARSE = 0.002  # metres across the outline of a standard deviation from which a Gaussian is cut: finer ones are hair


@torch.no_grad()
def cut_overreach(avatar: Avatar, off: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Cuts those of the Gaussians `off` the rig, [G] bool, that are coarse and reach into a photo's background.

    Args:
      picture, pose, viewmat: the photo, its one frame and camera [4, 4].
    """
    person = ((picture.alpha > PERSON) | (picture.known < 0.5)).cpu().numpy()
    if person.all() or not person.any():
        return
    inside = ndimage.distance_transform_edt(person) - ndimage.distance_transform_edt(~person)
    inside = torch.from_numpy(ndimage.gaussian_filter(inside, EVEN)).to(avatar.logit_opacity)  # [S, S] pixels
    fields = torch.stack((inside, *torch.gradient(inside, dim=(1, 0))))  # distance, its slopes along x and y
    vertices, matrix = avatar.vertices(pose), viewmat @ pose.head_matrix()[0]
    splats = avatar.splats(vertices)
    pixels, depth = project_points(splats.means, matrix, picture.K)
    at = (2 * pixels / picture.side - 1)[None, None]  # [1, 1, G, 2]
    distance, *slopes = grid_sample(fields[None], at, padding_mode="border", align_corners=False)[0, :, 0]
    up = normalize(torch.stack((*slopes, torch.zeros_like(distance)), 1), dim=1) @ matrix[:3, :3]  # [G, 3] head axes
    deviation = ((quaternion_to_matrix(splats.quaternions) * up[:, :, None]).sum(1) * splats.scales).norm(dim=1)
    within = (depth > 0) & ((pixels > 0) & (pixels < picture.side)).all(1)
    height = distance * depth / picture.K[0, 0]
    cut_off(avatar, vertices, off & within & (deviation > COARSE), height, up)
