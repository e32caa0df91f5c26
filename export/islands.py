"""Islands: what is seen apart from all the rest of the person, no larger than a pea. They end the fit faded.

Specks (`despeckle.py`) have nothing around them. A dot close to a chin has the chin; a view from beside shows the gap.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.despeckle import ANGLES, LEAST, MARGIN, SIDE
from mvp4d_export.laid import FADED
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.turned import turned_view

FINER = 1.5  # times the pixels that `despeckle.py` looks at: gaps are a millimetre or two wide
SOLID = 0.6  # alpha of what is seen: around it dots blend into what they stand beside
PEA = 6e-5  # square metres of the largest island; an earring may be larger
RIM = 2  # pixels around it that are its own
SHARE = 0.5  # of what a Gaussian shows in a view that must lie in islands


@torch.no_grad()
def fade_islands(avatar: Avatar, off: Tensor, picture: Picture, pose: Pose, viewmat: Tensor) -> None:
    """Fades those of the Gaussians `off` the rig, [G] bool, that are islands in some view.

    Args:
      picture, pose, viewmat: a photo, its one frame and camera [4, 4]; views are turned from there about the head.
    """
    K = picture.K.clone()
    K[:2] *= FINER * SIDE / picture.side
    K[:2, 2] += FINER * MARGIN
    splats = avatar.splats(avatar.vertices(pose))
    alone = torch.zeros_like(off)
    for angle in ANGLES:
        alone |= _share(avatar, splats, pose, turned_view(viewmat, pose, math.radians(angle)), K) > SHARE
    avatar.logit_opacity[off & alone] = FADED


def _share(avatar: Avatar, splats: Splats, pose: Pose, camera: Tensor, K: Tensor) -> Tensor:
    """[G] how much of what Gaussians show in a view lies in islands; 0 where they show next to nothing."""
    values = splats.means.new_zeros(len(splats.means), 3, requires_grad=True)
    side = round(FINER * (SIDE + 2 * MARGIN))
    depth = float((camera @ pose.head_matrix()[0])[2, 3])
    with torch.enable_grad():  # gradients of colours are blending weights, summed over the pixels that count
        drawn = avatar.render(splats, pose, camera[None], K[None], side, side, colours=values)
        found = islands(drawn.alpha.detach()[0], PEA * (float(K[0, 0]) / depth) ** 2)
        if not found.any():
            return torch.zeros_like(values[:, 0])
        shown, there = torch.autograd.grad(drawn.rgb[0, ..., 0].sum() + (drawn.rgb[0, ..., 1] * found).sum(), values)[
            0
        ].unbind(1)[:2]
    return torch.where(shown > LEAST, there / shown.clamp(min=LEAST), 0.0)


def islands(alpha: Tensor, most: float) -> Tensor:
    """[S, S] bool: pieces of `most` pixels at most that alpha [S, S] shows apart from its largest, and their rims."""
    piece = ndimage.label(alpha.cpu().numpy() > SOLID)[0]
    size = np.bincount(piece.ravel())
    size[0] = 0
    main = piece == size.argmax()
    apart = (piece > 0) & ~main & (size[piece] <= most)
    if apart.any():
        apart = ndimage.binary_dilation(apart, iterations=RIM) & ~main
    return torch.from_numpy(apart).to(alpha.device)
