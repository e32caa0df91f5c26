"""What the adapters share: safe paths, compositing, downscaling, streaming frames into a capture, OpenGL cameras."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvp4d.core import images, video
from mvp4d.core.capture.format import Capture
from mvp4d.core.capture.writer import CaptureWriter
from mvp4d.core.errors import UserError
from mvp4d.core.progress import progress, say

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: OpenCV (y down, z forward) <-> OpenGL (y up, z backward)

Frames = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray | None]]]  # view -> its frames: rgb, alpha


def to_opengl(world_to_camera: np.ndarray) -> np.ndarray:
    """OpenCV world-to-camera [..., 4, 4] -> OpenGL camera-to-world: what transforms.json holds."""
    return np.linalg.inv(world_to_camera) @ OPENGL


def from_opengl(camera_to_world: np.ndarray) -> np.ndarray:
    """The way back."""
    return np.linalg.inv(camera_to_world @ OPENGL)


def inside(folder: Path, relative: object, where: object) -> Path:
    """`folder / relative` for a name read from a file: refused when it leaves the folder, by `..`, root or link."""
    if not isinstance(relative, str) or not relative or "\0" in relative or len(relative) > 1000:
        raise UserError(where, f"'{str(relative)[:60]}' is not a file name")
    path = folder / relative
    if Path(relative).is_absolute() or not is_inside(path, folder):
        raise UserError(where, f"'{relative[:80]}' leads out of {folder}", "copy the file into the folder")
    return path


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, its links followed, lies in `folder`; a link that leads nowhere counts by its name."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def downscale(image: np.ndarray, factor: int) -> np.ndarray:
    """Box average over `factor` x `factor` pixels; a remainder at the right and bottom is cut off."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor * factor, image.shape[1] // factor * factor
    return np.asarray(Image.fromarray(np.ascontiguousarray(image[:height, :width])).reduce(factor))


def picture_source(folder: Path, name: str, where: object) -> Path:
    """`folder/name` with pictures in it, or `folder/name.mp4` (or another video suffix)."""
    if (folder / name).is_dir():
        return inside(folder, name, where)
    for suffix in video.SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return inside(folder, f"{name}{suffix}", where)
    raise UserError(folder / name, "no folder of pictures and no video of that name")


Chosen = Any  # frames of a video [F'], pictures of a folder (list[Path]); None for all


def read_pictures(source: Path, chosen: Chosen = None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The frames of a video, or the pictures of a folder in the order of their names: straight colours uint8 [H, W, 3]
    and alpha uint8 [H, W], None where a picture has none."""
    if source.is_file():
        yield from ((rgb, None) for rgb in video.read_video(source, frames=chosen))
        return
    for path in list_pictures(source) if chosen is None else chosen:
        picture = images.read_picture(inside(source, path.name, source))
        yield picture.rgb, picture.alpha


def read_masks(source: Path, chosen: Chosen = None) -> Iterator[np.ndarray]:
    """Masks likewise, uint8 [H, W]."""
    if source.is_file():
        yield from (images.brightness(rgb) for rgb in video.read_video(source, frames=chosen))
        return
    for path in list_pictures(source) if chosen is None else chosen:
        yield images.read_mask(inside(source, path.name, source))


def bring_alpha(sources: Iterable[Path]) -> bool:
    """Whether the first picture of one of these folders has transparency: then it is the capture's mask."""
    first = (list_pictures(source)[:1] for source in sources if source.is_dir())
    return any(images.has_alpha(inside(path.parent, path.name, path.parent)) for paths in first for path in paths)


def line_up(sources: list[Path], fps: float, count: int, *, drop_incomplete: bool) -> tuple[list[Chosen], np.ndarray]:
    """Which frames or pictures of each source show the moments of a fit.

    Args:
      sources: videos, and folders of pictures.
      fps, count: of the fit.
      drop_incomplete: leave out the moments that a source lacks, instead of refusing. Pictures of folders that have
        fewer are told apart by their names, which then must be `count` different ones in all folders together.

    Returns:
      chosen: for each source; kept: [F'] which moments are left.

    Raises:
      UserError: a source does not cover the moments.
    """
    folders = {source: list_pictures(source) for source in sources if source.is_dir()}
    stems = sorted({_place(path) for pictures in folders.values() for path in pictures})
    found: list[dict[int, int | Path]] = []
    for source in sources:
        pictures = folders.get(source)
        if pictures is None:
            found.append(dict(enumerate(pick_frames(source, fps, count, drop_incomplete).tolist())))
        elif len(pictures) == count:
            found.append(dict(enumerate(pictures)))
        elif drop_incomplete and len(stems) == count:
            found.append({stems.index(_place(path)): path for path in pictures})
        else:
            raise UserError(
                source,
                f"has {len(pictures)} pictures, the fit has {count} frames",
                "all cameras and the fit must cover the same frames; `drop_incomplete` leaves others out",
            )
    kept = np.array([moment for moment in range(count) if all(moment in items for items in found)], int)
    if not len(kept):
        raise UserError(sources[0].parent, "no moment is there in every camera")
    if len(kept) < count:
        say(f"{sources[0].parent}: {count - len(kept)} of {count} frames are left out, for a camera that lacks them")
    chosen = [[items[moment] for moment in kept.tolist()] for items in found]
    return [np.asarray(items) if source.is_file() else items for source, items in zip(sources, chosen)], kept


def _place(picture: Path) -> tuple[int, str]:
    """Where a picture's name stands among others: numbers by their value, whatever their zeros."""
    return (int(picture.stem), "") if picture.stem.isdecimal() and len(picture.stem) < 19 else (0, picture.stem)


def pick_frames(source: Path, fps: float, count: int, drop_incomplete: bool = False) -> np.ndarray:
    """Which frames of a video show `count` moments at `fps`: [count], or fewer where `drop_incomplete` allows it.

    A video with as many frames as there are moments is taken frame by frame. Another is resampled by its timestamps,
    which is said.

    Raises:
      UserError: the video does not cover the moments.
    """
    facts = video.look_at_video(source)
    if len(facts.times) == count:
        return np.arange(count)
    chosen = facts.resampled(fps)
    if drop_incomplete and facts.steady and len(facts.times) < count:
        return np.arange(len(facts.times))
    if abs(len(chosen) - count) > 1 or len(facts.times) < 2:
        kind = "" if facts.steady else " of varying length"
        raise UserError(
            source,
            f"has {len(facts.times)} frames{kind} at {facts.fps:g} a second, {len(chosen)} at "
            f"{fps:g}, expected {count}",
            "all cameras and the fit must cover the same frames",
        )
    say(
        f"{source}: {len(facts.times)} frames at {facts.fps:g} a second, resampled by their timestamps to {count} at "
        f"{fps:g}"
    )
    return np.pad(chosen, (0, max(count - len(chosen), 0)), mode="edge")[:count]


def list_pictures(folder: Path) -> list[Path]:
    """The picture files of a folder in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES)


def picture_size(source: Path) -> tuple[int, int]:
    """(H, W) of the first picture."""
    if source.is_file():
        return video.video_facts(source)[0]
    pictures = list_pictures(source)
    if not pictures:
        raise UserError(source, "has no pictures")
    return images.image_size(inside(source, pictures[0].name, source))


def write_views(out: Path, frames_of: Frames, *, scale: int = 1, **options: Any) -> Capture:
    """Streams every view's frames into a new capture.

    Args:
      out: the capture folder.
      frames_of: for a view index, an iterator over its frames: (rgb, alpha or None).
      scale: pictures are averaged down by this factor; `options["image_size"]` is the size after that.
      options: what CaptureWriter takes.

    Raises:
      UserError: a view has another number of frames or another picture size than the capture.
    """
    with CaptureWriter(out, **options) as writer:
        total = len(writer.info.names) * writer.info.frame_count
        with progress(total=total, what="writing frames", unit="frame") as bar:
            for view, name in enumerate(writer.info.names):
                count = 0
                for rgb, alpha in frames_of(view):
                    if count < writer.info.frame_count:
                        smaller = None if alpha is None else downscale(alpha, scale)
                        _add(writer, view, count, downscale(rgb, scale), smaller)
                    count += 1
                    bar.update()
                if count != writer.info.frame_count:
                    raise UserError(
                        f"camera '{name}'",
                        f"has {count} frames, expected {writer.info.frame_count}",
                        "all cameras and the fit must cover the same frames",
                    )
    return Capture.open(out)


def identity_extra(shape: np.ndarray | None) -> dict[str, Any]:
    """What a capture's `extra` says of identity coefficients [S], where they are known."""
    return {} if shape is None else {"shape": [float(value) for value in shape]}


def _add(writer: CaptureWriter, view: int, frame: int, rgb: np.ndarray, alpha: np.ndarray | None) -> None:
    for picture in (rgb, alpha):
        if picture is not None and picture.shape[:2] != writer.info.image_size:
            height, width = writer.info.image_size
            raise UserError(
                f"camera '{writer.info.names[view]}' frame {frame}",
                f"is {picture.shape[0]} x {picture.shape[1]} (height x width), expected {height} x {width}",
                "all pictures of a capture have one size",
            )
    if alpha is None and writer.info.masks:
        alpha = np.full(rgb.shape[:2], 255, np.uint8)
    rgb = rgb if alpha is None else images.on_white(rgb, alpha)
    writer.add(view, frame, rgb, alpha if writer.info.masks else None)


def check_folder(path: str | os.PathLike) -> Path:
    """A folder that is there."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(path, "no such folder" if not path.exists() else "not a folder", "check the path")
    return path
