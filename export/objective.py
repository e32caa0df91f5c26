"""What a fit makes small: the distance of pictures, and what keeps Gaussians and deformation in shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.deformation import OUTPUT_UNIT
from mvp4d_export.densify import local_scale
from mvp4d_export.losses import Lpips, both_ssims, ssim
from mvp4d_export.presets import DistillConfig


def picture_loss(config: DistillConfig, lpips: Lpips | None, rgb: Tensor, pictures: Tensor, share: float) -> Tensor:
    """Distance of pictures [B, H, W, 3] when `share` of the run is done: the perceptual term takes over in time."""
    weights = config.weights
    top = config.perceptual_lpips if lpips is not None else config.perceptual_fallback
    ramp = (share - config.perceptual_from) / max(config.perceptual_to - config.perceptual_from, 1e-9)
    mix = top * min(1.0, max(0.0, ramp))
    l1 = weights.l1 * (rgb - pictures).abs().mean()
    if mix == 0:
        return l1 + weights.ssim * (1 - ssim(rgb, pictures).mean())
    if lpips is None:  # multi-scale SSIM takes over from SSIM
        single, multi = both_ssims(rgb, pictures)
        return l1 + weights.ssim * (1 - (1 - mix) * single.mean() - mix * multi.mean())
    plain = l1 + weights.ssim * (1 - ssim(rgb, pictures).mean())
    return (1 - mix) * plain + weights.lpips * mix * lpips(rgb, pictures).mean()


class Regulariser:
    """Hinges on the Gaussians' size, slenderness and travel, and smoothness of the deformation, for one avatar."""

    def __init__(self, config: DistillConfig, avatar: Avatar):
        self.config, self.avatar = config, avatar
        self.edges = _edges(avatar.mesh_faces)
        rest = avatar.gather(avatar.rig.template)
        self.edge_length = (rest[self.edges[:, 0]] - rest[self.edges[:, 1]]).norm(dim=1)

    def gaussians(self, splats: Splats, start: Tensor, size_limit: Tensor, position_limit: Tensor) -> Tensor:
        """Of Gaussians that began at `start` [G, 3] and may measure and travel as many metres [G]."""
        config, weights = self.config, self.config.weights
        longest, middle, _ = splats.scales.sort(1, descending=True).values.unbind(1)
        loss = weights.scale * ((longest - size_limit).clamp(min=0) / size_limit).mean()
        loss = loss + weights.spike * (longest.log() - middle.log() - math.log(config.spike_limit)).clamp(min=0).mean()
        away = (self.avatar.position - start).norm(dim=1) * local_scale(self.avatar, splats)
        return loss + weights.position * ((away - position_limit).clamp(min=0) / position_limit).mean()

    def deformation(self, expressive: Tensor, neutral: Tensor) -> Tensor:
        """Of the net's offsets [P, 3] for an expression and for none."""
        weights = self.config.weights
        both = torch.cat((expressive, neutral), 1) / OUTPUT_UNIT  # [P, 6]
        step = both.index_select(0, self.edges[:, 0]) - both.index_select(0, self.edges[:, 1])  # [edges, 6]
        relative = (expressive - neutral).square().sum(-1).mean() / OUTPUT_UNIT**2
        # To first order an edge turns by its relative displacement over its length.
        turn = ((step[:, :3] - step[:, 3:]).square().sum(-1) * (OUTPUT_UNIT / self.edge_length).square()).mean()
        return weights.laplacian * step.square().mean() + weights.relative * relative + weights.turn * turn


def _edges(faces: Tensor) -> Tensor:
    """[E, 2] unique edges of triangles [T, 3]."""
    pairs = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])).sort(1).values
    return torch.unique(pairs, dim=0)
