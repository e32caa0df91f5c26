"""A capture in memory as the distiller wants it: pictures, masks, cameras and poses, and what is held out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.progress import progress
from mvp4d_export.cameras import camera_matrices
from mvp4d_export.rig import Pose

EMPTY_ALPHA = 8  # of 255: a picture whose mask stays under it shows nobody


@dataclasses.dataclass
class Dataset:
    """V views x F frames.

    Attributes:
      pictures: [V, F, H, W, 3] uint8 on the background; masks: [V, F, H, W] uint8, or None.
      viewmats: [V, F, 4, 4]; Ks: [V, F, 3, 3] at full size.
      pose: F frames.
      usable: [V, F] bool: the picture shows somebody.
      train_views, held_views, train_frames, held_frames: indices.
    """

    capture: Capture
    pictures: Tensor
    masks: Tensor | None
    viewmats: Tensor
    Ks: Tensor
    pose: Pose
    background: Tensor
    usable: np.ndarray
    train_views: list[int]
    held_views: list[int]
    train_frames: list[int]
    held_frames: list[int]

    @classmethod
    def load(cls, capture: Capture, *, hold_views: int = 0, hold_times: int = 0, device: str = "cpu") -> Dataset:
        """Reads every picture; holds out evenly spaced views and frames.

        Raises:
          UserError: too little left to fit, a frame that no view shows, a damaged picture.
        """
        views, frames = len(capture.names), capture.frame_count
        held_views = _spaced(views, hold_views, "`hold_views`")
        held_frames = _spaced(frames, hold_times, "`hold_times`")
        pictures, masks = [], []
        for view in progress(range(views), what="reading views", unit="view"):
            pictures.append(torch.from_numpy(capture.frames(view)))
            if capture.has_masks:
                masks.append(torch.from_numpy(capture.masks(view)))
        usable = np.ones((views, frames), bool)
        if masks:
            usable = (torch.stack(masks).flatten(2).amax(2) >= EMPTY_ALPHA).numpy()
        dataset = cls(
            capture,
            torch.stack(pictures).to(device),
            torch.stack(masks).to(device) if masks else None,
            *_cameras(capture, device),
            Pose.of(capture.motion, device),
            torch.tensor(capture.info.background, dtype=torch.float32, device=device) / 255,
            usable,
            [v for v in range(views) if v not in held_views],
            held_views,
            [frame for frame in range(frames) if frame not in held_frames],
            held_frames,
        )
        dataset._check_usable()
        return dataset

    @functools.cached_property
    def digest(self) -> str:
        """Of everything a fit learns from: pictures, masks, cameras, background, head and motion."""
        told = hashlib.sha256()
        for tensor in (self.pictures, self.masks, self.viewmats, self.Ks, self.background):
            if tensor is not None:
                told.update(repr(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
        for name in ("head.npz", "motion.npz"):
            told.update((self.capture.path / name).read_bytes())
        return told.hexdigest()

    def _check_usable(self) -> None:
        path, names = self.capture.path, self.capture.names
        if not self.usable.any():
            raise UserError(path / "masks", "every mask is transparent", "write masks that show the head, or none")
        seen = self.usable[self.train_views].any(0)
        dark = [frame for frame in self.train_frames if not seen[frame]]
        if dark:
            raise UserError(
                path / "masks",
                f"frame {dark[0]} is transparent in every view that is fitted ({len(dark)} such frames)",
                "cut these frames out of the capture",
            )
        empty = np.argwhere(~self.usable)
        if len(empty):
            view, frame = empty[0]
            first = f"camera '{names[view]}' frame {frame}"
            print(f"{path}: {len(empty)} pictures are all transparent (first: {first}) and left out", file=sys.stderr)

    @property
    def pixel_pitch(self) -> float:
        """Metres that a pixel spans at the head, seen from the nearest camera."""
        depth = (self.viewmats @ self.pose.head_matrix())[..., 2, 3]  # [V, F]
        return float((depth / self.Ks[..., 0, 0]).min())

    @property
    def size(self) -> tuple[int, int]:
        return self.capture.image_size

    def spread_frames(self, most: int) -> list[int]:
        """Indices of at most so many of the fitted frames, evenly spaced."""
        return self.train_frames[:: -(-len(self.train_frames) // most)]

    def batch(
        self, views: list[int], frame: int, level: int = 0, background: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Pictures [B, h, w, 3] in [0, 1], masks [B, h, w] or None, viewmats [B, 4, 4], Ks [B, 3, 3] of a frame.

        Args:
          level: sides are halved this many times, by averaging.
          background: [3], what the masks lay the pictures on in place of the capture's own; needs masks.
        """
        pictures = self.pictures[views, frame].float().div_(255)
        masks = None if self.masks is None else self.masks[views, frame].float().div_(255)
        Ks = self.Ks[views, frame]
        if level:
            factor = 1 << level
            pictures = avg_pool2d(pictures.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
            masks = None if masks is None else avg_pool2d(masks[:, None], factor)[:, 0]
            Ks = Ks.clone()
            Ks[:, :2] /= factor
        if background is not None:
            pictures = pictures + (1 - masks)[..., None] * (background - self.background)
        return pictures, masks, self.viewmats[views, frame], Ks


def _cameras(capture: Capture, device: str) -> tuple[Tensor, Tensor]:
    """viewmats [V, F, 4, 4] and intrinsics [V, F, 3, 3] of a capture, float32."""
    viewmats, Ks = camera_matrices(capture.cameras)  # [V, F' = 1 or F, ...]
    shape = (capture.view_count, capture.frame_count)
    return tuple(
        torch.from_numpy(np.broadcast_to(item, (*shape, *item.shape[2:])).copy()).to(device) for item in (viewmats, Ks)
    )


def _spaced(count: int, held: int, flag: str) -> list[int]:
    """`held` of `count` indices, evenly spaced, neither first nor last."""
    if held < 0 or count - held < 1 or (held and count < 3):
        raise UserError(flag, f"{held} of {count} cannot be held out", "leave at least one to fit")
    return sorted({int((index + 0.5) * count / held) for index in range(held)}) if held else []
