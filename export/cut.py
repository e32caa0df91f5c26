"""A cut through Gaussians: each becomes what is left of it above a plane, in the mean and covariance of that part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d_export.avatar import Avatar, logit_of
from mvp4d_export.projection import quaternion_to_matrix
from mvp4d_export.triangles import rotation_and_log_scale, triangle_frames, turn_to_local
from mvp4d_export.visibility import smoothstep

CLEAR = 3.0  # standard deviations above the plane from which a Gaussian stays as it is
# Heights of its centre, in standard deviations, at which a Gaussian is gone, and as opaque as it was.
GONE = (-2.0, -1.0)
DEEPEST = 8.0  # standard deviations below the plane as which all count that are deeper: they are gone, and float32 ends


@torch.no_grad()
def cut_off(avatar: Avatar, vertices: Tensor, among: Tensor, height: Tensor, up: Tensor) -> None:
    """Truncates Gaussians at a plane: each gets the mean and covariance of its part above.

    Truncated normal distribution (Johnson, Kotz & Balakrishnan 1994, section 10.1): centred `a` standard deviations
    below the plane, it has its mean `l` standard deviations higher and `1 - l (l - a)` of its variance across the
    plane, where `l` is the inverse Mills ratio at `a`.

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
    below = (-height / deviation).clamp(max=DEEPEST)
    among = among & (below > -CLEAR)
    axes, along, deviation, below = axes[among], along[among], deviation[among], below[among]
    covariance, reach = axes @ axes.mT, (axes * along[:, None]).sum(-1) / deviation[:, None]
    mills = math.sqrt(2 / math.pi) / torch.special.erfcx(below / math.sqrt(2))
    avatar.position[among] += mills[:, None] * reach
    lost = (mills * (mills - below))[:, None, None] * reach[:, :, None] * reach[:, None]
    avatar.rotation[among], avatar.log_scale[among] = rotation_and_log_scale(covariance - lost)
    share = smoothstep(-below, *GONE)
    opacity = avatar.logit_opacity[among].sigmoid() * share
    avatar.logit_opacity[among] = torch.where(share < 1, logit_of(opacity), avatar.logit_opacity[among])
