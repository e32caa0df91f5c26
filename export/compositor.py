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
ROUNDS = (16, 16, 32)  # Gaussians taken per tile in the first rounds; the last number repeats
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
        basis = _pixel_basis(attributes)
        centres = _tile_centres(lists, views, attributes)
        out = attributes.new_zeros(len(lists.counts), PIXELS, 4)
        active = lists.counts.nonzero()[:, 0]
        through = attributes.new_ones(len(active), PIXELS)
        done, index, rounds = 0, 0, []
        counts, starts, centre = lists.counts[active], lists.starts[active], centres[active]
        while len(active):
            length = _round_length(index)
            position = done + torch.arange(length)
            real = position < counts[:, None]  # [A, K]
            where = (starts[:, None] + position).clamp_(max=len(lists.gaussians) - 1)
            gaussians = lists.gaussians.index_select(0, where.flatten())  # [A K]
            rows = attributes.index_select(0, gaussians)  # [A K, 9]
            shape = rows[:, :6].T.contiguous()
            offset = (centre[:, None] - rows[:, :2].reshape(len(active), length, 2)).reshape(-1, 2).T.contiguous()
            alpha = _polynomial(shape, offset, real.flatten()).T.matmul(basis).exp_()  # [A K, 16]
            torch.nn.functional.threshold_(alpha.clamp_(max=MAX_ALPHA), ALPHA_THRESHOLD, 0.0)
            alpha = alpha.reshape(len(active), length, PIXELS)
            after = torch.cumprod(1 - alpha, 1).mul_(through[:, None])  # [A, K, 16]
            # A pixel that is done lets nothing more through its list.
            alpha.masked_fill_(after <= MIN_TRANSMITTANCE, 0.0)
            weight = torch.empty_like(alpha)
            torch.mul(alpha[:, 0], through, out=weight[:, 0])
            torch.mul(alpha[:, 1:], after[:, :-1], out=weight[:, 1:])
            colour = torch.ones(len(active), length, 4, dtype=alpha.dtype)
            colour[..., :3] = rows[:, 6:].reshape(len(active), length, 3)
            rounds.append((active, gaussians, shape, offset, alpha, weight, colour))
            out[active] += weight.transpose(1, 2).bmm(colour)
            done, index = done + length, index + 1
            last = after[:, -1]
            more = ((counts > done) & (last.amax(-1) > MIN_TRANSMITTANCE)).nonzero()[:, 0]
            through = last.index_select(0, more)
            active, counts, starts, centre = active[more], counts[more], starts[more], centre[more]
        if attributes.requires_grad:
            ctx.rounds, ctx.basis, ctx.shape = rounds, basis, attributes.shape
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        behind = gradient.new_zeros(gradient.shape[:2])  # sum of weight * (colour . gradient) further back
        ids, parts = [], []
        for active, gaussians, shape, offset, alpha, weight, colour in reversed(ctx.rounds):
            pixel_gradient = gradient.index_select(0, active)  # [A, 16, 4]
            value = colour.bmm(pixel_gradient.transpose(1, 2)).mul_(weight)  # [A, K, 16]
            sums = value.cumsum(1)
            total = sums[:, -1] + behind.index_select(0, active)
            hidden = torch.sub(total[:, None], sums, out=sums)  # strictly behind
            behind[active] = total
            # d L / d log alpha; nothing flows where alpha was clamped
            value.addcmul_(hidden, alpha / (alpha - 1)).masked_fill_(alpha >= MAX_ALPHA, 0.0)
            polynomial = value.reshape(-1, PIXELS).matmul(ctx.basis.T)  # [A K, 6]
            row_gradient = torch.empty(len(gaussians), 9, dtype=gradient.dtype)
            row_gradient[:, :6] = _polynomial_backward(polynomial.T.contiguous(), shape, offset).T
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


def _polynomial(shape: Tensor, offset: Tensor, real: Tensor) -> Tensor:
    """Coefficients [6, A K] of log alpha in the pixel basis; `offset` [2, A K] is tile centre minus mean."""
    _, _, a, b, c, log_opacity = shape
    dx, dy = offset
    out = torch.empty_like(shape)
    torch.addcmul(b * dy, a, dx, out=out[1])
    torch.addcmul(c * dy, b, dx, out=out[2])
    constant = torch.add(log_opacity, dx * out[1] + dy * out[2], alpha=-0.5)
    torch.where(real, constant, constant.new_tensor(_NEVER), out=out[0])
    out[1:3].neg_()
    torch.mul(a, -0.5, out=out[3])
    torch.neg(b, out=out[4])
    torch.mul(c, -0.5, out=out[5])
    return out


def _polynomial_backward(g: Tensor, shape: Tensor, offset: Tensor) -> Tensor:
    """Chains coefficient gradients g [6, A K] to the first six attributes [6, A K]."""
    _, _, a, b, c, _ = shape
    dx, dy = offset
    half_x, half_y = torch.addcmul(g[1], g[0], dx, value=0.5), torch.addcmul(g[2], g[0], dy, value=0.5)
    return torch.stack(
        (
            g[0] * (a * dx + b * dy) + g[1] * a + g[2] * b,
            g[0] * (b * dx + c * dy) + g[1] * b + g[2] * c,
            -half_x * dx - 0.5 * g[3],
            -g[0] * dx * dy - g[1] * dy - g[2] * dx - g[4],
            -half_y * dy - 0.5 * g[5],
            g[0],
        )
    )
