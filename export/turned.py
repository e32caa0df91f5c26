"""Photos as they would look from beside: the rig carries their colours into turned views, where Gaussians must agree.

From one side a photo says nothing about how far Gaussians lie along its lines of sight, and those that are a few
millimetres off the skin part into specks and blur from anywhere else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d

from mvp4d_export.avatar import Avatar
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import SOLID, project_points
from mvp4d_export.visibility import FACING_FROM, FACING_TO, RigSurface, outer_parts, rig_surface, smoothstep

TURNS = tuple(math.radians(degrees) for degrees in (30.0, -30.0, 50.0, -50.0))  # about the head's upward axis
BEHIND = 0.003  # metres that a point of the rig may lie behind what a photo shows there and still be it
STEP = 0.01  # metres between the depths of neighbouring pixels from which one of them hides the other
EDGE = 3  # pixels of a photo beside such steps, and beside what says nothing, that are left out
SEEN_FROM, SEEN_TO = 0.15, 0.4  # cosines between which a surface passes from unseen to fully seen in a turned view


@torch.no_grad()
def turned_view(viewmat: Tensor, pose: Pose, angle: float) -> Tensor:
    """[4, 4] the camera that sees a head, one frame, as another one does once it has turned by `angle` radians."""
    turn = torch.eye(4, device=viewmat.device)
    turn[0, 0] = turn[2, 2] = math.cos(angle)
    turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
    head = pose.head_matrix()[0]
    return viewmat @ head @ turn @ torch.linalg.inv(head)


@torch.no_grad()
def turned_picture(
    avatar: Avatar, picture: Picture, says: Tensor, pose: Pose, viewmat: Tensor, other: Tensor
) -> Picture:
    """What another camera [4, 4] of the same frame would see of the skin that a photo shows.

    Args:
      says: [S, S] where the photo says something.

    Returns:
      a Picture whose alpha says how far each pixel is known.
    """
    here = rig_surface(avatar, pose, viewmat, picture.K, picture.side)
    there = rig_surface(avatar, pose, other, picture.K, picture.side)
    pixels, depth = project_points(there.point.reshape(-1, 3), viewmat @ pose.head_matrix()[0], picture.K)
    grid = (pixels / (picture.side / 2) - 1)[None, None]

    def found(values: Tensor, mode: str = "bilinear") -> Tensor:
        return grid_sample(values[None], grid, mode=mode, align_corners=False)[0, :, 0].T.reshape(*depth_shape, -1)

    depth_shape = there.depth.shape
    usable = _skin(avatar, here) & (picture.alpha > SOLID) & (says > 0) & ~_steps(here.depth)
    usable = ~(max_pool2d((~usable).float()[None, None], 2 * EDGE + 1, 1, EDGE)[0, 0] > 0)
    weight = usable * smoothstep(here.facing, FACING_FROM, FACING_TO)
    before = found(torch.where(torch.isfinite(here.depth), here.depth, 0)[None], "nearest")[..., 0]
    seen = _skin(avatar, there) & (depth.reshape(depth_shape) < before + BEHIND)
    weight = found(weight[None])[..., 0] * seen * smoothstep(there.facing, SEEN_FROM, SEEN_TO)
    return Picture(found(picture.rgb.permute(2, 0, 1)), weight, torch.ones_like(weight), picture.K)


def _skin(avatar: Avatar, surface: RigSurface) -> Tensor:
    """[S, S] bool: where a picture shows the rig, but for what lips and lids cover and uncover."""
    return (surface.face >= 0) & outer_parts(avatar)[avatar.rig.face_parts[surface.face.clamp(min=0)]]


def _steps(depth: Tensor) -> Tensor:
    """[S, S] bool: pixels whose depth differs from the mean around them by more than a step."""
    finite = torch.isfinite(depth)
    stacked = torch.stack((torch.where(finite, depth, 0), finite.float()))[:, None]
    mean, share = avg_pool2d(stacked, 3, 1, 1)[:, 0]
    return finite & ((mean / share.clamp(min=1e-6) - depth).abs() > STEP / 2)
