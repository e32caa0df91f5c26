"""How an avatar is fitted: sizes, schedules and weights, one preset per kind of machine."""

from __future__ import annotations

import dataclasses

from mvp4d.core.errors import UserError
from mvp4d_export.avatar import AvatarConfig
from mvp4d_export.deformation import NetConfig
from mvp4d_export.densify import DensifyConfig

STRATEGIES = ("default", "mcmc", "none")


@dataclasses.dataclass(frozen=True)
class Rates:
    """Adam's learning rates at the first step. Positions and sizes are in units of the triangle frame."""

    position: float = 5e-3
    rotation: float = 2e-3
    log_scale: float = 1e-2
    logit_opacity: float = 5e-2
    harmonics: float = 2.5e-3
    harmonics_rest: float = 1.25e-4
    net: float = 1e-3
    neck: float = 1e-4
    colour: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of the loss. Lengths enter in units of 0.0108 m (the deformation) or metres (the hinges).

    l1, ssim, lpips, turn and neck are CAP4D's. laplacian and relative (there 1.0 and 0.4) are lower: in these units
    CAP4D's numbers keep the net from learning an expression that the rig plays too weakly. `alpha` is ours: captures
    carry masks.
    """

    l1: float = 0.6
    ssim: float = 0.4
    lpips: float = 0.1
    alpha: float = 0.2
    laplacian: float = 0.1
    relative: float = 0.01
    turn: float = 0.005
    neck: float = 1.0
    scale: float = 1.0
    spike: float = 0.01
    position: float = 1.0


@dataclasses.dataclass(frozen=True)
class PhotoConfig:
    """How photos enter a fit.

    Attributes:
      steps: optimiser steps of a fit with photos; 0 takes the preset's own.
      side: pixels a side of a photo's crop, at most.
      every: of so many steps one is of photos.
      weight: of a photo's loss beside that of generated views.
      trust: share of their weight that generated views lose where a photo shows the surface squarely.
      coarse: share of the run until which photos have a quarter of their sides, and half of them.
      start_gaussians: Gaussians that start from photos, at most; added to the preset's own numbers.
      strands: of hair that no photo shows, at most; added when the fit is done.
      rate, pull: of the corrections to a photo's camera, expression, neck, jaw and eyes, in units of their limits.
      colour_rate, colour_pull: of the colour corrections that photos and generated views have.
    """

    steps: int = 0
    side: int = 512
    every: int = 3
    weight: float = 2.0
    trust: float = 0.9
    coarse: tuple[float, float] = (0.25, 0.65)
    start_gaussians: int = 14000
    strands: int = 16000
    rate: float = 1e-2
    pull: float = 1e-3
    colour_rate: float = 1e-3
    colour_pull: float = 0.1


_DENSIFY = DensifyConfig()


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Everything that decides a fit, beside the capture and the seed.

    Attributes:
      avatar: sizes of the avatar.
      steps: optimiser steps. frames_per_step: samples per step, each a video frame or a photo; a CPU
        computes each in a thread of its own.
      views: views rendered per frame (all of them where 0).
      start_gaussians, max_gaussians: bounds on the count, at the start and later.
      coarse: share of the run at half size.
      perceptual_from, perceptual_to: share of the run over which the perceptual term takes over from 0 ...
      perceptual_lpips, perceptual_fallback: ... to this share, with LPIPS and with multi-scale SSIM in its place.
      decay: learning rates end at this share of their start.
      scale_limit: metres that a Gaussian may measure freely; spike_limit: ratio of longest to middle axis.
      position_limit: metres that it may move from where it started.
      picture_side: pixels of the pictures that the counts are meant for; `adapted` lowers them for smaller ones.
      photos: how photos enter, where the capture keeps a portrait.
      checkpoint_seconds: time between checkpoints.
    """

    avatar: AvatarConfig
    steps: int
    views: int
    start_gaussians: int
    max_gaussians: int
    coarse: float = 0.0
    rates: Rates = Rates()
    weights: Weights = Weights()
    densify: DensifyConfig = _DENSIFY
    frames_per_step: int = 1
    perceptual_from: float = 0.1
    perceptual_to: float = 0.6
    perceptual_lpips: float = 0.9
    perceptual_fallback: float = 0.3
    decay: float = 0.05
    scale_limit: float = 0.01
    spike_limit: float = 5.0
    position_limit: float = 0.02
    picture_side: int = 0
    photos: PhotoConfig = PhotoConfig()
    checkpoint_seconds: float = 60.0


_FAST = Rates(position=1e-2, rotation=5e-3, log_scale=1.5e-2, harmonics=1e-2, harmonics_rest=1e-3, net=4e-3)
PRESETS = {
    "cpu": DistillConfig(
        AvatarConfig(56, 1, NetConfig((16, 24, 32), 1, 2), antialiased=True),
        1800,
        1,
        12000,
        18000,
        coarse=0.3,
        frames_per_step=2,
        perceptual_fallback=0.0,
        picture_side=128,
        rates=dataclasses.replace(_FAST, position=3e-2, log_scale=2e-2, harmonics=2e-2, harmonics_rest=2e-3),
        densify=DensifyConfig(rounds=10, stop=0.7, gradient=1e-4),
        photos=PhotoConfig(steps=500),
    ),
    "low": DistillConfig(
        AvatarConfig(96, 2, NetConfig((16, 32, 64), 1, 2)),
        5000,
        4,
        25000,
        40000,
        coarse=0.2,
        rates=dataclasses.replace(_FAST, position=8e-3),
    ),
    "default": DistillConfig(
        AvatarConfig(128, 3, NetConfig((32, 64, 128, 128), 1, 1)),
        12000,
        0,
        50000,
        100000,
        coarse=0.1,
        densify=DensifyConfig(rounds=30),
    ),
    "high": DistillConfig(
        AvatarConfig(128, 3, NetConfig((64, 128, 256, 512), 2, 1)),
        100000,
        0,
        60000,
        200000,
        densify=DensifyConfig(rounds=60),
    ),
}


def preset(name: str) -> DistillConfig:
    """A preset by name; UserError for an unknown one."""
    if name not in PRESETS:
        raise UserError("`preset`", f"'{name}' is none of {', '.join(PRESETS)}")
    return PRESETS[name]


def adapted(config: DistillConfig, image_size: tuple[int, int]) -> DistillConfig:
    """The config for pictures of this size: smaller ones show less, so fewer Gaussians and steps do (half at least)."""
    share = max(0.5, min(1.0, min(image_size) / max(config.picture_side, 1)))
    if share == 1:
        return config
    return dataclasses.replace(
        config,
        avatar=dataclasses.replace(config.avatar, uv_resolution=round(config.avatar.uv_resolution * share**0.5)),
        steps=round(config.steps * share**0.75),
        start_gaussians=round(config.start_gaussians * share),
        max_gaussians=round(config.max_gaussians * share),
    )


def with_photos(config: DistillConfig) -> DistillConfig:
    """The config for captures with photos: room for the Gaussians that start from these, blur by what saw them.

    In preset `cpu` steps are fewer: likeness and closed loop gain nothing past some 500 (docs/quality.md, P5).
    A small UV square grows: its triangles carry lips and lids that a photo shows sharply. In preset `cpu` Gaussians of
    photos, lips, lids and mouth fill the room. So densification drops and adds none: what it added at a photo's rims
    would be dots from beside.
    """
    photos, avatar = config.photos, config.avatar
    avatar = dataclasses.replace(avatar, antialiased=True, uv_resolution=max(144, avatar.uv_resolution))
    start = max(config.start_gaussians, 18000)
    most = max(config.max_gaussians, start) + photos.start_gaussians
    steps = photos.steps or config.steps
    return dataclasses.replace(config, avatar=avatar, steps=steps, start_gaussians=start, max_gaussians=most)


def changed(
    config: DistillConfig,
    *,
    steps: int | None = None,
    views_per_step: int | None = None,
    densify: str | None = None,
    deformation: bool = True,
    antialiased: bool = False,
) -> DistillConfig:
    """A preset with changes.

    Args:
      steps: optimiser steps.
      views_per_step: views of a frame per step; 0 takes all.
      densify: how the set of Gaussians grows: "default", "mcmc" or "none".
      deformation: False leaves the deformation net out.
      antialiased: fit and render with Mip-Splatting's compensation.

    Raises:
      UserError: a number or word that is none of these.
    """
    avatar = config.avatar if deformation else dataclasses.replace(config.avatar, net=None)
    if antialiased:
        avatar = dataclasses.replace(avatar, antialiased=True)
    config = dataclasses.replace(config, avatar=avatar)
    if steps is not None:
        if steps < 1:
            raise UserError("`steps`", f"{steps} is no number of steps", "use 1 or more")
        config = dataclasses.replace(config, steps=steps)
    if views_per_step is not None:
        if views_per_step < 0:
            raise UserError("`views_per_step`", f"{views_per_step} is no number of views", "0 takes all")
        config = dataclasses.replace(config, views=views_per_step)
    if densify is not None:
        if densify not in STRATEGIES:
            raise UserError("`densify`", f"'{densify}' is none of {', '.join(STRATEGIES)}")
        config = dataclasses.replace(config, densify=dataclasses.replace(config.densify, strategy=densify))
    return config
