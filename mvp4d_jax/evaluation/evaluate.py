"""A capture measured against another: per view, by angle from the reference, over time, across views."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mvp4d.core.cameras.camera import axis_in_head
from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.progress import progress
from mvp4d_jax.evaluation.baselines import project_reference, repeat_reference
from mvp4d_jax.evaluation.likeness import csim_of_views
from mvp4d_jax.evaluation.lpips import load_weights, lpips
from mvp4d_jax.evaluation.metrics import SSIM_RADIUS, flicker, psnr, ssim
from mvp4d_jax.evaluation.reprojection import consistency

ANGLE_EDGES = (0, 30, 60, 90, 120, 150, 180)
LEFT_OUT = {
    "CSIM": "was not asked for (`likeness`); dlib's face descriptors are fetched for it",
    "JOD": "was not asked for (`jod`); FovVideoVDP is fetched for it",
    "RE@LG": "needs DISK and LightGlue weights; reprojection with SIFT matches stands in its place, not comparable",
}
Jod = Callable[[Sequence[np.ndarray], Sequence[np.ndarray], float], list[float]]
FACE_ANGLE = 100  # degrees from the reference up to which a view is looked at for a face


@dataclasses.dataclass(frozen=True)
class ViewScore:
    """Means over the frames of one view; `angle` in degrees from the reference camera's axis, NaN without one."""

    name: str
    angle: float
    psnr: float
    ssim: float
    lpips: float | None
    flicker: float
    csim: float | None = None
    jod: float | None = None


def evaluate(
    capture: Capture,
    truth: Capture,
    *,
    lpips_weights: str | os.PathLike | None = None,
    consistency_frames: int = 3,
    baselines: bool = False,
    likeness: bool = False,
    jod: Jod | None = None,
) -> dict[str, Any]:
    """Scores `capture` against `truth` on the cameras (by name) and frames both have.

    Args:
      lpips_weights: safetensors file with VGG-16 features and LPIPS layers.
      consistency_frames: how many frames the reprojection error is measured on.
      baselines: also score what any model must beat, made from the truth's reference image: "repeat" shows it
        everywhere, "project" paints it onto the truth's own rig (`evaluation.baselines`).
      likeness: CSIM of a few frames of each view with the truth's, where faces are seen.
      jod: what measures JOD: (ours, theirs: a video [F, H, W, 3] uint8 of each view; fps) -> a value of each.

    Returns:
      A JSON-able dict: "views" (list of ViewScore), "mean", "by_angle", "consistency", "left_out", and with
      `baselines` "baselines": {name: {"mean", "by_angle"}}.

    Raises:
      UserError: no common camera, picture sizes differ or are too small for SSIM, or baselines of a truth that names no
        reference.
    """
    names = _common_views(capture, truth)
    frames = min(capture.frame_count, truth.frame_count)
    weights = None if lpips_weights is None else load_weights(lpips_weights)
    angles = reference_angles(capture, truth)

    def score(name: str, ours: np.ndarray) -> ViewScore:
        return score_view(name, angles[name], ours, _frames(truth, name, frames), weights)

    views = [
        score(name, _frames(capture, name, frames)) for name in progress(names, what="measuring views", unit="view")
    ]
    left_out = dict(LEFT_OUT)
    if likeness:
        left_out.pop("CSIM")
        views = _with_csim(views, capture, truth, frames)
    if jod is not None:
        left_out.pop("JOD")
        views = _with_jod(views, capture, truth, frames, jod)
    if weights is None:
        left_out["LPIPS"] = "needs VGG-16 and lpips weights; give them as `lpips`"
    result = {
        "capture": str(capture.path),
        "against": str(truth.path),
        "frames": frames,
        "views": [dataclasses.asdict(view) for view in views],
        "mean": mean(views),
        "by_angle": by_angle(views),
        "consistency": _consistency(capture, truth, names, frames, consistency_frames),
        "left_out": left_out,
    }
    if baselines:
        made = {
            label: [score(name, picture) for name, picture in zip(names, pictures)]
            for label, pictures in baseline_pictures(truth, names, frames).items()
        }
        result["baselines"] = {label: {"mean": mean(each), "by_angle": by_angle(each)} for label, each in made.items()}
    return result


def _common_views(capture: Capture, truth: Capture) -> list[str]:
    """Names of the cameras that both have; refuses captures that cannot be compared."""
    names = [name for name in capture.names if name in truth.names]
    if not names:
        raise UserError(
            capture.path,
            f"shares no camera name with {truth.path}",
            f"it has {', '.join(capture.names[:4])}; the other {', '.join(truth.names[:4])}",
        )
    if tuple(capture.image_size) != tuple(truth.image_size):
        raise UserError(
            capture.path,
            f"pictures are {capture.image_size}, those of {truth.path} {truth.image_size}",
            "sample or render both at one size",
        )
    if min(truth.image_size) <= 2 * SSIM_RADIUS:
        raise UserError(truth.path, f"pictures of {truth.image_size} are smaller than SSIM's window of 11 pixels")
    return names


def _with_csim(views: list[ViewScore], capture: Capture, truth: Capture, frames: int) -> list[ViewScore]:
    seen = [view for view in views if not view.angle > FACE_ANGLE]
    pairs = _pairs(seen, capture, truth, frames)
    values = dict(zip((view.name for view in seen), csim_of_views(*pairs))) if seen else {}
    return [dataclasses.replace(view, csim=values.get(view.name, float("nan"))) for view in views]


def _with_jod(views: list[ViewScore], capture: Capture, truth: Capture, frames: int, jod: Jod) -> list[ViewScore]:
    values = jod(*_pairs(views, capture, truth, frames), truth.fps)
    return [dataclasses.replace(view, jod=value) for view, value in zip(views, values)]


def _pairs(views: list[ViewScore], capture: Capture, truth: Capture, frames: int) -> list[list[np.ndarray]]:
    """Of both captures a video [F, H, W, 3] uint8 of each view."""
    return [[source.frames(view.name, slice(frames)) for view in views] for source in (capture, truth)]


def score_view(name: str, angle: float, ours: np.ndarray, theirs: np.ndarray, weights: Any = None) -> ViewScore:
    """Scores the frames [F, H, W, 3] in [0, 1] of one view; `weights` of LPIPS, or None."""
    distance = (
        None
        if weights is None
        else float(np.mean([lpips(weights, ours[i][None], theirs[i][None])[0] for i in range(len(ours))]))
    )
    # A pixel-equal frame has infinite PSNR; 100 dB keeps the mean finite.
    return ViewScore(
        name,
        angle,
        float(np.minimum(psnr(ours, theirs), 100).mean()),
        float(ssim(ours, theirs).mean()),
        distance,
        flicker(ours, theirs),
    )


def baseline_pictures(truth: Capture, names: list[str], frames: int) -> dict[str, np.ndarray]:
    """What any model must beat, [V, F, H, W, 3] in [0, 1] by name of the baseline, from the truth's reference image.

    Raises:
      UserError: the truth names no reference.
    """
    if truth.reference is None:
        raise UserError(
            truth.path / "capture.json",
            "field 'reference' is null: baselines are made from it",
            'set it to {"camera": NAME, "frame": N}',
        )
    name, frame = truth.reference
    image = truth.frame(name, frame).astype(np.float32) / 255
    order = [truth.names.index(name) for name in names]
    cameras = jax.tree.map(lambda array: np.asarray(array)[order][:, :frames], truth.cameras)
    painted = project_reference(
        image,
        truth.camera(name, frame),
        truth.motion[slice(frame, frame + 1)],
        truth.head,
        truth.motion[slice(0, frames)],
        cameras,
    )
    return {"repeat": repeat_reference(image, len(names), frames), "project": painted}


def reference_angles(capture: Capture, truth: Capture) -> dict[str, float]:
    """Degrees between each camera's optical axis and the reference's, both in head axes at the first frame.

    Head axes, because the head may have turned since the reference was taken; NaN where there is no reference.
    """
    axis = next((found for found in (reference_axis(capture), reference_axis(truth)) if found is not None), None)
    if axis is None:
        return dict.fromkeys(capture.names, float("nan"))
    cosines = [np.clip(_axis(capture, name, 0) @ axis, -1, 1) for name in capture.names]
    return {name: float(np.degrees(np.arccos(cosine))) for name, cosine in zip(capture.names, cosines)}


def reference_axis(capture: Capture) -> np.ndarray | None:
    """Unit optical axis [3] of the reference camera in head axes: of a sampled capture's photo, or of the camera and
    frame that the capture names."""
    if "reference_axis" in capture.info.extra:
        return np.asarray(capture.info.extra["reference_axis"], np.float64)
    return None if capture.reference is None else _axis(capture, *capture.reference)


def _axis(capture: Capture, name: str, frame: int) -> np.ndarray:
    return axis_in_head(capture.camera(name, frame), capture.motion.rotation[frame])


def by_angle(views: list[ViewScore]) -> list[dict[str, Any]]:
    """Means over rings of 30 degrees around the reference view."""
    rings = []
    for low, high in itertools.pairwise(ANGLE_EDGES):
        inside = [view for view in views if low <= view.angle < high or (high == 180 and view.angle == 180)]
        if inside:
            rings.append({"from": low, "to": high, "views": len(inside), **mean(inside)})
    return rings


def mean(views: list[ViewScore]) -> dict[str, float]:
    """Mean measures of some views."""
    result = {key: float(np.mean([getattr(view, key) for view in views])) for key in ("psnr", "ssim", "flicker")}
    for key in ("lpips", "csim", "jod"):
        values = [value for value in (getattr(view, key) for view in views) if value is not None]
        if values:  # CSIM is NaN where no face is seen
            finite = [value for value in values if np.isfinite(value)]
            result[key] = float(np.mean(finite)) if finite else float("nan")
    return result


def _frames(capture: Capture, name: str, frames: int) -> np.ndarray:
    return capture.frames(capture.names.index(name), slice(frames)).astype(np.float32) / 255


def _consistency(capture: Capture, truth: Capture, names: list[str], frames: int, count: int) -> dict[str, Any]:
    """Reprojection error over a few frames spread in time, for the capture and for the truth."""
    chosen = sorted(set(np.linspace(0, frames - 1, min(count, frames)).round().astype(int).tolist()))
    result = {}
    for label, source in (("capture", capture), ("truth", truth)):
        order = [source.names.index(name) for name in names]
        cameras = source.cameras
        picked = type(cameras)(**{key: np.asarray(value)[order] for key, value in vars(cameras).items()})
        scores = [
            consistency(np.stack([source.frame(view, frame) for view in order]) / 255.0, picked, frame)
            for frame in chosen
        ]
        matches = sum(score.matches for score in scores)
        error = sum(score.error * score.matches for score in scores if score.matches) / matches if matches else None
        result[label] = {"error_px": error, "matches": matches}
    return result
