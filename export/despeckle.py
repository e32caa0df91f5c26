"""Specks: Gaussians that stand alone beside the person in views from beside and behind. They end the fit faded.

A photo's pixels at the rim of hair and collars may hang at a depth that no other picture contradicts: its own view
shows them in place, generated views are too coarse for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvp4d_export.avatar import Avatar, Splats, logit_of
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.turned import turned_view
from mvp4d_export.visibility import smoothstep

# Degrees from the photo's view.
ANGLES = (-150.0, -120.0, -90.0, -60.0, -40.0, -20.0, 20.0, 40.0, 60.0, 90.0, 120.0, 150.0, 180.0)
SIDE, MARGIN = 256, 64  # pixels of these views that show what the photo's crop does; on each side of that, shoulders
AROUND, AROUND_LARGE = 7, 27  # pixels a side: the square in which company counts, and that of Gaussians ...
LARGE = 3.0  # ... of so many pixels or more, which fill the smaller one alone
# Mean alpha there, where it is least of all views, between which a Gaussian passes from speck to fine.
ALONE, ALONE_LARGE = (0.2, 0.35), (0.3, 0.45)
LEAST = 0.1  # pixels that it shows in a view which judges it


@torch.no_grad()
def fade_specks(avatar: Avatar, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Takes the opacity of Gaussians that stand alone.

    Args:
      picture, pose, viewmat: a photo, its one frame and camera [4, 4]; views are turned from there about the head.
    """
    splats = avatar.splats(avatar.vertices(pose))
    kept = torch.ones(avatar.gaussian_count, device=avatar.device)
    for camera, K, side in turned_views(picture, pose, viewmat):
        kept = torch.minimum(kept, _kept(avatar, splats, pose, camera, K, side))
    opacity = torch.sigmoid(avatar.logit_opacity) * kept
    avatar.logit_opacity.copy_(logit_of(opacity))


def turned_views(
    picture: Picture, pose: Pose, viewmat: Tensor, finer: float = 1.0
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Cameras [4, 4] turned by `ANGLES` from a photo's about the head, intrinsics [3, 3] and pixels a side.

    Args:
      picture, pose, viewmat: the photo, its one frame and camera [4, 4].
      finer: pixels of these views for one of `SIDE`.
    """
    K = picture.K.clone()
    K[:2] *= finer * SIDE / picture.side
    K[:2, 2] += finer * MARGIN
    for angle in ANGLES:
        yield turned_view(viewmat, pose, math.radians(angle)), K, round(finer * (SIDE + 2 * MARGIN))


def _kept(avatar: Avatar, splats: Splats, pose: Pose, camera: Tensor, K: Tensor, side: int) -> Tensor:
    """[G] what Gaussians keep by the mean alpha around the pixels that they show in a view; 1 where they show none."""
    values = splats.means.new_zeros(len(splats.means), 3, requires_grad=True)
    with torch.enable_grad():  # gradients of colours are blending weights: summed, and times the alpha around
        drawn = avatar.render(splats, pose, camera[None], K[None], side, side, colours=values)
        alpha, rgb = drawn.alpha.detach()[None], drawn.rgb[0]
        near, far = (avg_pool2d(alpha, width, 1, width // 2)[0, 0] for width in (AROUND, AROUND_LARGE))
        total = rgb[..., 0].sum() + (rgb[..., 1] * near).sum() + (rgb[..., 2] * far).sum()
        shown, *weighed = torch.autograd.grad(total, values)[0].unbind(1)
    matrix = camera @ pose.head_matrix()[0]
    depth = (splats.means @ matrix[2, :3] + matrix[2, 3]).clamp(min=1e-3)
    large = splats.scales.sort(1).values[:, 1] * K[0, 0] / depth > LARGE  # both of the longer axes
    near, far = (value / shown.clamp(min=LEAST) for value in weighed)
    kept = torch.where(large, smoothstep(far, *ALONE_LARGE), smoothstep(near, *ALONE))
    return torch.where(shown > LEAST, kept, 1.0)
