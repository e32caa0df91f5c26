"""What is denoised together, and in which order: views in groups, frames in windows. A plan is data.

Time: a video of F frames is cut into windows of `window_frames` (1 + s (L - 1), s frames a latent frame). A later
window starts with a clean prefix, the last `1 + s (overlap_latents - 1)` frames of the one before, encoded apart and
passed through unchanged.
Views: when there are more than `group_size`, every denoising step deals them into groups anew (stochastic or circular
routing, after CAP4D's regrouping); a few anchor views sit in every group.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.words import counted
from mvp4d_jax.latent_frames import fill, frame_count, latent_count

ROUTINGS = ("random", "circular")


@dataclasses.dataclass(frozen=True)
class Window:
    """Frames [start, stop) of the video; the first `clean_latents` latent frames come from the window before.

    `stride` is the number of frames per latent frame after the first.
    """

    start: int
    stop: int
    clean_latents: int
    stride: int

    @property
    def frames(self) -> int:
        return self.stop - self.start

    @property
    def latents(self) -> int:
        return latent_count(self.frames, self.stride)

    @property
    def clean_frames(self) -> int:
        return frame_count(self.clean_latents, self.stride)


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """Everything that decides what a sampling run computes.

    Attributes:
      views: V, views to make; clean views given by the user are not counted.
      frames: F, frames to make.
      clean_views: already existing views that take part as clean reference views.
      windows: the time windows, in order.
      group_size: noisy views denoised together in one sequence.
      anchors: the first `anchors` noisy views sit in every group.
      routing: how the other views are dealt into groups at every step: "random" or "circular".
      steps, guidance_scale: of the sampler.
      latent_size: (h, w).
      seed: of all noise and routing.
    """

    views: int
    frames: int
    clean_views: int
    windows: tuple[Window, ...]
    group_size: int
    anchors: int
    routing: str
    steps: int
    guidance_scale: float
    latent_size: tuple[int, int]
    seed: int

    @property
    def joint(self) -> bool:
        """Whether all views are denoised in one sequence."""
        return self.group_size >= self.views

    @property
    def groups(self) -> int:
        """Sequences a denoising step runs through."""
        if self.joint:
            return 1
        return -(-(self.views - self.anchors) // (self.group_size - self.anchors))

    def tokens(self, patch: int) -> int:
        """Tokens of the longest sequence: the reference latent and the group's latent frames."""
        h, w = self.latent_size
        latents = max(window.latents for window in self.windows)
        sequence_views = min(self.group_size, self.views) + self.clean_views
        return (1 + sequence_views * latents) * (h // patch) * (w // patch)

    def forwards(self) -> int:
        """Transformer forward passes over all windows, guidance included."""
        return len(self.windows) * self.steps * self.groups * (1 if self.guidance_scale == 1 else 2)

    def fingerprint(self) -> str:
        """A short hash: work kept from an interrupted run belongs to this plan only."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def make_plan(
    *,
    views: int,
    frames: int,
    latent_size: tuple[int, int],
    trained_views: int,
    window_frames: int,
    clean_views: int = 0,
    overlap_latents: int = 1,
    group_size: int | None = None,
    anchors: int = 1,
    routing: str = "random",
    steps: int = 50,
    guidance_scale: float = 2.0,
    seed: int = 0,
    stride: int = 4,
) -> SamplingPlan:
    """Cuts V views x F frames into windows and groups.

    Args:
      views, frames: what to make; F is rounded up to fill the last window (the sampler drops the surplus).
      trained_views: noisy views the weights were trained with; the default group size.
      window_frames: frames per window, 1 + k `stride`.
      overlap_latents: clean latent frames that tie a window to the one before, >= 1.
      stride: video frames per latent frame after the first.

    Raises:
      UserError: a number that cannot be planned, naming the flag.
    """
    given = {"window": window_frames, "overlap": overlap_latents, "group": group_size, "steps": steps}
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"`{name}`", f"is {value}", "it is a whole number from 1 on")
    for name, value in (("anchors", anchors), ("seed", seed)):
        if not isinstance(value, int) or value < 0:
            raise UserError(f"`{name}`", f"is {value}", "it is a whole number from 0 on")
    if not isinstance(guidance_scale, int | float) or not 0 <= guidance_scale < 1000:
        raise UserError("`guidance`", f"is {guidance_scale}", "it is a number from 0 on; 1 is off")
    if views < 1 or frames < 1:
        raise UserError("`cameras` and `frames`", f"{views} views x {frames} frames leave nothing to make")
    if (window_frames - 1) % stride:
        raise UserError(
            "`window`",
            f"{window_frames} frames is not 1 + {stride}k",
            f"give {', '.join(str(1 + stride * k) for k in range(4))} ...",
        )
    if routing not in ROUTINGS:
        raise UserError("`routing`", f"unknown routing '{routing}'", f"choose from {', '.join(ROUTINGS)}")
    if steps > 1000:
        raise UserError("`steps`", f"{steps} is not between 1 and 1000")
    size = min(views, group_size or trained_views)
    if size < views and not 0 <= anchors < size:
        raise UserError("`anchors`", f"{anchors} anchor views leave no place in groups of {size}", "give fewer anchors")
    return SamplingPlan(
        views,
        frames,
        clean_views,
        cut_windows(frames, window_frames, overlap_latents, stride),
        size,
        anchors if size < views else 0,
        routing,
        steps,
        guidance_scale,
        latent_size,
        seed,
    )


def cut_windows(frames: int, window_frames: int, overlap_latents: int, stride: int = 4) -> tuple[Window, ...]:
    """Windows that cover `frames`; all have the same length, so that one compilation serves them all."""
    if frames <= window_frames:
        needed = fill(frames, stride)
        return (Window(0, min(needed, window_frames), 0, stride),)
    overlap = frame_count(overlap_latents, stride)
    if overlap_latents < 1 or overlap >= window_frames:
        raise UserError(
            "`overlap`",
            f"{overlap_latents} latent frames do not fit a window of {window_frames} frames",
            f"give 1 to {latent_count(window_frames, stride) - 1}",
        )
    windows = [Window(0, window_frames, 0, stride)]
    while windows[-1].stop < frames:
        start = windows[-1].stop - overlap
        windows.append(Window(start, start + window_frames, overlap_latents, stride))
    return tuple(windows)


def deal_groups(plan: SamplingPlan, step: int) -> np.ndarray:
    """Which views share a sequence at a denoising step: int [groups, group_size], every view at least once.

    Random routing shuffles with the seed folded with the step; circular routing rotates the ring of views by one place
    a step. When the views do not fill the last group, it is topped up with views that also sit in another group.
    """
    if plan.joint:
        return np.arange(plan.views)[None]
    anchors = np.arange(plan.anchors)
    others = np.arange(plan.anchors, plan.views)
    if plan.routing == "random":
        others = np.random.default_rng((plan.seed, step)).permutation(others)
    else:
        others = np.roll(others, -step)
    room = plan.group_size - plan.anchors
    others = np.resize(others, plan.groups * room)  # wraps around: the surplus repeats the first views
    return np.concatenate([np.broadcast_to(anchors, (plan.groups, plan.anchors)), others.reshape(plan.groups, room)], 1)


def describe(
    plan: SamplingPlan,
    *,
    patch: int,
    flops_per_forward: float,
    dtype: str,
) -> str:
    """A plan and its cost in lines a person reads.

    Args:
      flops_per_forward: of one sequence of `plan.tokens(patch)` tokens.
      dtype: what is computed in.
    """
    total = plan.forwards() * flops_per_forward
    windows = ", ".join(f"{window.start}-{min(window.stop, plan.frames) - 1}" for window in plan.windows)
    grouping = (
        "jointly"
        if plan.joint
        else (
            f"in {plan.groups} groups of {plan.group_size}, {counted(plan.anchors, 'anchor')}, {plan.routing} routing"
        )
    )
    lines = [
        f"views     {plan.views} {grouping}" + (f", beside {plan.clean_views} clean views" if plan.clean_views else ""),
        f"frames    {plan.frames} in {counted(len(plan.windows), 'window')}: {windows}",
        f"tokens    {plan.tokens(patch):,} in the longest sequence",
        f"work      {plan.forwards():,} forward passes, {total / 1e12:,.2f} TFLOP in {dtype}",
    ]
    return "\n".join(lines)
