"""Multi-view video in memory, as the public API has it. See docs/api.md."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.arguments import Pathlike, checked
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.capture import Capture, CaptureWriter
from mvp4d.core.capture.portrait import Portrait, read_portrait
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.words import counted, sides


@dataclasses.dataclass(frozen=True)
class Views:
    """Multi-view video in memory.

    Attributes:
      frames: [V, F, H, W, 3] uint8 on white; masks: [V, F, H, W] uint8 alpha, or None.
      cameras: [V, F'], F' = 1 or F; names: V.
      motion: F frames.
      head: the personalised rig.
      extra: what is kept in capture.json beside that.
    """

    frames: np.ndarray
    masks: np.ndarray | None
    cameras: Camera
    names: tuple[str, ...]
    motion: Motion
    head: HeadModel
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    portrait: Portrait | None = None

    def __repr__(self) -> str:
        shape = getattr(self.frames, "shape", ())
        if len(shape) != 5:
            return f"Views(of shape {sides(self.frames)})"
        views, frames, height, width, _ = shape
        return f"Views({counted(views, 'view')} x {counted(frames, 'frame')}, {width} x {height} pixels)"

    @classmethod
    @checked
    def read(cls, capture: Capture | Pathlike) -> Views:
        """Every picture of a capture."""
        capture = capture if isinstance(capture, Capture) else Capture.open(capture)
        views = range(capture.view_count)
        masks = np.stack([capture.masks(view) for view in views]) if capture.has_masks else None
        return cls(
            np.stack([capture.frames(view) for view in views]),
            masks,
            capture.cameras,
            capture.names,
            capture.motion,
            capture.head,
            dict(capture.info.extra),
            read_portrait(capture.path, capture.head),
        )

    @checked
    def save(self, out: Pathlike, *, overwrite: bool = False) -> Capture:
        """Writes a capture folder."""
        size = (int(self.frames.shape[2]), int(self.frames.shape[3]))
        writer = CaptureWriter(
            out,
            head=self.head,
            motion=self.motion,
            cameras=self.cameras,
            names=self.names,
            image_size=size,
            masks=self.masks is not None,
            extra=self.extra,
            portrait=self.portrait,
            source="mvp4d",
            overwrite=overwrite,
        )
        with writer:
            for view in range(len(self.frames)):
                for frame, picture in enumerate(self.frames[view]):
                    writer.add(view, frame, picture, None if self.masks is None else self.masks[view, frame])
        return Capture.open(out)


@contextlib.contextmanager
def on_disk(views: Capture | Views | Pathlike) -> Iterator[Capture]:
    """The capture that this is, while the context lasts; Views lie in a temporary folder."""
    if isinstance(views, Views):
        with tempfile.TemporaryDirectory(prefix="mvp4d-") as folder:
            yield views.save(Path(folder) / "views")
    else:
        yield views if isinstance(views, Capture) else Capture.open(views)
