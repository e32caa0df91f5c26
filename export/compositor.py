"""Front-to-back compositing of projected Gaussians on the CPU: one pass in depth order, compiled by numba.

Gaussians are drawn one after another, nearest first, each over the pixels of its ellipse; a pixel keeps how much light
still comes through it. The backward pass repeats every decision of the forward pass, so
that nothing is kept per pair of Gaussian and pixel, and what lies behind a Gaussian is the pixel's colour less what was
drawn so far. Compiled code lets go of Python's lock: several views are drawn in several threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

from mvp4d_export.device import in_parallel
from mvp4d_export.projection import ALPHA_THRESHOLD, Projected

MAX_ALPHA = 0.999  # gsplat's clamp
MIN_TRANSMITTANCE = 1e-4  # a pixel is done before its transmittance would fall to this


def composite(
    projected: Projected, colours: Tensor, background: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Blends Gaussians front to back over a background.

    Args:
      projected: Gaussians in V views, float32 or float64, on the CPU.
      colours: [V, N, 3].
      background: [V, 3].

    Returns:
      rgb [V, H, W, 3] over the background, alpha [V, H, W]. Differentiable in all of `projected` but depths and
      extents, and in the colours and the background.
    """
    attributes = torch.cat((projected.means2d, projected.conics, projected.opacities[..., None], colours), -1)
    reach = projected.extents[..., 1]
    order = projected.depths.detach().argsort(dim=1, stable=True)
    orders = [nearest_first[visible[nearest_first]] for nearest_first, visible in zip(order, reach > 0)]
    blended = _Blend.apply(attributes, reach, orders, width, height)  # [V, H, W, 4] premultiplied rgb, alpha
    alpha = blended[..., 3]
    return blended[..., :3] + (1 - alpha)[..., None] * background[:, None, None], alpha


def _compiled(function: Callable) -> Callable:
    """Machine code for a function; kept for the next process where numba finds a folder that it may write to."""
    options = {"nogil": True, "error_model": "numpy", "forceinline": True}  # calls per pixel would take a third more
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


class _Blend(torch.autograd.Function):
    """attributes [V, N, 9], reach [V, N] rows up and down, V orders -> [V, H, W, 4] premultiplied colour, alpha."""

    @staticmethod
    def forward(ctx, attributes: Tensor, reach: Tensor, orders: list[Tensor], width: int, height: int) -> Tensor:
        out = attributes.new_zeros(len(orders), height, width, 4)
        views = [tuple(array.numpy() for array in view) for view in zip(orders, attributes.detach(), reach.detach())]
        in_parallel(lambda view: _draw(*views[view], out[view].numpy()), list(range(len(views))))
        ctx.save_for_backward(out)
        ctx.views, ctx.shape = views, attributes.shape
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        result = gradient.new_zeros(ctx.shape)
        # What the pixels' gradients make of the light that each still has to receive, [V, H, W].
        behind = (ctx.saved_tensors[0] * gradient).sum(-1)
        arrays = [tuple(array.numpy() for array in view) for view in zip(gradient.contiguous(), behind, result)]
        in_parallel(lambda view: _draw_backward(*ctx.views[view], *arrays[view]), list(range(len(arrays))))
        return result, None, None, None, None


@_compiled
def _rows(v, reach, height):
    """First row and the one after the last whose pixel centres lie within `reach` of v."""
    return max(0, math.ceil(v - reach - 0.5)), min(height, math.floor(v + reach - 0.5) + 1)


@_compiled
def _columns(u, a, half, constant, width):
    """First column and the one after the last where a dx^2 + 2 half dx + constant <= 0; dx is u minus the centre."""
    inside = half * half - a * constant
    if inside < 0:
        return 0, 0
    root = math.sqrt(inside)
    return max(0, math.ceil(u + (half - root) / a - 0.5)), min(width, math.floor(u + (half + root) / a - 0.5) + 1)


@_compiled
def _alpha_at(y, x, dx, dy, shape, opacity, through, done):
    """A Gaussian's alpha at a pixel; 0 where it is too faint or the pixel is done, which it may become here."""
    number = through.dtype.type
    if done[y, x]:
        return number(0)
    a, b, c = shape
    exponent = -number(0.5) * (a * dx * dx + c * dy * dy) - b * dx * dy
    alpha = min(number(MAX_ALPHA), opacity * math.exp(exponent))
    if alpha < number(ALPHA_THRESHOLD):
        return number(0)
    if through[y, x] * (number(1) - alpha) <= number(MIN_TRANSMITTANCE):
        done[y, x] = True
        return number(0)
    return alpha


@_compiled
def _draw(order, attributes, reach, out):
    """Draws a view's Gaussians [N, 9], in this order, into zeros [H, W, 4]."""
    height, width = out.shape[:2]
    number = attributes.dtype.type
    half, one = number(0.5), number(1)
    through = np.ones((height, width), attributes.dtype)
    done = np.zeros((height, width), np.bool_)
    for g in order:
        u, v, a, b, c, opacity, red, green, blue = attributes[g]
        limit = number(2) * math.log(number(ALPHA_THRESHOLD) / opacity)
        top, bottom = _rows(v, reach[g], height)
        for y in range(top, bottom):
            dy = v - (number(y) + half)
            left, right = _columns(u, a, b * dy, c * dy * dy + limit, width)
            for x in range(left, right):
                alpha = _alpha_at(y, x, u - (number(x) + half), dy, (a, b, c), opacity, through, done)
                if alpha == 0:
                    continue
                weight = through[y, x] * alpha
                through[y, x] *= one - alpha
                out[y, x, 0] += weight * red
                out[y, x, 1] += weight * green
                out[y, x, 2] += weight * blue
    for y in range(height):
        for x in range(width):
            out[y, x, 3] = one - through[y, x]


@_compiled
def _draw_backward(order, attributes, reach, gradient, behind, result):
    """Gradients [N, 9] of a view's Gaussians from those [H, W, 4] of its pixels; uses `behind` [H, W] up."""
    height, width = behind.shape
    number = attributes.dtype.type
    clamp, half, one, zero = number(MAX_ALPHA), number(0.5), number(1), number(0)
    through = np.ones((height, width), attributes.dtype)
    done = np.zeros((height, width), np.bool_)
    for g in order:
        u, v, a, b, c, opacity, red, green, blue = attributes[g]
        limit = number(2) * math.log(number(ALPHA_THRESHOLD) / opacity)
        d_u = d_v = d_a = d_b = d_c = d_log = d_red = d_green = d_blue = zero
        top, bottom = _rows(v, reach[g], height)
        for y in range(top, bottom):
            dy = v - (number(y) + half)
            left, right = _columns(u, a, b * dy, c * dy * dy + limit, width)
            for x in range(left, right):
                dx = u - (number(x) + half)
                alpha = _alpha_at(y, x, dx, dy, (a, b, c), opacity, through, done)
                if alpha == 0:
                    continue
                weight = through[y, x] * alpha
                through[y, x] *= one - alpha
                g_red, g_green, g_blue, g_alpha = gradient[y, x]
                value = weight * (red * g_red + green * g_green + blue * g_blue + g_alpha)
                behind[y, x] -= value
                d_red += weight * g_red
                d_green += weight * g_green
                d_blue += weight * g_blue
                if alpha < clamp:  # nothing flows where alpha was clamped
                    flow = value - behind[y, x] * alpha / (one - alpha)  # d L / d log alpha
                    d_log += flow
                    d_u -= flow * (a * dx + b * dy)
                    d_v -= flow * (b * dx + c * dy)
                    d_a -= half * flow * dx * dx
                    d_b -= flow * dx * dy
                    d_c -= half * flow * dy * dy
        result[g, 0], result[g, 1], result[g, 2], result[g, 3], result[g, 4] = d_u, d_v, d_a, d_b, d_c
        result[g, 5], result[g, 6], result[g, 7], result[g, 8] = d_log / opacity, d_red, d_green, d_blue
