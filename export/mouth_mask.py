"""Where a photo shows the inside of the mouth, told by colour around where the fitted head has it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from mvp4d_export.photos import Picture

LIP_MARGIN = 0.02  # of a picture's side around the fitted mouth's inside in which the real one may end
CORE = 24  # pixels of a mouth's inside that tell its colours
DARKER = 0.8  # of the darkest skin around, below which a pixel is the mouth's dark
SURE = 0.95  # ratio of distances in colour below which a pixel is the mouth's inside
UNLIKE = 0.15  # distance in colour from what lies around from which a pixel well inside is the mouth's for certain
SPECK = 7  # pixels a side in which the majority says what is the mouth's inside


@torch.no_grad()
def mouth_mask(picture: Picture, inside: Tensor) -> Tensor:
    """[S, S] 1 where a photo shows the inside of the mouth, given where the fitted head has it, [S, S] bool.

    The fit may be a few pixels off: around its outline, pixels are told by whether their colours are among those
    well within or among those of the lips and skin around.
    """
    reach = max(1, round(LIP_MARGIN * picture.side))
    core, band, ring = ~grown(~inside, reach // 2), grown(inside, reach), grown(inside, 2 * reach)
    core = core if core.sum() >= CORE else inside
    around = picture.rgb[ring & ~band]
    if len(around) >= CORE:  # a fit that is off has lips in the core
        apart = core.clone()
        apart[core] = _distance(picture.rgb[core], around) > UNLIKE
        core = apart if apart.sum() >= CORE else core
    within = picture.rgb[core]
    mouth = inside.clone()
    if len(within) >= CORE and len(around) >= CORE:
        colours = picture.rgb[band]
        dark = colours.mean(1) < DARKER * around.mean(1).quantile(0.02)
        mouth[band] = dark | (_distance(colours, within) < SURE * _distance(colours, around))
        mouth = avg_pool2d(mouth.float()[None, None], SPECK, 1, SPECK // 2)[0, 0] > 0.5  # the majority around a pixel
    return grown(mouth, 2).to(picture.rgb)


def _distance(colours: Tensor, among: Tensor) -> Tensor:
    """[M] distance of colours [M, 3] to the nearest mean of four equal shares of `among`, made by brightness."""
    order = among[among.mean(1).argsort()]
    means = torch.stack([share.mean(0) for share in order.tensor_split(4)])
    return torch.cdist(colours, means).amin(1)


def grown(mask: Tensor, reach: int) -> Tensor:
    """A mask [S, S] bool grown by `reach` pixels."""
    return max_pool2d(mask.float()[None, None], 2 * reach + 1, 1, reach)[0, 0] > 0
