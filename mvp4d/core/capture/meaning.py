"""Whether cameras, motion and rig make sense together: a head in the picture, metres, views that differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import FIELDS, Camera, check_focal
from mvp4d.core.errors import UserError
from mvp4d.core.heads.check import check_span
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion

REACH_METRES = 100.0  # what a head may lie from the origin, and from every camera


def check_meaning(
    cameras: Camera,
    motion: Motion,
    head: HeadModel,
    names: tuple[str, ...],
    image_size: tuple[int, int],
    where: Mapping[str, object],
) -> None:
    """Refuses what has the right shapes and cannot be meant.

    Args:
      cameras: [V, F'], F' = 1 or F; motion: F frames; names: of the V views; image_size: (H, W).
      where: the files of "cameras", "motion" and "head", for the messages.

    Raises:
      UserError: names the file, the camera, the value, and what it should be.
    """
    check_focal(cameras, names, image_size, where["cameras"])
    _check_different(cameras, names, where["cameras"])
    template = np.asarray(head.template, np.float64)
    check_span(template, where["head"])
    check_reach(motion, where["motion"])
    _check_seen(cameras, motion, template, names, image_size, where["cameras"])


def check_reach(motion: Motion, where: object) -> None:
    """Refuses a head that is farther than 100 m from the origin."""
    far = float(np.abs(np.asarray(motion.translation)).max(initial=0))
    if far > REACH_METRES:
        raise UserError(where, f"'translation' reaches {far:.4g} m", "it is in metres: are these millimetres?")


def _check_different(cameras: Camera, names: tuple[str, ...], where: object) -> None:
    views = len(names)
    flat = np.concatenate([np.asarray(getattr(cameras, name), np.float64).reshape(views, -1) for name in FIELDS], 1)
    _, first, group = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    for view in range(views):
        same = int(first[group.reshape(-1)[view]])
        if same != view:
            raise UserError(
                where,
                f"cameras '{names[same]}' and '{names[view]}' are one and the same",
                "each view has a camera of its own: leave one out, or correct it",
            )


def _check_seen(
    cameras: Camera,
    motion: Motion,
    template: np.ndarray,
    names: tuple[str, ...],
    image_size: tuple[int, int],
    where: object,
) -> None:
    """At least one camera has the head in its picture at some time."""
    middle = (template.min(0) + template.max(0)) / 2
    radius = float(np.linalg.norm(template - middle, axis=1).max())
    turns = Rotation.from_rotvec(np.asarray(motion.rotation, np.float64))
    centres = turns.apply(middle) + np.asarray(motion.translation, np.float64)  # [F, 3]
    matrix = np.asarray(cameras.world_to_camera, np.float64)  # [V, F', 4, 4]
    places = (
        np.einsum("vtij,tj->vti" if matrix.shape[1] > 1 else "vsij,tj->vti", matrix[..., :3, :3], centres)
        + matrix[..., :3, 3]
    )  # [V, F, 3]
    depth = places[..., 2]
    ahead = depth > -radius
    near = np.maximum(depth, radius)  # a head about the camera fills its picture
    across, down = (
        np.abs(np.asarray(focal) * places[..., axis] / near + np.asarray(centre) - side / 2)
        - np.asarray(focal) * radius / near
        for focal, axis, centre, side in (
            (cameras.fx, 0, cameras.cx, image_size[1]),
            (cameras.fy, 1, cameras.cy, image_size[0]),
        )
    )
    seen = ahead & (across < image_size[1] / 2) & (down < image_size[0] / 2)
    distance = np.linalg.norm(places, axis=-1)
    if (distance > REACH_METRES).all():
        raise UserError(
            where,
            f"'world_to_camera': the head is {distance.min():.4g} m from the nearest camera",
            "translations are in metres: are these millimetres?",
        )
    if seen.any():
        return
    if not ahead.any():
        raise UserError(
            where,
            "'world_to_camera': the head lies behind every camera",
            "cameras look along +z (OpenCV): are these OpenGL's, which look along -z?",
        )
    view, frame = np.unravel_index(int(np.argmin(np.where(ahead, np.maximum(across, down), np.inf))), seen.shape)
    lens = cameras[view, min(int(frame), matrix.shape[1] - 1)]
    x, y = places[view, frame, :2] / near[view, frame]
    raise UserError(
        where,
        f"no camera has the head in its picture; it comes nearest in '{names[view]}', its middle at "
        f"pixel ({float(lens.fx * x + lens.cx):.4g}, {float(lens.fy * y + lens.cy):.4g}) of "
        f"{image_size[1]} x {image_size[0]}",
        "check the units (metres, pixels), the axes, and cx and cy",
    )
