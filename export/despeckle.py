"""Specks: Gaussians that stand alone beside the person in views from beside a photo's. They end the fit faded.

A photo's pixels at the rim of hair and collars may hang at a depth that no other picture contradicts: its own view
shows them in place, generated views are too coarse for them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.turned import turned_view
from mvp4d_export.visibility import smoothstep

ANGLES = tuple(math.radians(degrees) for degrees in (-60.0, -40.0, -20.0, 20.0, 40.0, 60.0))  # from the photo's view
SIDE = 256  # pixels of these views
AROUND = 7  # of them a side: the square in which company counts
# Mean alpha there, where it is least of all views, between which a Gaussian passes from speck to fine.
ALONE = (0.2, 0.35)
LEAST = 0.1  # pixels that it shows in a view which judges it


@torch.no_grad()
def fade_specks(avatar: Avatar, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Takes the opacity of Gaussians that stand alone.

    Args:
      picture, pose, viewmat: a photo, its one frame and camera [4, 4]; views are turned from there about the head.
    """
    K = picture.K.clone()
    K[:2] *= SIDE / picture.side
    splats = avatar.splats(avatar.vertices(pose))
    company = torch.ones(avatar.gaussian_count, device=avatar.device)
    for angle in ANGLES:
        company = torch.minimum(company, _company(avatar, splats, pose, turned_view(viewmat, pose, angle), K))
    opacity = torch.sigmoid(avatar.logit_opacity) * smoothstep(company, *ALONE)
    avatar.logit_opacity.copy_(torch.logit(opacity.clamp(1e-5, 1 - 1e-5)))


def _company(avatar: Avatar, splats: Splats, pose: Pose, camera: Tensor, K: Tensor) -> Tensor:
    """[G] mean alpha around the pixels that each Gaussian shows in a view; 1 where it shows none."""
    values = splats.means.new_zeros(len(splats.means), 3, requires_grad=True)
    with torch.enable_grad():  # gradients of colours are blending weights: summed, and times the alpha around
        drawn = avatar.render(splats, pose, camera[None], K[None], SIDE, SIDE, colours=values)
        around = avg_pool2d(drawn.alpha.detach()[None], AROUND, 1, AROUND // 2)[0, 0]
        total = drawn.rgb[0, ..., 0].sum() + (drawn.rgb[0, ..., 1] * around).sum()
        shown, weighed = torch.autograd.grad(total, values)[0].unbind(1)[:2]
    return torch.where(shown > LEAST, weighed / shown.clamp(min=LEAST), 1.0)
