"""An avatar as the public API has it: rendered, exported, put into a page. See docs/api.md."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvp4d.core.arguments import Pathlike, checked
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.capture.schema import check_fps
from mvp4d.core.driving import check_motion, load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.progress import say
from mvp4d.core.words import counted

if TYPE_CHECKING:
    from mvp4d_export.avatar import Avatar as AvatarModule
    from mvp4d_export.formats import Clip


@checked
def open_avatar(path: Pathlike, *, device: str | None = None) -> Avatar:
    """Opens an avatar folder on "cpu" or "cuda" (CUDA where there is one)."""
    from mvp4d_export.avatar import Avatar as AvatarModule
    from mvp4d_export.device import pick_device

    return Avatar(Path(path), AvatarModule.load(path, pick_device(device)))


@dataclasses.dataclass(frozen=True)
class Avatar:
    """An animatable Gaussian avatar.

    Attributes:
      path: its folder.
      module: the torch module: rig, Gaussians, deformation net.
      report: of the fit that made it, where `distill` did; else empty.
    """

    path: Path
    module: AvatarModule
    report: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Avatar('{self.path}': {self.module.gaussian_count} Gaussians on head '{self.head.name}')"

    @property
    def head(self) -> HeadModel:
        return self.module.head

    @checked
    def motion(self, motion: Motion | Pathlike | None = None) -> Motion:
        """A motion for this avatar: its own where None is given, a file's matched by expression names.

        Raises:
          UserError: a file that holds no motion; a Motion whose expressions are not the head's.
        """
        if isinstance(motion, Motion):
            check_motion(motion, self.head)
            return motion
        found, notice = load_motion(self.path if motion is None else motion, self.head)
        if notice:
            say(f"note: {notice}")
        return found

    @checked
    def render(
        self,
        motion: Motion | Pathlike | None = None,
        *,
        cameras: str | Camera | None = None,
        frames: int | tuple[int, int] | None = None,
        size: int | tuple[int, int] | None = None,
        fps: float | None = None,
        background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Rendering:
        """Plans a rendering: `.save(path)`, `.frames()` or iterate over it.

        Args:
          motion: driving motion; the avatar's own by default.
          cameras: a rig; still ones are walked through while the motion loops, turn:, sway: and file: paths move with
            it. Or Camera [N], one for each frame. By default (`default_cameras`) an orbit, and the front where a motion
            or `frames` are given.
          frames: the first so many of the motion; or (A, B), frames A to B - 1. All by default.
          size: (height, width) or a side in pixels; that of the capture by default.
          fps: the motion's by default.
          background: colour in [0, 1].

        Raises:
          UserError: names the argument that cannot be rendered.
        """
        from mvp4d_export.render import plan_rendering

        chosen = self.motion(motion)
        start, stop = frame_window(frames, chosen.frame_count)
        chosen = chosen[start:stop]
        if cameras is None:
            cameras = default_cameras(motion is not None or frames is not None)
        if size is None:
            size = self.module.image_size
        height_width = (size, size) if isinstance(size, int | np.integer) else (size[0], size[1])
        return Rendering(
            self,
            plan_rendering(self.module, chosen, cameras, height_width, background),
            chosen.fps if fps is None else check_fps(fps, "`fps`", "it"),
        )

    @checked
    def export(
        self,
        out: Pathlike,
        *,
        format: str | None = None,
        motion: Motion | Pathlike | Sequence[Motion | Pathlike] | None = None,
        audio: Pathlike | Sequence[Pathlike | None] = (),
        frame: int | None = None,
        sh: int | None = None,
        raw_axes: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Writes the avatar in another program's format (docs/formats.md lists them).

        Args:
          format: by default told by the name: ".ply" is "ply".
          motion: what is written of, where the format holds a motion; the avatar's own by default ("lam": none).
            "html" takes several.
          audio: "html" only: sound files, the first for the first motion and so on; None for a motion without one.
          frame: for formats of one frame; 0 by default.
          sh: degree of the harmonics that are written, 0 to 3; the avatar's own by default.
          raw_axes: PLY in the world's axes, not turned for viewers.
        """
        written = {"frame": frame, "sh": sh, "raw_axes": raw_axes, "overwrite": overwrite}
        write_format(self, Path(out), format, motion, audio, **written)
        return Path(out)

    @checked
    def page(
        self,
        motion: Motion | Pathlike | Sequence[Motion | Pathlike] | None = None,
        *,
        audio: Pathlike | Sequence[Pathlike | None] = (),
        live: bool = False,
    ) -> str:
        """The page that format "html" writes, as text: `motion` and `audio` as in `export`.

        Args:
          live: for a `mvp4d_export.viewer.Viewer` that is given poses.
        """
        from mvp4d_export.formats.html import page

        clips = self._clips(_listed(motion), audio)
        return page(self.module, clips, title=self.path.absolute().name, live=live)[0]

    def _clips(
        self, given: Sequence[Motion | Pathlike | None], audio: Pathlike | Sequence[Pathlike | None]
    ) -> tuple[Clip, ...]:
        """Motions with their names and sounds; the avatar's own motion for None."""
        from mvp4d_export.formats import Clip

        sounds = [audio] if isinstance(audio, str | os.PathLike) else list(audio)
        if len(sounds) > len(given):
            raise UserError("`audio`", f"{len(sounds)} sounds for {len(given)} motions", "give a motion for each")
        return tuple(
            Clip(_clip_name(item), self.motion(item), None if sound is None else Path(sound))
            for item, sound in itertools.zip_longest(given, sounds)
        )


def write_format(
    avatar: Avatar,
    out: Path,
    format: str | None,
    motion: Motion | Pathlike | Sequence[Motion | Pathlike] | None,
    audio: Pathlike | Sequence[Pathlike | None],
    **written: Any,
) -> str:
    """`Avatar.export`; returns the closing line, which says what is in the file."""
    from mvp4d_export.formats import FORMATS, check_format, export_avatar

    name, given = check_format(format, out), _listed(motion)
    chosen = FORMATS[name]
    if chosen.clips:
        clips = avatar._clips(given, audio)
        return export_avatar(avatar.module, out, name, clips[0].motion, clips=clips, **written)
    if len(given) > 1 or audio:
        raise UserError(
            "`audio`" if audio else "`motion`",
            f"format '{name}' holds one motion, without sound",
            "give one, or use format html",
        )
    found = None if given[0] is None and not chosen.own_motion else avatar.motion(given[0])
    return export_avatar(avatar.module, out, name, found, **written)


def default_cameras(performs: bool) -> str:
    """The rig that films an avatar where none is given: from the front when it is to perform something (a motion, a
    sound, certain frames), else from all around."""
    return "turn:0" if performs else "orbit:360x48"


def frame_window(frames: int | tuple[int, int] | None, count: int) -> tuple[int, int]:
    """(start, stop) of `frames` as `Avatar.render` takes it, in a motion of `count` frames; stop is `count` at most.

    Raises:
      UserError: holds no frame of the motion.
    """
    start, stop = (0, count) if frames is None else (0, frames) if isinstance(frames, int | np.integer) else frames
    stop = min(stop, count)
    if not 0 <= start < stop:
        raise UserError("`frames`", f"holds none of the motion's {count} frames", "give a number, or where from and to")
    return int(start), int(stop)


def _listed(motion: Motion | Pathlike | Sequence[Motion | Pathlike] | None) -> list[Motion | Pathlike | None]:
    if motion is None or isinstance(motion, Motion | str | os.PathLike):
        return [motion]
    return list(motion) or [None]


def _clip_name(motion: Motion | Pathlike | None) -> str:
    return "as filmed" if motion is None else "motion" if isinstance(motion, Motion) else Path(motion).stem


@dataclasses.dataclass(frozen=True)
class Rendering:
    """Frames to be rendered; nothing is, until they are asked for."""

    avatar: Avatar
    plan: Any
    fps: float

    def __repr__(self) -> str:
        height, width = self.size
        frames = counted(len(self), "frame")
        return f"Rendering({frames} of {width} x {height}, {self.fps:g} a second, of {self.avatar!r})"

    def __len__(self) -> int:
        return len(self.plan.pairs)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return self.plan.image_size

    def each_view(self) -> list[Rendering]:
        """The whole motion once for every still camera."""
        from mvp4d_export.render import every_view

        return [dataclasses.replace(self, plan=plan) for plan in every_view(self.plan)]

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3], one at a time."""
        from mvp4d_export.render import render_frames, to_bytes

        for rgb, _ in render_frames(self.avatar.module, self.plan):
            yield to_bytes(rgb)

    def frames(self) -> np.ndarray:
        """uint8 [N, H, W, 3]."""
        return np.stack(list(self))

    @checked
    def save(
        self,
        path: Pathlike,
        *,
        alpha: bool = False,
        overwrite: bool = False,
        audio: Pathlike | None = None,
        audio_start: float = 0.0,
    ) -> Path:
        """Writes NAME.mp4, with a sound file from a second on, or a folder of PNG files, with straight alpha."""
        from mvp4d_export.render import write_rendering

        write_rendering(
            self.avatar.module,
            self.plan,
            Path(path),
            self.fps,
            alpha=alpha,
            overwrite=overwrite,
            audio=None if audio is None else Path(audio),
            audio_start=audio_start,
        )
        return Path(path)
