"""A sampling run from its inputs to a plan, before any weights are loaded, and the run itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d_jax.models.checkpoint import autoencoder_bytes
from mvp4d_jax.models.checkpoint_config import read_config
from mvp4d_jax.models.transformer_config import forward_flops
from mvp4d_jax.parallel import say_mesh
from mvp4d_jax.release import Facts
from mvp4d_jax.sampling.ahead import compiled_ahead
from mvp4d_jax.sampling.clean_views import CleanViews, PhotoViews
from mvp4d_jax.sampling.decode import batches_at_once
from mvp4d_jax.sampling.denoise import DenoiseOptions
from mvp4d_jax.sampling.finish import Finishing
from mvp4d_jax.sampling.generate import Generator, SamplingInputs
from mvp4d_jax.sampling.inputs import (
    PHOTOS,
    check_portrait,
    clean_views,
    photo_views,
    pick_cameras,
    pick_motion,
)
from mvp4d_jax.sampling.memory import TPU_LANES, Needs, needs, say_needs
from mvp4d_jax.sampling.plan import SamplingPlan, describe, make_plan
from mvp4d_jax.sampling.shot import check_cameras

MOST_ENLARGED = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to sample; None means what the release was made for.

    Attributes:
      frames: frames to make; None for as many as the motion has.
      window: frames per window, 1 + s k.
      overlap: clean latent frames between windows.
      group: views per sequence.
      anchors: views that sit in every group; None: as many as the release names.
      routing: "random" or "circular".
      sampler: "dpm" or "ddim".
      steps: denoising steps; None, as of `sampler` and `guidance`: what the release names as its own.
      guidance: scale of classifier-free guidance; 1 is off.
      guidance_interval: share of the noise range in which guidance acts.
      guidance_rescale: 0 to 1.
      eta: noise added back at every step, 0 to 1.
      seed: of all noise and routing.
      photo_detail: whether views take the photo's detail (`sampling.photo_detail`).
      temporal_filter: whether they are filtered in time (`sampling.temporal_filter`).
      hair_colour: whether their hair takes the hue of the photo's (`sampling.hair_colour`).
      enlarge: how many times the model's size the pictures are, 1 to 8; with the photo's detail faces gain by it.
    """

    frames: int | None = None
    window: int | None = None
    overlap: int = 1
    group: int | None = None
    anchors: int | None = None
    routing: str = "random"
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    eta: float = 0.0
    seed: int = 0
    photo_detail: bool | None = None
    temporal_filter: bool | None = None
    hair_colour: bool | None = None
    enlarge: int = 1


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned run. `motion` F frames, `cameras` [V, F']; `notice` says what could not be carried over; `mesh` has
    so many devices along data, fsdp and context; `finishing` is what is done to the views as they are written."""

    folder: Path
    portrait: Portrait
    motion: Motion
    cameras: Camera
    names: tuple[str, ...]
    clean: CleanViews | PhotoViews | None
    plan: SamplingPlan
    options: DenoiseOptions
    dtype: str
    notice: str = ""
    mesh: tuple[int, int, int] = (1, 1, 1)
    finishing: Finishing = dataclasses.field(default_factory=Finishing)

    def describe(self) -> str:
        """The plan and its cost, read off the weights' config.json and headers."""
        config, _ = read_config(self.folder / "transformer")
        flops = forward_flops(config, self.plan.tokens(config.patch_size))
        shown = describe(
            self.plan,
            patch=config.patch_size,
            flops_per_forward=flops,
            dtype=self.dtype,
        )
        return f"{shown}\nmesh      {say_mesh(self.mesh)}\n{say_needs(self.needs())}"

    def needs(self) -> Needs:
        """Memory on each device."""
        transformer, autoencoder = (read_config(self.folder / part)[0] for part in ("transformer", "vae"))
        coder_bytes = autoencoder_bytes(self.folder / "vae")
        platform = jax.default_backend()
        pixels = math.prod(self.plan.latent_size) * autoencoder.spatial_compression_ratio**2
        decoded = batches_at_once(autoencoder, pixels, math.prod(self.mesh), platform)
        lanes = TPU_LANES if platform == "tpu" else 1
        return needs(self.plan, transformer, autoencoder, coder_bytes, self.mesh, self.dtype, lanes, decoded)

    def run(
        self, generator: Generator, out: Path, extra: dict[str, Any] | None = None, *, overwrite: bool = False
    ) -> Capture | None:
        """Samples into the capture `out`; a run of the same inputs that was stopped goes on where it was. None in a
        process that is not the first."""
        with compiled_ahead(generator.compilations(self.plan, self.options)):
            inputs = SamplingInputs(
                generator.reference(self.portrait),
                self.portrait.head,
                self.motion,
                self.cameras,
                self.names,
                self.clean,
                self.portrait,
                self.finishing,
            )
            return generator.run(self.plan, inputs, self.options, out, self.fingerprint(), extra, overwrite=overwrite)

    def fingerprint(self) -> str:
        """A hash of everything that the pictures depend on."""
        digest = hashlib.sha256(f"{self.plan.fingerprint()} {self.dtype}".encode())
        digest.update(
            json.dumps([dataclasses.asdict(self.options), self.names, dataclasses.asdict(self.finishing)]).encode()
        )
        digest.update((self.folder / "mvp4d.json").read_bytes())
        for file in sorted(self.folder.rglob("*.safetensors")):
            digest.update(f"{file.relative_to(self.folder)} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
        portrait = self.portrait
        _update(digest, *portrait.photos, np.asarray(portrait.reference))
        _update(digest, *(getattr(portrait.camera, name) for name in FIELDS))
        _update(digest, *(getattr(portrait.head, name) for name in ("template", "expression_basis", "skin_weights")))
        for motion in (portrait.motion, self.motion):
            _update(digest, *(getattr(motion, name) for name in ARRAYS))
        _update(digest, *(getattr(self.cameras, name) for name in FIELDS))
        if isinstance(self.clean, PhotoViews):
            digest.update(b"photos")  # they are in it already
        elif self.clean is not None:
            _update(digest, *(getattr(self.clean.cameras(), name) for name in FIELDS))
            for window in self.plan.windows:
                _update(digest, self.clean.frames(window))
        return digest.hexdigest()


def plan_job(
    folder: Path,
    facts: Facts,
    portrait: Portrait,
    *,
    motion: Motion | Capture | str | os.PathLike,
    cameras: Camera | Capture | str | os.PathLike,
    views: Capture | str | os.PathLike | None = None,
    settings: Settings | None = None,
    dtype: str | None = None,
    mesh: tuple[int, int, int] = (1, 1, 1),
) -> Job:
    """Checks every input against each other and against the weights, and plans the run.

    Args:
      folder, facts: of the release.
      dtype: what is computed in; None: the release's own.
      mesh: devices along data, fsdp and context.
      motion, cameras, views: driving motion, views to make, existing clean views (`sampling.inputs`).

    Raises:
      UserError: the first thing that is missing, damaged or does not fit.
    """
    settings = _complete(settings or Settings(), facts)
    finishing = _finishing(settings)
    check_portrait(portrait, facts)
    head, size = portrait.head, (facts.image_size, facts.image_size)
    motion, notice = pick_motion(motion, head, settings.frames)
    cameras, names, vertices = pick_cameras(cameras, head, motion, size)
    check_cameras(cameras, names, vertices, size)
    clean = photo_views(portrait, facts) if views == PHOTOS else clean_views(views, size, head)
    plan = make_plan(
        views=len(names),
        frames=motion.frame_count,
        latent_size=facts.latent_size,
        trained_views=facts.views,
        window_frames=facts.frames if settings.window is None else settings.window,
        clean_views=len(clean.views) if clean else 0,
        overlap_latents=settings.overlap,
        group_size=settings.group,
        anchors=settings.anchors,
        routing=settings.routing,
        steps=settings.steps,
        guidance_scale=settings.guidance,
        seed=settings.seed,
        stride=facts.conditioning.temporal_stride,
    )
    return Job(
        folder,
        portrait,
        motion,
        cameras,
        tuple(names),
        clean,
        plan,
        _denoising(settings, facts, plan),
        dtype or facts.dtype,
        notice,
        mesh,
        finishing,
    )


def _complete(settings: Settings, facts: Facts) -> Settings:
    """The settings with the release's own where none is named.

    Raises:
      UserError: a setting that distilled weights cannot take.
    """
    own = facts.sampler
    named = {
        "sampler": own.method,
        "steps": own.steps,
        "guidance": own.guidance,
        "anchors": own.anchors,
        "photo_detail": own.photo_detail,
        "temporal_filter": own.temporal_filter,
        "hair_colour": own.hair_colour,
    }
    missing = {name: value for name, value in named.items() if getattr(settings, name) is None}
    settings = dataclasses.replace(settings, **missing)
    if own.distilled:
        if settings.guidance != 1:
            raise UserError(
                "`guidance`",
                f"is {settings.guidance:g}, but these weights are distilled: guidance is folded into them",
                "leave it out",
            )
        if settings.steps < 1 or own.steps % settings.steps:
            raise UserError(
                "`steps`",
                f"is {settings.steps}, but these weights are distilled to {own.steps}",
                "leave it out, or give a number that divides it",
            )
        if settings.sampler != own.method or settings.eta:
            raise UserError(
                "`sampler` and `eta`",
                f"are {settings.sampler} and {settings.eta:g}, but these weights "
                f"are distilled for {own.method} without noise",
                "leave them out",
            )
    return settings


def _finishing(settings: Settings) -> Finishing:
    """What is done to the views; refuses what is out of range."""
    if settings.enlarge not in range(1, MOST_ENLARGED + 1):
        raise UserError("`enlarge`", f"is {settings.enlarge}", f"give a whole number, 1 to {MOST_ENLARGED}")
    for name in ("photo_detail", "temporal_filter", "hair_colour"):
        if getattr(settings, name) not in (True, False):
            raise UserError(
                f"`{name}`", f"is {getattr(settings, name)}", "give True, False, or None for the weights' own"
            )
    return Finishing(
        photo_detail=bool(settings.photo_detail),
        temporal_filter=bool(settings.temporal_filter),
        hair_colour=bool(settings.hair_colour),
        enlarge=int(settings.enlarge),
    )


def _denoising(settings: Settings, facts: Facts, plan: SamplingPlan) -> DenoiseOptions:
    """How the plan's windows are denoised.

    Raises:
      UserError: a sampler or guidance that there is not.
    """
    options = DenoiseOptions(
        settings.sampler, settings.eta, facts.snr_shift, tuple(settings.guidance_interval), settings.guidance_rescale
    )
    try:
        options.sampler(plan), options.guidance(plan)
    except ValueError as error:
        raise UserError("sampler settings", str(error)) from None
    return options


def _update(digest: Any, *arrays: Any) -> None:
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(array.tobytes())
