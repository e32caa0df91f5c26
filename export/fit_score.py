"""How well a fit reproduces its capture: PSNR and SSIM of pictures that it was fitted to, and of those held back."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mvp4d_export.distill import Distiller
from mvp4d_export.losses import psnr, ssim


def score(fit: Distiller) -> dict[str, dict[str, float]]:
    """PSNR and SSIM per group that has pictures: fitted ones, held-out views and times, and these' expressive half."""
    data = fit.data
    face = dataclasses.replace(data.pose, neck=torch.zeros_like(data.pose.neck))  # a turned head is no expression
    motion = (fit.avatar.rig(face)[0] - fit.avatar.rig.template).norm(dim=-1).mean(1)
    expressive = sorted(data.held_times, key=lambda t: -float(motion[t]))[: (len(data.held_times) + 1) // 2]
    shown = data.train_times[:: max(1, len(data.train_times) // 12)]
    groups = {
        "fitted": (data.train_views, shown),
        "held_views": (data.held_views, data.train_times),
        "held_times": (data.train_views, data.held_times),
        "held_times_expressive": (data.train_views, expressive),
        "held_both": (data.held_views, data.held_times),
    }
    scores = {name: _group(fit, views, times) for name, (views, times) in groups.items()}
    return {name: found for name, found in scores.items() if found}


def _group(fit: Distiller, views: list[int], times: list[int]) -> dict[str, float]:
    """Mean PSNR and SSIM over every usable picture of the views and times; empty where there is none."""
    values = []
    for moment in times:
        usable = [view for view in views if fit.data.usable[view, moment]]
        if usable:
            truth = fit.data.batch(usable, moment)[0]
            rendered = render_frame(fit, moment, usable)
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
def render_frame(fit: Distiller, moment: int, views: list[int]) -> Tensor:
    """The avatar as the capture's cameras see it: [B, H, W, 3] in [0, 1], without colour correction."""
    pose = fit.data.pose[moment : moment + 1]
    neck = fit.avatar.neck_offsets[moment] if moment in fit.data.train_times else None
    splats = fit.avatar.splats(fit.avatar.vertices(pose, neck=neck))
    height, width = fit.data.size
    rendering = fit.avatar.render(
        splats,
        pose,
        fit.data.viewmats[views, moment],
        fit.data.Ks[views, moment],
        width,
        height,
        fit.data.background,
    )
    return rendering.rgb.clamp(0, 1)
