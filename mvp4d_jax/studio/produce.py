"""Captures from the studio: one person, or a training set of many."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.cameras.rigs import camera_rig, rig_names
from mvp4d.core.capture import CaptureWriter
from mvp4d.core.capture.fit import Fit
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.resample import resample
from mvp4d.core.lock import Busy
from mvp4d.core.outputs import check_file, check_folder
from mvp4d.core.places import without_folders
from mvp4d.core.progress import progress, say
from mvp4d.core.room import require_space
from mvp4d_jax.studio.motions import KINDS, at_rest_at_ends
from mvp4d_jax.studio.studio import Studio, builtin_head
from mvp4d_jax.studio.traits import random_for, split_of

FPS = 25.0  # of motions that the studio makes itself


@dataclasses.dataclass(frozen=True)
class Order:
    """What to render of every identity.

    Attributes:
      cameras: a rig spec (`mvp4d.core.cameras.rigs`), or "random:N": N cameras all around the head, drawn by
        identity, the first in front.
      frames, size: of every view; motion: one of `motions.KINDS` or the path of a motion (`mvp4d.core.driving`).
      fps: frames per second, which a recorded motion is resampled to; None: a recorded motion's own, else 25.
      seed: light and performance; the person is the identity's.
      own_motion: 0 films faces that move as the capture's rig does, 1 faces that move as people do (`own_motion`).
    """

    cameras: str = "orbit:360x8"
    frames: int = 13
    size: int = 128
    fps: float | None = None
    motion: str = "mixed"
    seed: int = 0
    own_motion: float = 0.0

    def check(self) -> None:
        """Raises a UserError for what can be known to be wrong before anything is rendered."""
        if not 1 <= self.frames <= 100_000:
            raise UserError("`frames`", f"is {self.frames}", "use 1 to 100,000")
        if not 8 <= self.size <= 2048:
            raise UserError("`size`", f"is {self.size} pixels", "use 8 to 2048")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise UserError("`fps`", f"is {self.fps:g}", "use 1 to 240")
        if not 0 <= self.own_motion <= 2:
            raise UserError("`own_motion`", f"is {self.own_motion:g}", "use 0 (as the rig moves) to 2; 1 is a person's")
        if self.motion not in KINDS and not Path(self.motion).is_file():
            raise UserError(
                "`motion`",
                f"'{self.motion}' is neither a kind of motion nor a file",
                f"one of {', '.join(KINDS)}, or a fit.npz",
            )
        make_cameras(self, 0)


def make_cameras(order: Order, identity: int) -> Camera:
    """Cameras [V] or [V, F] of an order for one identity."""
    size = (order.size, order.size)
    random = re.fullmatch(r"random:(\d+)", order.cameras)
    if random is None:
        return camera_rig(order.cameras, size, order.frames)
    count = int(random[1])
    if not 1 <= count <= 1000:
        raise UserError("`cameras`", f"'{order.cameras}' has {count} cameras", "1 to 1000")
    rng = random_for(identity, "cameras", order.seed)
    rigs = [camera_rig("orbit:360x1", size)]
    for _ in range(count - 1):
        azimuth, elevation = rng.uniform(-180, 180), rng.uniform(-20, 30)
        # A still rig looks along one azimuth only: the last camera of an arc twice as wide does.
        rig = camera_rig(f"arc:{2 * azimuth:.3f}x2@{elevation:.3f}", size)
        rigs.append(Camera(rig.world_to_camera[1:], rig.fx[1:], rig.fy[1:], rig.cx[1:], rig.cy[1:]))
    return _join(rigs)


def _join(rigs: list[Camera]) -> Camera:
    return Camera(*(np.concatenate([getattr(rig, field.name) for rig in rigs]) for field in dataclasses.fields(Camera)))


def make_capture(
    path: str | os.PathLike, identity: int, order: Order | None = None, *, overwrite: bool = False, quiet: bool = False
) -> Path:
    """Renders one capture.

    Args:
      path: folder to make.
      identity: the person's number.
      overwrite: replace a capture that is there.

    Raises:
      UserError: the order cannot be rendered, or the folder is in the way.
    """
    order = order or Order()
    order.check()
    split_of(identity)
    check_folder(path, "capture", overwrite)
    studio = Studio(identity, order.seed, order.own_motion)
    motion = _motion(studio, order)
    cameras = make_cameras(order, identity)
    if cameras.fx.ndim == 1:
        cameras = cameras[:, None]
    views = cameras.fx.shape[0]
    require_space(path, views * motion.frame_count * order.size**2, "filming")  # a byte a pixel, picture and mask
    traits = studio.traits
    writer = CaptureWriter(
        path,
        head=studio.head,
        motion=motion,
        cameras=cameras,
        names=rig_names(views),
        image_size=(order.size, order.size),
        masks=True,
        reference=(rig_names(views)[0], 0),
        source="mvp4d studio",
        extra={
            "identity": identity,
            "split": split_of(identity),
            "seed": order.seed,
            "style": traits.style,
            "cameras": without_folders(order.cameras),
            "motion": without_folders(order.motion),
            **({"own_motion": order.own_motion} if order.own_motion else {}),
        },
        overwrite=overwrite,
    )
    with writer:
        bar = None if quiet else progress(total=views * motion.frame_count, what=f"identity {identity}", unit="frame")
        for view, frame, rgb, alpha in studio.stream(motion, cameras, order.size):
            writer.add(view, frame, rgb, alpha)
            if bar is not None:
                bar.update()
        if bar is not None:
            bar.close()
    return Path(path)


def write_motion(
    path: str | os.PathLike,
    identity: int,
    order: Order | None = None,
    *,
    from_rest: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes the performance of a capture alone, without filming it: a `fit.npz` of F frames, with the V cameras.

    Args:
      path: the .npz to make.
      identity: the person's number.
      from_rest: begin and end at rest; of 3 frames or more.
      overwrite: replace a file that is there.

    Raises:
      UserError: the order cannot be rendered, the cameras move, or the file is in the way.
    """
    order, path = order or Order(), Path(path)
    order.check()
    split_of(identity)
    if path.suffix != ".npz":
        raise UserError(path, "is to hold a motion alone", "name it .npz")
    if from_rest and order.frames < 3:
        raise UserError("`frames`", f"{order.frames}, from rest to rest, hold no performance", "3 or more")
    check_file(path, overwrite)
    cameras = make_cameras(order, identity)
    if cameras.fx.ndim != 1:
        raise UserError(
            "`cameras`", f"'{order.cameras}' move, a motion's file has still ones", "for example orbit:360x1"
        )
    studio, views = Studio(identity, order.seed, order.own_motion), len(cameras.fx)
    motion = _motion(studio, order)
    Fit(
        at_rest_at_ends(motion, studio.head.expression_names) if from_rest else motion,
        cameras[:, None],
        np.full((views, 2), order.size),
        rig_names(views),
        head=studio.head.name,
    ).save(path)
    return path


def _motion(studio: Studio, order: Order) -> Motion:
    if order.motion in KINDS:
        return studio.motion(order.frames, order.motion, order.fps or FPS)
    return recorded_motion(order.motion, studio, order.frames, order.fps)


def recorded_motion(path: str, studio: Studio, frames: int, fps: float | None = None) -> Motion:
    """A recorded motion on the studio's head, expressions by name, starting at the middle of the studio.

    Args:
      frames: how many, from the first on.
      fps: frames per second to resample it to; None: its own.

    Raises:
      UserError: no motion, or fewer frames than asked for.
    """
    motion, notice = load_motion(path, studio.head)
    if fps is not None and fps != motion.fps:
        motion = resample(motion, fps)
    if motion.frame_count < frames:
        raise UserError(
            path,
            f"holds {motion.frame_count} frames at {motion.fps:g} a second, {frames} were asked for",
            f"`frames` {motion.frame_count}",
        )
    if notice:
        say(notice)
    motion = motion[:frames]
    return dataclasses.replace(motion, translation=motion.translation - motion.translation[:1])


def make_set(folder: str | os.PathLike, identities: range, order: Order | None = None) -> int:
    """Renders a capture `00042` for every identity that `folder` does not hold yet. Returns how many were rendered.

    Raises:
      UserError: the order cannot be rendered, or a capture that is there was rendered by another one.
    """
    order = order or Order()
    order.check()
    folder = Path(folder)
    missing = []
    for identity in identities:
        told = folder / f"{identity:05d}" / "capture.json"
        _check_order(told, order) if told.is_file() else missing.append(identity)
    made = 0
    if missing:
        builtin_head()
    for identity in progress(missing, what=f"{len(identities) - len(missing)} there, rendering", unit="capture"):
        try:
            make_capture(folder / f"{identity:05d}", identity, order, quiet=True)
            made += 1
        except Busy:
            say(f"identity {identity}: another process films it")
    return made


def _check_order(path: Path, order: Order) -> None:
    """Refuses a capture, by its capture.json, that another order rendered. Raises UserError."""
    info = read_json(path)
    extra = info.get("extra") if isinstance(info, dict) else None
    if not isinstance(info, dict) or not isinstance(extra, dict):
        raise UserError(path, "is no capture's", "move the folder away")
    ordered = {
        "size": ([order.size, order.size], info.get("image_size")),
        "frames": (order.frames, info.get("frame_count")),
        "cameras": (without_folders(order.cameras), extra.get("cameras")),
        "motion": (without_folders(order.motion), extra.get("motion")),
        "seed": (order.seed, extra.get("seed")),
        "own_motion": (order.own_motion, extra.get("own_motion", 0.0)),
        "fps": (order.fps or (FPS if order.motion in KINDS else info.get("fps")), info.get("fps")),
    }
    for name, (now, before) in ordered.items():
        if now != before:
            if name == "size" and isinstance(before, list) and len(set(before)) == 1:
                now, before = order.size, before[0]
            fix = "choose another `out`"
            if isinstance(before, str | int | float):  # what a flag takes; a capture of elsewhere may tell none
                fix = f"give {before}, or {fix}"
            raise UserError(path.parent, f"was filmed with `{name}` {before}, now {now} is given", fix)
