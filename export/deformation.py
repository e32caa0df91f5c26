"""The deformation net: what the linear rig misses, as small offsets of the UV vertices (CAP4D's design)."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

EXPRESSION_UNIT = 0.0104  # metres; CAP4D divides expression offsets by it
OUTPUT_UNIT = 0.0108  # metres per unit of the last layer
FREQUENCIES = 4  # 3 coordinates x 4 octaves x (sin, cos) = 24 channels
IN_CHANNELS = 3 + 6 * FREQUENCIES


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """Size of the U-Net: channels per level (each level halves the side); `stride` of the first convolution."""

    channels: tuple[int, ...] = (16, 32, 32)
    blocks: int = 1
    stride: int = 2


def position_features(positions: Tensor) -> Tensor:
    """[P, 3] positions, centred and scaled to [-1, 1], to [P, 24] sines and cosines of 2^k pi p."""
    centred = positions - positions.mean(0)
    scaled = centred / centred.abs().max()
    waves = [scaled * (math.pi * 2**k) for k in range(FREQUENCIES)]
    return torch.cat([function(wave) for wave in waves for function in (torch.sin, torch.cos)], 1)


class DeformationNet(nn.Module):
    """U-Net on the UV square: [B, 27, R, R] (expression offsets / 0.0104 m, positions) -> [B, 3, R, R] metres."""

    def __init__(self, config: NetConfig):
        super().__init__()
        self.config = config
        widths = config.channels
        self.stem = nn.Conv2d(IN_CHANNELS, widths[0], 3, stride=config.stride, padding=1)
        self.down = nn.ModuleList(_stage(widths[max(i - 1, 0)], width, config.blocks) for i, width in enumerate(widths))
        self.up = nn.ModuleList(
            _stage(widths[i + 1] + widths[i], widths[i], config.blocks) for i in range(len(widths) - 1)
        )
        self.head = nn.Conv2d(widths[0], 3, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        if features.is_cpu:  # convolutions of few channels take a fifth less with them along the last axis of memory
            features = features.contiguous(memory_format=torch.channels_last)
        x = self.stem(features)
        skips = []
        for level, stage in enumerate(self.down):
            if level:
                x = nn.functional.avg_pool2d(x, 2)
            x = stage(x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = interpolate(x, size=skips[level].shape[-2:], mode="bilinear", align_corners=False)
            x = self.up[level](torch.cat((x, skips[level]), 1))
        x = self.head(x)
        if x.shape[-2:] != features.shape[-2:]:
            x = interpolate(x, size=features.shape[-2:], mode="bilinear", align_corners=False)
        return OUTPUT_UNIT * x


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(silu(self.first(silu(x))))


def _stage(inputs: int, width: int, blocks: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
    return nn.Sequential(first, *[_Block(width) for _ in range(blocks)])
