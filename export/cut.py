"""A cut through Gaussians: each becomes what is left of it above a plane, in the mean and covariance of that part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d_export.avatar import Avatar, logit_of
from mvp4d_export.projection import quaternion_to_matrix
from mvp4d_export.triangles import matrix_to_quaternion, triangle_frames, turn_to_local
from mvp4d_export.visibility import smoothstep

CLEAR = 3.0  # standard deviations above the plane from which a Gaussian stays as it is
GONE = (-2.0, -1.0)  # standard deviations above the plane at which its centre is and it is gone, whole


@torch.no_grad()
def cut_off(avatar: Avatar, vertices: Tensor, among: Tensor, height: Tensor, up: Tensor) -> None:
    """Leaves of Gaussians what lies above a plane.

    A normal density with its centre `a` standard deviations below the plane has above it the mean `l` standard
    deviations above its own and the variance `1 - l (l - a)` of its own, `l` the normal hazard at `a`.

    Args:
      vertices: [P, 3] UV vertices.
      among: [G] bool, those that are cut.
      height: [G] of their centres above the plane on these vertices, in units of `up`.
      up: [3] across the plane: a step of a metre along it raises `height` by its squared length.
    """
    frames = triangle_frames(vertices, avatar.mesh_faces)
    scale = frames[1][avatar.binding][:, None]
    own_up = scale * turn_to_local(up.expand_as(avatar.position), frames, avatar.binding)
    axes = quaternion_to_matrix(normalize(avatar.rotation, dim=-1)) * avatar.log_scale.exp()[:, None]
    along = (axes * own_up[:, :, None]).sum(1)  # [G, 3] of `height` that a standard deviation of each axis is
    deviation = along.norm(dim=1).clamp(min=1e-12)
    below = -height / deviation
    among = among & (below > -CLEAR)
    axes, along, deviation, below = axes[among], along[among], deviation[among], below[among]
    covariance, reach = axes @ axes.mT, (axes * along[:, None]).sum(-1) / deviation[:, None]
    hazard = (-below.square() / 2 - torch.special.log_ndtr(-below)).exp() / math.sqrt(2 * math.pi)
    avatar.position[among] += hazard[:, None] * reach
    lost = (hazard * (hazard - below))[:, None, None] * reach[:, :, None] * reach[:, None]
    size, axes = torch.linalg.eigh(covariance - lost)
    axes[..., 0] *= torch.linalg.det(axes)[:, None]  # a rotation
    avatar.rotation[among] = matrix_to_quaternion(axes)
    avatar.log_scale[among] = size.clamp(min=1e-12).log() / 2
    share = smoothstep(-below, *GONE)
    opacity = avatar.logit_opacity[among].sigmoid() * share
    avatar.logit_opacity[among] = torch.where(share < 1, logit_of(opacity), avatar.logit_opacity[among])
