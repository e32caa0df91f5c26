"""Front-to-back compositing of projected Gaussians on the CPU: one pass in depth order, compiled by numba.

Gaussians are drawn one after another, nearest first, each over the pixels of its ellipse; a pixel keeps how much light
still comes through it. The backward pass repeats every decision of the forward pass, so
that nothing is kept per pair of Gaussian and pixel, and what lies behind a Gaussian is the pixel's colour less what was
drawn so far. Pixels lie in blocks of eight of a row, whose loops the compiler turns into vector instructions: what
a pixel holds is in one array, plane by plane, and decisions are selections. Compiled code lets go of Python's lock:
several views are drawn in several threads.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from mvp4d_export.compiled import compiled
from mvp4d_export.device import in_parallel
from mvp4d_export.projection import ALPHA_THRESHOLD, Projected

MAX_ALPHA = 0.999  # gsplat's clamp
MIN_TRANSMITTANCE = 1e-4  # a pixel is done before its transmittance would fall to this
LANES = 8  # pixels of a block
LIGHT, FAINTEST = 0, 1  # planes of a block: transmittance; the least alpha that counts, over 1 where a pixel is done
RED, GREEN, BLUE, MARK = 2, 3, 4, 5  # forwards: colour and mark so far
BEHIND, D_RED, D_GREEN, D_BLUE, D_ALPHA = 2, 3, 4, 5, 6  # backwards: what is still to come, gradients of the pixel
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453


def composite(
    projected: Projected, colours: Tensor, background: Tensor, width: int, height: int, marks: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Blends Gaussians front to back over a background.

    Args:
      projected: Gaussians in V views, float32 or float64, on the CPU.
      colours: [V, N, 3].
      background: [V, 3].
      marks: [N] one more value per Gaussian, blended over black in the same pass.

    Returns:
      rgb [V, H, W, 3] over the background, alpha [V, H, W], blended marks [V, H, W] (0 without any). Differentiable in
      all of `projected` but depths and extents, and in the colours and the background; the marks are constants.
    """
    marks = torch.zeros_like(projected.opacities) if marks is None else marks.expand_as(projected.opacities)
    values = projected.means2d, projected.conics, projected.opacities[..., None], colours, marks.detach()[..., None]
    attributes = torch.cat(values, -1)
    reach = projected.extents[..., 1]
    order = projected.depths.detach().argsort(dim=1, stable=True)
    orders = [nearest_first[visible[nearest_first]] for nearest_first, visible in zip(order, reach > 0)]
    blended, marked = _Blend.apply(attributes, reach, orders, width, height)  # [V, H, W, 4] premultiplied rgb, alpha
    alpha = blended[..., 3]
    return blended[..., :3] + (1 - alpha)[..., None] * background[:, None, None], alpha, marked


class _Blend(torch.autograd.Function):
    """attributes [V, N, 10], reach [V, N] rows up and down, V orders -> [V, H, W, 4] premultiplied colour, alpha, and
    marks [V, H, W]."""

    @staticmethod
    def forward(ctx, attributes: Tensor, reach: Tensor, orders: list[Tensor], width: int, height: int):
        out = attributes.new_empty(len(orders), height, width, 4)
        marked = attributes.new_empty(out.shape[:3])
        views = [tuple(array.numpy() for array in view) for view in zip(orders, attributes.detach(), reach.detach())]
        in_parallel(lambda view: _draw(*views[view], out[view].numpy(), marked[view].numpy()), list(range(len(views))))
        ctx.save_for_backward(out)
        ctx.mark_non_differentiable(marked)
        ctx.views, ctx.shape = views, attributes.shape
        return out, marked

    @staticmethod
    def backward(ctx, gradient: Tensor, _):
        result = gradient.new_zeros(ctx.shape)
        # What the pixels' gradients make of the light that each still has to receive, [V, H, W].
        behind = (ctx.saved_tensors[0] * gradient).sum(-1)
        arrays = [tuple(array.numpy() for array in view) for view in zip(gradient.contiguous(), behind, result)]
        in_parallel(lambda view: _draw_backward(*ctx.views[view], *arrays[view]), list(range(len(arrays))))
        return result, None, None, None, None


def _exp(x):
    """e^x; float32 as a polynomial, to 5e-7 of what counts, because calls of a library are not vectorised.

    x is above 0 only where rounding left a Gaussian without a covariance: then any number far above 1 will do.
    """
    return math.exp(x)


@overload(_exp)
def _exp_of(x):
    if x != numba.float32:
        return lambda x: math.exp(x)
    number, whole = np.float32, np.int32

    def polynomial(x):
        doublings = max(number(-126), min(number(127), x * number(LOG2_E)))  # what float32's exponent holds; no NaN
        exponent = whole(doublings - number(0.5))  # the nearest where it is not positive
        rest = (doublings - number(exponent)) * number(LN_2)
        value = number(1 / 5040)
        value = value * rest + number(1 / 720)
        value = value * rest + number(1 / 120)
        value = value * rest + number(1 / 24)
        value = value * rest + number(1 / 6)
        value = value * rest + number(1 / 2)
        value = value * rest + number(1)
        value = value * rest + number(1)
        return value * whole((exponent + whole(127)) << whole(23)).view(np.float32)

    return polynomial


@compiled
def _blocks(height, width, planes, like):
    """Pixels that nothing is drawn into yet, [H, blocks of a row, planes, LANES]; and how many of a block are done."""
    across = (width + LANES - 1) // LANES
    state = np.zeros((height, across, planes, LANES), like.dtype)
    state[:, :, LIGHT] = 1
    state[:, :, FAINTEST] = ALPHA_THRESHOLD
    return state, np.zeros((height, across), np.int32)


@compiled
def _rows(v, reach, height):
    """First row and the one after the last whose pixel centres lie within `reach` of v."""
    top, bottom = max(0, math.ceil(v - reach - 0.5)), min(height, math.floor(v + reach - 0.5) + 1)
    return top, max(top, bottom)  # 1e19 turns into a number far below 0, and the count of such a range wraps round


@compiled
def _blocks_across(u, a, half, constant, width):
    """First block and the one after the last where a dx^2 + 2 half dx + constant <= 0; dx: u less a pixel's centre."""
    inside = half * half - a * constant
    if inside < 0:
        return 0, 0
    root = math.sqrt(inside)
    left = max(0, math.ceil(u + (half - root) / a - 0.5))
    right = min(width, math.floor(u + (half + root) / a - 0.5) + 1)
    return (left // LANES, (right - 1) // LANES + 1) if right > left else (0, 0)


@compiled
def _meet(block, lane, dx, row, opacity):
    """A Gaussian and a pixel: alpha, whether it is drawn, whether it ends the pixel; row: a / 2, b dy, -c dy^2 / 2."""
    number = block.dtype.type
    half_a, b_dy, rest = row
    alpha = min(number(MAX_ALPHA), opacity * _exp(rest - dx * (half_a * dx + b_dy)))
    seen = alpha >= block[FAINTEST, lane]
    ends = block[LIGHT, lane] * (number(1) - alpha) <= number(MIN_TRANSMITTANCE)
    return alpha, seen and not ends, seen and ends


@compiled
def _draw_block(block, first, row, opacity, colour):
    """Draws a Gaussian, `first` pixels beyond a block's first one, into the block; how many pixels are done with it."""
    number = block.dtype.type
    red, green, blue, mark = colour
    ended = np.int32(0)
    for lane in range(LANES):
        alpha, drawn, ends = _meet(block, lane, first - number(lane), row, opacity)
        light = block[LIGHT, lane]
        weight = light * alpha if drawn else number(0)
        block[LIGHT, lane] = light - weight
        block[FAINTEST, lane] = number(2) if ends else block[FAINTEST, lane]
        block[RED, lane] += weight * red
        block[GREEN, lane] += weight * green
        block[BLUE, lane] += weight * blue
        block[MARK, lane] += weight * mark
        ended += np.int32(ends)
    return ended


@compiled
def _draw(order, attributes, reach, out, marked):
    """Draws a view's Gaussians [N, 10], in this order, into [H, W, 4] and [H, W]."""
    height, width = out.shape[:2]
    number = attributes.dtype.type
    half = number(0.5)
    blocks, done = _blocks(height, width, 6, attributes)
    for g in order:
        u, v, a, b, c, opacity, red, green, blue, mark = attributes[g]
        limit = number(2) * math.log(number(ALPHA_THRESHOLD) / opacity)
        top, bottom = _rows(v, reach[g], height)
        for y in range(top, bottom):
            dy = v - (number(y) + half)
            row = half * a, b * dy, -half * c * dy * dy
            left, right = _blocks_across(u, a, b * dy, c * dy * dy + limit, width)
            for k in range(left, right):
                if done[y, k] < LANES:
                    first = u - (number(LANES * k) + half)
                    done[y, k] += _draw_block(blocks[y, k], first, row, opacity, (red, green, blue, mark))
    for y in range(height):
        for x in range(width):
            block, lane = blocks[y, x // LANES], x % LANES
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = block[RED, lane], block[GREEN, lane], block[BLUE, lane]
            out[y, x, 3] = number(1) - block[LIGHT, lane]
            marked[y, x] = block[MARK, lane]


@compiled
def _draw_block_backward(block, first, row, opacity, colour, sums):
    """Adds what a block's pixels tell of a Gaussian to its sums; how many pixels are done with it.

    Sums: gradients of its colour, d L / d log alpha, that times dx, that times dx^2.
    """
    number = block.dtype.type
    red, green, blue = colour
    d_red, d_green, d_blue, d_log, d_dx, d_dx2 = sums
    ended = np.int32(0)
    for lane in range(LANES):
        dx = first - number(lane)
        alpha, drawn, ends = _meet(block, lane, dx, row, opacity)
        light = block[LIGHT, lane]
        weight = light * alpha if drawn else number(0)
        block[LIGHT, lane] = light - weight
        block[FAINTEST, lane] = number(2) if ends else block[FAINTEST, lane]
        g_red, g_green, g_blue = block[D_RED, lane], block[D_GREEN, lane], block[D_BLUE, lane]
        value = weight * (red * g_red + green * g_green + blue * g_blue + block[D_ALPHA, lane])
        behind = block[BEHIND, lane] - value
        block[BEHIND, lane] = behind
        d_red += weight * g_red
        d_green += weight * g_green
        d_blue += weight * g_blue
        flow = value - behind * alpha / (number(1) - alpha)  # d L / d log alpha
        flow = flow if drawn and alpha < number(MAX_ALPHA) else number(0)  # nothing flows where alpha was clamped
        d_log += flow
        d_dx += flow * dx
        d_dx2 += flow * dx * dx
        ended += np.int32(ends)
    return (d_red, d_green, d_blue, d_log, d_dx, d_dx2), ended


@compiled
def _draw_backward(order, attributes, reach, gradient, behind, result):
    """Gradients [N, 10] of a view's Gaussians from those [H, W, 4] of its pixels and `behind` [H, W]."""
    height, width = behind.shape
    number = attributes.dtype.type
    half, zero = number(0.5), number(0)
    blocks, done = _blocks(height, width, 7, attributes)
    for y in range(height):
        for x in range(width):
            block, lane = blocks[y, x // LANES], x % LANES
            block[BEHIND, lane] = behind[y, x]
            for channel in range(4):
                block[D_RED + channel, lane] = gradient[y, x, channel]
    for g in order:
        u, v, a, b, c, opacity, red, green, blue, _ = attributes[g]
        limit = number(2) * math.log(number(ALPHA_THRESHOLD) / opacity)
        d_red = d_green = d_blue = d_log = d_dx = d_dy = d_dx2 = d_dxdy = d_dy2 = zero
        top, bottom = _rows(v, reach[g], height)
        for y in range(top, bottom):
            dy = v - (number(y) + half)
            row = half * a, b * dy, -half * c * dy * dy
            left, right = _blocks_across(u, a, b * dy, c * dy * dy + limit, width)
            of_log, of_dx = zero, zero
            for k in range(left, right):
                if done[y, k] < LANES:
                    first = u - (number(LANES * k) + half)
                    sums = d_red, d_green, d_blue, of_log, of_dx, d_dx2
                    sums, ended = _draw_block_backward(blocks[y, k], first, row, opacity, (red, green, blue), sums)
                    d_red, d_green, d_blue, of_log, of_dx, d_dx2 = sums
                    done[y, k] += ended
            d_log += of_log
            d_dx += of_dx
            d_dy += of_log * dy
            d_dxdy += of_dx * dy
            d_dy2 += of_log * dy * dy
        result[g, 0], result[g, 1] = -(a * d_dx + b * d_dy), -(b * d_dx + c * d_dy)
        result[g, 2], result[g, 3], result[g, 4] = -half * d_dx2, -d_dxdy, -half * d_dy2
        result[g, 5], result[g, 6], result[g, 7], result[g, 8] = d_log / opacity, d_red, d_green, d_blue
