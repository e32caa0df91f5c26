"""Picture losses and measures: SSIM, multi-scale SSIM, PSNR, LPIPS from the user's weights."""

from __future__ import annotations

import functools
import os

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, normalize

from mvp4d.core import lpips_file
from mvp4d.core.errors import UserError
from mvp4d.core.files import check_regular
from mvp4d_export.tensors import read_tensors

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001)  # Wang et al. 2003, the first three of five scales, made to sum to one


@functools.lru_cache(maxsize=32)
def _taps(dtype: torch.dtype) -> Tensor:
    """[11] the Gaussian window along one side."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - (WINDOW - 1) / 2
    taps = torch.exp(-offsets.square() / (2 * SIGMA**2))
    return (taps / taps.sum()).to(dtype)


@functools.lru_cache(maxsize=32)
def _window_matrix(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[side - 10, side]: each row is the Gaussian window at one place; blurring is a product from both sides."""
    matrix = torch.zeros(side - WINDOW + 1, side, dtype=dtype)
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = _taps(dtype)
    return matrix.to(device)


def _windowed(pictures: Tensor) -> Tensor:
    """[B, C, H - 10, W - 10] means of pictures [B, C, H, W] under the window."""
    if pictures.device.type == "cpu":
        from mvp4d_export.blur import blurred  # numba, which CUDA does without

        return blurred(pictures, _taps(pictures.dtype))
    rows = _window_matrix(pictures.shape[2], pictures.dtype, pictures.device)
    return rows @ pictures @ _window_matrix(pictures.shape[3], pictures.dtype, pictures.device).T


def _ssim_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part, [B, C, H - 10, W - 10], of pictures [B, C, H, W] in [0, 1]."""
    mx, my, xx, yy, xy = (_windowed(values) for values in (x, y, x * x, y * y, x * y))
    contrast = (2 * (xy - mx * my) + C2) / (xx - mx * mx + yy - my * my + C2)
    return contrast * (2 * mx * my + C1) / (mx * mx + my * my + C1), contrast


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM [B] of pictures [B, H, W, C] in [0, 1], sides >= 11: Gaussian window, where it fits whole."""
    return _ssim_maps(x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2))[0].mean((1, 2, 3))


def both_ssims(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`ssim` and multi-scale SSIM [B] of pictures [B, H, W, C], the second over up to three scales, as the sides allow.

    The full scale, most of the work, is computed once for both.
    """
    x, y = x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2)
    first = _ssim_maps(x, y)
    scales = [scale for scale in range(3) if min(x.shape[2:]) >> scale >= WINDOW]
    weights = torch.tensor(SCALE_WEIGHTS[: len(scales)])
    weights = (weights / weights.sum()).tolist()
    result = 1.0
    for scale in scales:
        if scale:
            x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
        full, contrast = _ssim_maps(x, y) if scale else first
        value = (full if scale == scales[-1] else contrast).mean((1, 2, 3)).clamp(min=1e-3)
        result = result * value ** weights[scale]
    return first[0].mean((1, 2, 3)), result


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """[B] decibels of pictures [B, H, W, C] in [0, 1]; 100 at most."""
    return -10 * (x - y).square().flatten(1).mean(1).clamp(min=1e-10).log10()


class Lpips(nn.Module):
    """LPIPS on VGG-16 (Zhang et al. 2018), from weights that the user brings (`core.lpips_file`)."""

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        check_regular(path, lpips_file.MOST_BYTES)
        try:
            source = read_tensors(path)
        except (OSError, SafetensorError) as error:
            raise UserError(path, f"not a readable safetensors file ({error})") from None
        for name in lpips_file.tensor_names(source, path):
            self.register_buffer(name.replace(".", "_"), source[name].float())
        self.register_buffer("shift", torch.tensor(lpips_file.SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(lpips_file.SCALE)[:, None, None])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B] distances of pictures [B, H, W, 3] in [0, 1], sides >= 16."""
        features = (2 * torch.cat((x, y)).permute(0, 3, 1, 2) - 1 - self.shift) / self.scale
        total = x.new_zeros(len(x))
        for stage, indices in enumerate(lpips_file.STAGES):
            if stage:
                features = max_pool2d(features, 2)
            for index in indices:
                kernel, bias = (getattr(self, f"features_{index}_{part}") for part in ("weight", "bias"))
                features = conv2d(features, kernel, bias, padding=1).relu()
            first, second = normalize(features, dim=1, eps=1e-10).chunk(2)
            weight = getattr(self, f"lin{stage}_model_1_weight").flatten()
            total = total + torch.einsum("bchw,c->bhw", (first - second).square(), weight).mean((1, 2))
        return total
