"""A Gaussian window over pictures on the CPU, where it fits whole, one compiled pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mvp4d_export.compiled import compiled


def blurred(pictures: Tensor, taps: Tensor) -> Tensor:
    """Pictures [..., H, W] under the window taps x taps [K], symmetric: [..., H - K + 1, W - K + 1], differentiable."""
    return _Blur.apply(pictures, taps.to(pictures.dtype))


class _Blur(torch.autograd.Function):
    """Pictures [..., H, W] and taps [K] -> [..., H - K + 1, W - K + 1]."""

    @staticmethod
    def forward(ctx, pictures: Tensor, taps: Tensor) -> Tensor:
        ctx.taps = taps
        return _windowed(pictures, taps)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        beyond = len(ctx.taps) - 1  # a symmetric window's transpose is the window over zeros around
        return _Blur.apply(pad(gradient, (beyond,) * 4), ctx.taps), None


def _windowed(pictures: Tensor, taps: Tensor) -> Tensor:
    less = len(taps) - 1
    height, width = pictures.shape[-2:]
    out = pictures.new_empty(*pictures.shape[:-2], height - less, width - less)
    _blur(
        pictures.detach().reshape(-1, height, width).contiguous().numpy(),
        taps.numpy(),
        out.view(-1, height - less, width - less).numpy(),
    )
    return out


@compiled
def _blur(pictures, taps, out):
    """Down each column, then along the row that this gives: both over neighbours in memory."""
    width, count = pictures.shape[2], len(taps)
    row = np.empty(width, pictures.dtype)
    for image in range(len(pictures)):
        for y in range(out.shape[1]):
            row[:] = taps[0] * pictures[image, y]
            for k in range(1, count):
                tap, above = taps[k], pictures[image, y + k]
                for x in range(width):
                    row[x] += tap * above[x]
            target = out[image, y]
            for x in range(len(target)):
                target[x] = taps[0] * row[x]
            for k in range(1, count):
                tap, beside = taps[k], row[k:]
                for x in range(len(target)):
                    target[x] += tap * beside[x]
