"""Where hair and clothes end before skin, to the pixel: they meet it there, and no skin floats with them.

Depth off the rig is found for squares of a photo. At their rim pixels of skin would lie with the hair, and hair would
stand off the cheek like an awning: from beside both are dots with gaps between them.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from mvp4d_export.photos import Picture
from mvp4d_export.thickness import like_skin

WINDOW = 3  # cells around a pixel whose colours it is compared with, to either side
UNLIKE = 0.12  # difference of the means of hair and skin from which their pixels can be told apart
FEW = 0.02  # share of a window that is too little to know its colour
MEETS = 0.002  # metres off the rig at which hair may end beside skin
SLOPE = 1.0  # metres that it may come off the rig with every metre from there


@torch.no_grad()
def to_the_edge(
    depth: Tensor, off: Tensor, rig: Tensor, covered: Tensor, picture: Picture, skin: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Depth and what is off the rig, once each pixel at a border of the two is given to what its colour is like.

    Args:
      depth: [S, S] metres. off: [S, S] bool, known by squares of `size` pixels.
      rig: [S, S] metres, infinite where it is not. covered: [S, S] bool, where hair and clothes may lie before it.
      skin: [3] its colour.

    Returns:
      The same two; skin beyond the rig's outline is unknown, i.e. infinitely far.
    """
    solid = picture.alpha * picture.known > 0.5
    colour = _mean(picture.rgb, solid.float(), 1)[0]
    fleshy = like_skin(colour, skin)
    bare = solid & torch.isfinite(rig) & ~off & fleshy
    if not off.any() or not bare.any():
        return depth, off
    border = _near(off, size) & _near(bare, size) & solid & (covered | (off & ~torch.isfinite(rig)))
    hair, much_hair = _mean(picture.rgb, (off & solid & ~fleshy).float(), WINDOW * size)
    flesh, much_flesh = _mean(picture.rgb, bare.float(), WINDOW * size)
    told = (much_hair > FEW) & (much_flesh > FEW) & ((hair - flesh).abs().mean(-1) > UNLIKE)
    like_hair = (colour - hair).square().sum(-1) < (colour - flesh).square().sum(-1)
    like_hair = avg_pool2d(like_hair[None, None].float(), 3, 1, 1, count_include_pad=False)[0, 0] > 0.5
    now = torch.where(border & told, like_hair, off)
    depth = torch.where(now, of_nearest(depth, off), torch.where(off, rig, depth))
    return _met(depth, now, rig, solid & torch.isfinite(rig) & ~now & fleshy, picture), now


def _met(depth: Tensor, off: Tensor, rig: Tensor, bare: Tensor, picture: Picture) -> Tensor:
    """Depth that comes off the rig by no more than the distance from bare skin allows, where there is any."""
    if not bare.any():
        return depth
    away = torch.from_numpy(ndimage.distance_transform_edt(~bare.cpu().numpy())).to(depth)
    before = torch.isfinite(rig)
    behind = torch.where(before, rig, 1.0)
    most = MEETS + SLOPE * away * behind / picture.K[0, 0]
    lifted = behind - torch.minimum((behind - depth).clamp(min=0), most)
    return torch.where(off & before, lifted, depth)


def of_nearest(depth: Tensor, off: Tensor) -> Tensor:
    """The depth of the nearest pixel that is off the rig."""
    at = ndimage.distance_transform_edt(~off.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(np.ascontiguousarray(at)).to(depth.device)
    return depth[rows.long(), columns.long()]


def _near(at: Tensor, reach: int) -> Tensor:
    """Which pixels [S, S] have one of these within a square of `reach` to either side."""
    rows = max_pool2d(at[None, None].float(), (2 * reach + 1, 1), 1, (reach, 0))
    return max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))[0, 0] > 0


def _mean(values: Tensor, weight: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Means [S, S, C] of values over squares, by weight [S, S], and the mean weight there."""
    stacked = torch.cat((values * weight[..., None], weight[..., None]), -1).permute(2, 0, 1)[None]
    rows = avg_pool2d(stacked, (2 * reach + 1, 1), 1, (reach, 0))
    pooled = avg_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))[0].permute(1, 2, 0)
    return pooled[..., :-1] / pooled[..., -1:].clamp(min=1e-6), pooled[..., -1]
