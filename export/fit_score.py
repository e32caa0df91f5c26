"""How well a fit reproduces its capture: PSNR and SSIM of pictures that it was fitted to, and of those held back."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mvp4d_export.distill import Distiller
from mvp4d_export.losses import psnr, ssim


def score(fit: Distiller) -> dict[str, dict[str, float]]:
    """PSNR and SSIM per group that has pictures: fitted ones, held-out views and frames, these' expressive half."""
    data = fit.data
    face = dataclasses.replace(data.pose, neck=torch.zeros_like(data.pose.neck))  # a turned head is no expression
    motion = (fit.avatar.rig(face)[0] - fit.avatar.rig.template).norm(dim=-1).mean(1)
    expressive = sorted(data.held_frames, key=lambda frame: -float(motion[frame]))[: (len(data.held_frames) + 1) // 2]
    shown = data.train_frames[:: max(1, len(data.train_frames) // 12)]
    groups = {
        "fitted": (data.train_views, shown),
        "held_views": (data.held_views, data.train_frames),
        "held_times": (data.train_views, data.held_frames),
        "held_times_expressive": (data.train_views, expressive),
        "held_both": (data.held_views, data.held_frames),
    }
    scores = {name: _group(fit, views, frames) for name, (views, frames) in groups.items()}
    return {name: found for name, found in scores.items() if found}


def _group(fit: Distiller, views: list[int], frames: list[int]) -> dict[str, float]:
    """Mean PSNR and SSIM over every usable picture of the views and frames; empty where there is none."""
    values = []
    for frame in frames:
        usable = [view for view in views if fit.data.usable[view, frame]]
        if usable:
            truth = fit.data.batch(usable, frame)[0]
            rendered = render_frame(fit, frame, usable)
            values.append(torch.stack((psnr(rendered, truth), ssim(rendered, truth)), 1))
    if not values:
        return {}
    table = torch.cat(values).cpu()
    return {
        "psnr": round(float(table[:, 0].mean()), 3),
        "ssim": round(float(table[:, 1].mean()), 4),
        "pictures": len(table),
    }


@torch.no_grad()
def render_frame(fit: Distiller, frame: int, views: list[int]) -> Tensor:
    """The avatar as the capture's cameras see it: [B, H, W, 3] in [0, 1], without colour correction."""
    pose = fit.data.pose[frame : frame + 1]
    neck = fit.avatar.neck_offsets[frame] if frame in fit.data.train_frames else None
    splats = fit.avatar.splats(fit.avatar.vertices(pose, neck=neck))
    height, width = fit.data.size
    rendering = fit.avatar.render(
        splats,
        pose,
        fit.data.viewmats[views, frame],
        fit.data.Ks[views, frame],
        width,
        height,
        fit.data.background,
    )
    return rendering.rgb.clamp(0, 1)
