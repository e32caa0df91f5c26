"""Front-to-back compositing of projected Gaussians on the CPU, in torch, with a hand-written backward pass.

Gaussians are sorted by depth and listed per tile of 4 x 4 pixels. Tiles are worked off in rounds: a round takes the
next `ROUND` Gaussians of every tile that still has some and still lets light through, so a round is one dense batch
[A tiles, K Gaussians, 16 pixels], and what hides behind an opaque surface is never evaluated. Within a tile the
exponent of a Gaussian is a quadratic polynomial of the pixel's offset, which makes its evaluation (and the gradient)
a product with a constant 6 x 16 matrix.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from mvp4d_export.projection import ALPHA_THRESHOLD, Projected

TILE = 4  # pixels
PIXELS = TILE * TILE
ROUNDS = (8, 8, 16, 32)  # Gaussians taken per tile in the first rounds; the last number repeats
MAX_ALPHA = 0.999  # gsplat's clamp
MIN_TRANSMITTANCE = 1e-4  # a pixel is done before its transmittance would fall to this
_NEVER = -1e4  # log alpha of a padding entry


@dataclasses.dataclass(frozen=True)
class TileLists:
    """Which Gaussians touch which tile, nearest first. G = V * N projected Gaussians, M pairs.

    Attributes:
      gaussians: [M] int64 indices into G, sorted by tile, then depth.
      starts, counts: [tiles] int64, the slice of `gaussians` of each tile; tiles run over (view, row, column).
      rows, columns: tiles per view.
    """

    gaussians: Tensor
    starts: Tensor
    counts: Tensor
    rows: int
    columns: int


def list_tiles(projected: Projected, width: int, height: int) -> TileLists:
    """Lists, per tile, the Gaussians whose box of visible alpha holds a pixel centre of it, sorted by depth."""
    views, count = projected.depths.shape
    columns, rows = -(-width // TILE), -(-height // TILE)
    means, extents = projected.means2d.detach(), projected.extents
    limit = means.new_tensor([width - 1, height - 1])
    first = torch.minimum((means - extents - 0.5).ceil().clamp(min=0), limit + 1)
    last = torch.minimum((means + extents - 0.5).floor(), limit)
    seen = (extents[..., 0] > 0) & (last >= first).all(-1)  # [V, N]
    order = projected.depths.detach().argsort(dim=1, stable=True)  # [V, N]
    order = (order + torch.arange(views)[:, None] * count).flatten()
    order = order[seen.flatten()[order]]  # [G']
    low = (first.reshape(-1, 2)[order].long()) // TILE  # [G', 2] as (column, row)
    high = (last.reshape(-1, 2)[order].long()) // TILE
    size = high - low + 1
    pairs = size[:, 0] * size[:, 1]
    owner = torch.repeat_interleave(torch.arange(len(order)), pairs)  # [M]
    within = torch.arange(len(owner)) - (pairs.cumsum(0) - pairs)[owner]
    stride = size[:, 0][owner]
    row = torch.div(within, stride, rounding_mode="floor")
    view = torch.div(order, max(count, 1), rounding_mode="floor")
    base = view * (rows * columns) + low[:, 1] * columns + low[:, 0]
    tile = base[owner] + row * columns + (within - row * stride)
    tiles = views * rows * columns
    by_tile = _stable_order(tile, tiles)
    counts = torch.bincount(tile, minlength=tiles)
    return TileLists(order[owner[by_tile]], counts.cumsum(0) - counts, counts, rows, columns)


def _stable_order(keys: Tensor, limit: int) -> Tensor:
    """Stable argsort of small integers; numpy sorts 16-bit ones by radix, several times faster than torch."""
    if limit <= 1 << 16:
        return torch.from_numpy(np.argsort(keys.numpy().astype(np.uint16), kind="stable"))
    return torch.argsort(keys, stable=True)


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
    lists = list_tiles(projected, width, height)
    views, count = projected.depths.shape
    attributes = torch.cat(
        (projected.means2d, projected.conics, projected.opacities.clamp(min=1e-12).log()[..., None], colours), -1
    ).reshape(views * count, 9)
    blended = _Blend.apply(attributes, lists, views)  # [tiles, 16, 4] premultiplied rgb, alpha
    image = blended.reshape(views, lists.rows, lists.columns, TILE, TILE, 4).permute(0, 1, 3, 2, 4, 5)
    image = image.reshape(views, lists.rows * TILE, lists.columns * TILE, 4)[:, :height, :width]
    alpha = image[..., 3]
    return image[..., :3] + (1 - alpha)[..., None] * background[:, None, None], alpha


def _pixel_basis(like: Tensor) -> Tensor:
    """[6, 16]: 1, x, y, x^2, xy, y^2 at the tile's pixel centres, measured from the tile's centre."""
    offsets = torch.arange(TILE, dtype=like.dtype) - (TILE - 1) / 2
    y, x = (grid.flatten() for grid in torch.meshgrid(offsets, offsets, indexing="ij"))
    return torch.stack((torch.ones_like(x), x, y, x * x, x * y, y * y))


def _round_length(index: int) -> int:
    return ROUNDS[min(index, len(ROUNDS) - 1)]


class _Blend(torch.autograd.Function):
    """attributes [G, 9]: u v, conic xx xy yy, log opacity, r g b -> [tiles, 16, 4] premultiplied colour, alpha."""

    @staticmethod
    def forward(ctx, attributes: Tensor, lists: TileLists, views: int) -> Tensor:
        tiles = lists.counts.shape[0]
        basis = _pixel_basis(attributes)
        centres = _tile_centres(lists, views, attributes)
        out = attributes.new_zeros(tiles, PIXELS, 4)
        through = attributes.new_ones(tiles, PIXELS)
        active = lists.counts.nonzero()[:, 0]
        done, index, rounds = 0, 0, []
        while len(active):
            length = _round_length(index)
            position = done + torch.arange(length)
            real = position < lists.counts[active, None]  # [A, K]
            where = (lists.starts[active, None] + position).clamp(max=len(lists.gaussians) - 1)
            gaussians = lists.gaussians[where.flatten()]  # [A K]
            rows = attributes[gaussians]  # [A K, 9]
            offset = (centres[active, None] - rows[:, :2].reshape(len(active), length, 2)).reshape(-1, 2)
            alpha = _polynomial(rows, offset, real.flatten()).matmul(basis).exp_()  # [A K, 16]
            alpha.clamp_(max=MAX_ALPHA).mul_(alpha >= ALPHA_THRESHOLD)
            alpha = alpha.reshape(len(active), length, PIXELS)
            after = torch.cumprod(1 - alpha, 1).mul_(through[active, None])  # [A, K, 16]
            weight = torch.empty_like(alpha)
            weight[:, 0] = through[active]
            weight[:, 1:] = after[:, :-1]
            weight.mul_(alpha).mul_(after > MIN_TRANSMITTANCE)
            colour = torch.ones(len(active), length, 4, dtype=alpha.dtype)
            colour[..., :3] = rows[:, 6:].reshape(len(active), length, 3)
            out[active] += weight.transpose(1, 2).bmm(colour)
            rounds.append((active, gaussians, rows, offset, alpha, weight, colour))
            through[active] = after[:, -1]
            done, index = done + length, index + 1
            more = (lists.counts[active] > done) & (after[:, -1].amax(-1) > MIN_TRANSMITTANCE)
            active = active[more]
        if attributes.requires_grad:
            ctx.rounds, ctx.basis, ctx.shape = rounds, basis, attributes.shape
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        basis = ctx.basis
        tiles = gradient.shape[0]
        behind = gradient.new_zeros(tiles, PIXELS)  # sum over what lies further back of weight * (colour . gradient)
        ids, parts = [], []
        for active, gaussians, rows, offset, alpha, weight, colour in reversed(ctx.rounds):
            pixel_gradient = gradient[active]  # [A, 16, 4]
            value = colour.bmm(pixel_gradient.transpose(1, 2)).mul_(weight)  # [A, K, 16]
            sums = value.cumsum(1)
            total = sums[:, -1] + behind[active]
            hidden = total[:, None] - sums  # strictly behind
            behind[active] = total
            # d L / d log alpha; nothing flows where the pixel was done or alpha was clamped
            hidden.mul_(alpha / (1 - alpha))
            value.sub_(hidden).mul_((weight > 0) & (alpha < MAX_ALPHA))
            polynomial = value.reshape(-1, PIXELS).matmul(basis.T)  # [A K, 6]
            row_gradient = torch.empty_like(rows)
            _polynomial_backward(polynomial, rows, offset, row_gradient)
            row_gradient[:, 6:] = weight.bmm(pixel_gradient[..., :3]).reshape(-1, 3)
            ids.append(gaussians)
            parts.append(row_gradient)
        result = gradient.new_zeros(ctx.shape)
        if ids:
            index = torch.cat(ids)[:, None].expand(-1, ctx.shape[1])
            result.scatter_add_(0, index, torch.cat(parts))
        return result, None, None


def _tile_centres(lists: TileLists, views: int, like: Tensor) -> Tensor:
    """[tiles, 2] pixels."""
    y, x = torch.meshgrid(torch.arange(lists.rows), torch.arange(lists.columns), indexing="ij")
    centres = torch.stack((x, y), -1).reshape(-1, 2).to(like.dtype) * TILE + TILE / 2
    return centres.repeat(views, 1)


def _polynomial(rows: Tensor, offset: Tensor, real: Tensor) -> Tensor:
    """Coefficients [A K, 6] of log alpha in the pixel basis; `offset` is tile centre minus mean."""
    a, b, c, log_opacity = rows[:, 2:6].unbind(1)
    dx, dy = offset.unbind(1)
    slope_x, slope_y = a * dx + b * dy, b * dx + c * dy
    constant = log_opacity - 0.5 * (dx * slope_x + dy * slope_y)
    constant = torch.where(real, constant, torch.full_like(constant, _NEVER))
    return torch.stack((constant, -slope_x, -slope_y, -0.5 * a, -b, -0.5 * c), 1)


def _polynomial_backward(g: Tensor, rows: Tensor, offset: Tensor, out: Tensor) -> None:
    """Chains coefficient gradients g [A K, 6] to the first six attributes, written into `out`."""
    a, b, c = rows[:, 2:5].unbind(1)
    dx, dy = offset.unbind(1)
    g0, g1, g2 = g[:, 0], g[:, 1], g[:, 2]
    out[:, 0] = g0 * (a * dx + b * dy) + g1 * a + g2 * b
    out[:, 1] = g0 * (b * dx + c * dy) + g1 * b + g2 * c
    out[:, 2] = -0.5 * g0 * dx * dx - g1 * dx - 0.5 * g[:, 3]
    out[:, 3] = -g0 * dx * dy - g1 * dy - g2 * dx - g[:, 4]
    out[:, 4] = -0.5 * g0 * dy * dy - g2 * dy - 0.5 * g[:, 5]
    out[:, 5] = g0
