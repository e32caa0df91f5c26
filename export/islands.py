"""Islands: small connected components of alpha in views turned about the head. Their Gaussians end the fit faded.

`despeckle.py` looks at the mean alpha around: close to a chin it is high. A view from beside shows the gap.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mvp4d_export.avatar import Avatar
from mvp4d_export.despeckle import LEAST, turned_views
from mvp4d_export.laid import FADED
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.visibility import light

FINER = 1.5  # times the pixels that `despeckle.py` looks at: gaps are a millimetre or two wide
SOLID = 0.6  # alpha of what is seen: around it dots blend into what they stand beside
PEA = 6e-5  # square metres of the largest island; an earring may be larger
FLAP = 1e-3  # the same, of those beyond the hull of the generated views
RIM = 2  # pixels around it that are its own
SHARE = 0.5  # of what a Gaussian shows in a view that must lie in islands


@torch.no_grad()
def fade_islands(avatar: Avatar, off: Tensor, picture: Picture, pose: Pose, viewmat: Tensor, most: float = PEA) -> None:
    """Fades those of the Gaussians `off` the rig, [G] bool, that are islands in some view.

    Args:
      picture, pose, viewmat: a photo, its one frame and camera [4, 4]; views are turned from there about the head.
      most: square metres of the largest island.
    """
    splats = avatar.splats(avatar.vertices(pose))
    alone = torch.zeros_like(off)
    for camera, K, side in turned_views(picture, pose, viewmat, FINER):
        depth = float((camera @ pose.head_matrix()[0])[2, 3])
        alpha = avatar.render(splats, pose, camera[None], K[None], side, side).alpha[0]
        found = islands(alpha, most * (float(K[0, 0]) / depth) ** 2)
        if found.any():
            there, shown = (light(avatar, splats, pose, camera, K, at) for at in (found, torch.ones_like(alpha)))
            alone |= (shown > LEAST) & (there > SHARE * shown)
    avatar.logit_opacity[off & alone] = FADED


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
