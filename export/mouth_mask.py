"""Where a photo shows the inside of the mouth: where the fitted head has it, moved to the edges in the picture.

By colours alone teeth in warm light cannot be told from skin.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mvp4d_export.photos import Picture

LIP_MARGIN = 0.02  # of a picture's side by which the fitted lips' edges may be off
GROWN = 0.008  # of it by which the mask reaches beyond the edges: what lies there is blurred
BESIDE = 3  # pixels on either side of an edge whose colours are compared
TRUST = 0.25  # share of its contrast that an edge loses where it is as far off as it may be


@torch.no_grad()
def mouth_mask(picture: Picture, inside: Tensor) -> Tensor:
    """[S, S] 1 where a photo shows the inside of the mouth, given where the fitted head has it, [S, S] bool."""
    columns = inside.any(0).nonzero()[:, 0]
    if not len(columns):
        return torch.zeros_like(picture.alpha)
    within, rows = inside[:, columns], torch.arange(picture.side, device=inside.device)[:, None]
    top = within.int().argmax(0)
    end = picture.side - within.flip(0).int().argmax(0)  # the first row below
    weight = (end - top).float()
    reach = max(1, round(LIP_MARGIN * picture.side))
    beyond = 1  # of lips that hardly part both edges are one line
    if weight.max() > 2 * BESIDE:
        beyond = max(2, round(GROWN * picture.side))
        contrast = _contrast(picture.rgb)[:, columns]
        top, end = (edge + _offset(contrast, edge, weight, reach) for edge in (top, end))
    mouth = torch.zeros_like(inside)
    mouth[:, columns] = (rows >= top) & (rows < end)
    return grown(mouth, beyond).to(picture.rgb)


def _contrast(rgb: Tensor) -> Tensor:
    """[S, S] distance between the mean colours of the rows from one on, and of those before it."""
    padded = torch.cat((rgb[:1].expand(BESIDE, -1, -1), rgb, rgb[-1:].expand(BESIDE, -1, -1)))
    means = padded.unfold(0, BESIDE, 1).mean(-1)  # of the rows from -BESIDE, 1 - BESIDE, ... on
    return (means[BESIDE : BESIDE + len(rgb)] - means[: len(rgb)]).norm(dim=-1)


def _offset(contrast: Tensor, edge: Tensor, weight: Tensor, reach: int) -> int:
    """Rows by which an edge [C] of a shape lies off the strongest one near it, one for all columns."""
    offsets = range(-reach, reach + 1)
    scores = []
    for offset in offsets:
        strength = contrast[(edge + offset).clamp(0, len(contrast) - 1), torch.arange(len(edge), device=edge.device)]
        scores.append(float((strength * weight).sum()) * (1 - TRUST * (offset / reach) ** 2))
    return offsets[max(range(len(scores)), key=scores.__getitem__)]


def grown(mask: Tensor, reach: int) -> Tensor:
    """A mask [S, S] bool grown by `reach` pixels."""
    return max_pool2d(mask.float()[None, None], 2 * reach + 1, 1, reach)[0, 0] > 0
