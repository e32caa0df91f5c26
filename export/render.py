"""Renders an avatar: any motion, any cameras."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, atomic_folder
from mvp4d.core.heads.motion import Motion
from mvp4d.core.images import check_rendered_size
from mvp4d.core.outputs import check_file, check_folder
from mvp4d.core.progress import progress
from mvp4d.core.room import require_space
from mvp4d.core.sound import add_sound, read_sound
from mvp4d.core.video import VideoWriter
from mvp4d_export.avatar import Avatar
from mvp4d_export.cameras import CameraPath, camera_matrices, camera_path
from mvp4d_export.device import guard_memory
from mvp4d_export.rig import Pose

KIND = "folder of frames"


@dataclasses.dataclass(frozen=True)
class RenderPlan:
    """What to render, frame by frame: (frame of the motion, index of the camera)."""

    pose: Pose
    cameras: CameraPath
    pairs: list[tuple[int, int]]
    image_size: tuple[int, int]
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)


def plan_frames(
    pose: Pose,
    cameras: CameraPath,
    image_size: tuple[int, int],
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> RenderPlan:
    """One video: a moving camera follows the motion; still ones are walked through while the motion loops."""
    frames, views = len(pose.expression), len(cameras.viewmats)
    pairs = (
        [(frame, frame) for frame in range(frames)]
        if cameras.moving
        else [(view % frames, view) for view in range(views)]
    )
    return RenderPlan(pose, cameras, pairs, image_size, background)


def every_view(plan: RenderPlan) -> list[RenderPlan]:
    """One video per still camera, each with the whole motion. Raises UserError for a camera that moves."""
    if plan.cameras.moving:
        raise UserError("`each_view`", "the camera moves", "use orbit: or arc:")
    frames = len(plan.pose.expression)
    return [
        dataclasses.replace(plan, pairs=[(frame, view) for frame in range(frames)])
        for view in range(len(plan.cameras.viewmats))
    ]


def plan_rendering(
    avatar: Avatar,
    motion: Motion,
    cameras: str | Camera,
    image_size: tuple[int, int],
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> RenderPlan:
    """A motion through a rig's spec, or through Camera [N], one for each frame.

    Raises:
      UserError: a size, a background or cameras that cannot be rendered.
    """
    check_rendered_size(image_size)
    if not all(0 <= value <= 1 for value in background):
        raise UserError("`background`", f"is {tuple(background)}", "use three numbers from 0 to 1")
    pose = Pose.of(motion, avatar.device)
    if isinstance(cameras, Camera):
        if cameras.batch_shape != (motion.frame_count,):
            raise UserError("`cameras`", f"are {list(cameras.batch_shape)}, expected {[motion.frame_count]}")
        path = CameraPath(*camera_matrices(cameras), True)
    else:
        path = camera_path(cameras, image_size, motion.frame_count)
    return plan_frames(pose, path, image_size, background)


def write_rendering(
    avatar: Avatar,
    plan: RenderPlan,
    path: Path,
    fps: float,
    *,
    alpha: bool = False,
    overwrite: bool = False,
    audio: Path | None = None,
    audio_start: float = 0.0,
) -> None:
    """Renders into NAME.mp4, or into a folder of PNG frames where the name has no suffix.

    Args:
      audio: sound file to lay under the video, from `audio_start` seconds on.

    Raises:
      UserError: another suffix, alpha in a video, a folder in the way, no sound in `audio`.
    """
    check_target(path, alpha, overwrite)
    if audio is not None:
        if not path.suffix:
            raise UserError("`audio`", "a folder of pictures holds no sound", "give NAME.mp4 as `out`")
        read_sound(audio)  # before the pictures are rendered
    require_space(path, _estimate(plan, path), f"{len(plan.pairs)} frames")
    with guard_memory("a smaller `size`"):
        if path.suffix:
            write_video(avatar, plan, path, fps, audio, audio_start)
        else:
            write_frames(avatar, plan, path, alpha=alpha, overwrite=overwrite)


def check_target(path: Path, alpha: bool, overwrite: bool) -> None:
    """Refuses a name that nothing can be rendered into, and what is in the way."""
    video = path.suffix.lower() == ".mp4"
    if alpha and video:
        raise UserError("`alpha`", "mp4 holds no alpha", "give a folder as `out`")
    if path.suffix and not video:
        raise UserError("`out`", f"'{path.suffix}' is no format that is written", "use NAME.mp4 or a folder")
    if video:
        check_file(path, overwrite)
    else:
        check_folder(path, KIND, overwrite)


def _estimate(plan: RenderPlan, path: Path) -> float:
    """Bytes: about a third of a PNG's pixels, a thirtieth of a video's."""
    return len(plan.pairs) * math.prod(plan.image_size) * 3 / (30 if path.suffix else 3)


@torch.no_grad()
def render_frames(avatar: Avatar, plan: RenderPlan) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields rgb [H, W, 3] and alpha [H, W] in [0, 1], on the avatar's device. Deterministic."""
    device = avatar.device
    viewmats, Ks = (torch.from_numpy(array).to(device) for array in (plan.cameras.viewmats, plan.cameras.Ks))
    background = torch.tensor(plan.background, device=device)
    height, width = plan.image_size
    splats, last = None, None
    for frame, view in plan.pairs:
        pose = plan.pose[frame : frame + 1]
        if frame != last:
            splats, last = avatar.splats(avatar.vertices(pose)), frame
        rendering = avatar.render(
            splats, pose, viewmats[view : view + 1], Ks[view : view + 1], width, height, background
        )
        yield rendering.rgb[0].clamp(0, 1), rendering.alpha[0].clamp(0, 1)


def to_bytes(picture: Tensor) -> np.ndarray:
    """[0, 1] to uint8 on the host."""
    return (picture * 255).round().byte().cpu().numpy()


def write_video(
    avatar: Avatar, plan: RenderPlan, path: Path, fps: float, audio: Path | None = None, audio_start: float = 0.0
) -> None:
    """Renders into one mp4, which appears when it is whole."""
    with atomic_file(path) as temporary:
        height, width = (side - side % 2 for side in plan.image_size)  # 4:2:0 chroma wants even sides
        with VideoWriter(temporary, (height, width), fps) as writer:
            for rgb, _ in progress(
                render_frames(avatar, plan), total=len(plan.pairs), what=f"rendering {path.name}", unit="frame"
            ):
                writer.add(to_bytes(rgb[:height, :width]))
        if audio is not None:
            add_sound(temporary, audio, audio_start)


def write_frames(avatar: Avatar, plan: RenderPlan, folder: Path, *, alpha: bool, overwrite: bool) -> None:
    """Renders into numbered PNG files: RGB on the background, or RGBA with straight alpha."""
    with atomic_folder(folder, overwrite=overwrite, kind=KIND) as target:
        frames = render_frames(avatar, dataclasses.replace(plan, background=(0.0, 0.0, 0.0)) if alpha else plan)
        for index, (rgb, opacity) in enumerate(
            progress(frames, total=len(plan.pairs), what=f"rendering {folder.name}", unit="frame")
        ):
            if alpha:
                straight = (rgb / opacity[..., None].clamp(min=1e-4)).clamp(0, 1)
                rgb = torch.cat((straight, opacity[..., None]), -1)
            Image.fromarray(to_bytes(rgb)).save(target / f"{index:05d}.png", compress_level=4)
