"""What a sampling run is given: the reference image as latents and maps, the cameras, the motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera, axis_in_head, centre, project
from mvp4d.core.cameras.crops import MARGIN, crop_camera, crop_image, head_vertices
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.regions import at_landmarks
from mvp4d_jax.geometry.conditioning import ConditioningConfig, draw_conditioning
from mvp4d_jax.geometry.framing import crop_box
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.continuation import continue_below
from mvp4d_jax.small.painting import paint_video, painted_maps, vertex_colours

Array = Any
Encode = Callable[[np.ndarray], np.ndarray]
MIN_VISIBLE = 0.2  # share of the head's vertices that a useful camera has in its picture


@dataclasses.dataclass(frozen=True)
class Reference:
    """The one picture everything is made from, cropped to the model's size.

    Attributes:
      image: [H, W, 3] float32 in [0, 1], on white.
      camera: of the crop, unbatched.
      motion: the head's pose and expression in it, one frame.
      latents: [h, w, C].
      conditioning: [h, w, Cc], its reference mask set.
      colours: [N, 4] of the head's vertices in it (`small.painting.vertex_colours`); None where no map shows them.
    """

    image: np.ndarray
    camera: Camera
    motion: Motion
    latents: Array
    conditioning: Array
    colours: np.ndarray | None

    def axis_in_head(self) -> np.ndarray:
        """Unit optical axis [3] of the reference camera in head axes: angles from the reference are measured to it."""
        return axis_in_head(self.camera, self.motion.rotation[0])


def crop_reference(
    image: np.ndarray, camera: Camera, motion: Motion, head: HeadModel, size: int, margin: float = MARGIN
) -> tuple[np.ndarray, Camera, np.ndarray]:
    """Cuts the square around the fitted head out of a photo.

    Args:
      image: [H, W, C] float in [0, 1]; 1 is taken to lie around it.
      camera: of the photo, unbatched.
      motion: one frame.
      size: pixels a side of the crop.
      margin: half side of the crop over the larger half extent of the head.

    Returns:
      crop [size, size, C] float32, its camera, and [size, size] the share of each pixel that lies inside the photo.

    Raises:
      UserError: the fitted head does not lie in the photo.
    """
    box = crop_box(image.shape[:2], camera, motion, head, margin)
    cropped, outside = crop_image(image, box, size, background=1.0)
    return cropped.clip(0, 1), crop_camera(camera, box, size), 1 - outside


def crop_portrait(
    portrait: Portrait, index: int, size: int, margin: float = MARGIN
) -> tuple[np.ndarray, Camera, np.ndarray]:
    """Cuts the square around the head out of a portrait's photo; a body goes on where the photo ends.

    Args:
      index: of the photo.
      size, margin: as `crop_reference`.

    Returns:
      crop [size, size, 4] float32, the person on white and alpha; its camera; and [size, size] how far each pixel is
      known, from the photo or as its continuation.

    Raises:
      UserError: the fitted head does not lie in the photo.
    """
    motion, head = portrait.motion[slice(index, index + 1)], portrait.head
    alpha = portrait.photos[index][..., 3:].astype(np.float32) / 255
    photo = np.dstack([portrait.on_background(index), alpha])
    crop, camera, inside = crop_reference(photo, portrait.camera[index], motion, head, size, margin)
    vertices = np.asarray(skin(head, motion))[0]
    skull = vertices[head_vertices(head)]
    marks = at_landmarks(head, vertices) if len(head.landmark_faces) else skull
    chin = float(np.asarray(project(camera, marks)[0])[:, 1].max())
    width = float(np.ptp(np.asarray(project(camera, skull)[0])[:, 0]))
    crop, known = continue_below(crop, inside, chin, width / 2)
    return crop, camera, known


def make_reference(
    image: np.ndarray,
    camera: Camera,
    motion: Motion,
    head: HeadModel,
    encode: Encode,
    config: ConditioningConfig,
    inside: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
    *,
    fitted: bool = False,
) -> Reference:
    """Encodes a cropped picture and draws its maps.

    Args:
      encode: video [V, F, H, W, 3] in [-1, 1] -> latents [V, L, h, w, C].
      inside: [H, W] share of each pixel inside the uncropped photo; None where all is.
      alpha: [H, W] how far each pixel shows the person; None where all do.
      fitted: the head was fitted to the photo by landmarks (`painting.vertex_colours`).
    """
    size = image.shape[:2]
    latents = encode((2 * image - 1)[None, None])[0, 0]
    outside = None if inside is None else 1 - inside[None, None]  # [1, 1, H, W]
    colours = vertex_colours(image, camera, motion, head, alpha, fitted=fitted) if config.painted else None
    maps = draw_conditioning(
        head, motion, _batched(camera), size, config, camera, reference_mask=np.ones((1, 1)), outside=outside
    )
    maps = _with_photo(maps, head, motion, _batched(camera), size, config, colours, encode)[0, 0]  # [h, w, Cc]
    return Reference(image, camera, motion, latents, maps, colours)


def draw_window(
    head: HeadModel,
    motion: Motion,
    cameras: Camera,
    size: tuple[int, int],
    config: ConditioningConfig,
    reference: Reference,
    encode: Encode,
) -> np.ndarray:
    """Maps of all views over one window, rays in the reference camera's axes: [V, L, h, w, Cc]."""
    maps = draw_conditioning(head, motion, cameras, size, config, reference.camera)
    return _with_photo(maps, head, motion, cameras, size, config, reference.colours, encode)


def _with_photo(
    maps: Array,
    head: HeadModel,
    motion: Motion,
    cameras: Camera,
    size: tuple[int, int],
    config: ConditioningConfig,
    colours: np.ndarray | None,
    encode: Encode,
) -> np.ndarray:
    """Maps with the painted photo behind them, where the model is shown one."""
    if colours is None:
        return np.asarray(maps)
    painted = paint_video(head, motion, cameras, size, colours[None])[0]  # [V, F, H, W, 4]
    return np.concatenate([maps, painted_maps(painted, encode, config)], axis=-1)


def pad_motion(motion: Motion, frames: int) -> Motion:
    """The motion with its last frame held until there are `frames`."""
    index = np.minimum(np.arange(frames), motion.frame_count - 1)
    return motion[index]


def camera_window(cameras: Camera, start: int, stop: int) -> Camera:
    """The frames [start, stop) of cameras [V, F'], the last frame held beyond the end; still cameras as they are."""
    count = np.asarray(cameras.fx).shape[1]
    if count == 1:
        return cameras
    index = np.minimum(np.arange(start, stop), count - 1)
    return Camera(**{name: np.asarray(getattr(cameras, name))[:, index] for name in FIELDS})


def check_cameras(cameras: Camera, names: list[str], vertices: np.ndarray, size: tuple[int, int]) -> None:
    """Refuses cameras that cannot see the head: inside it, or with it behind them or out of the picture.

    Args:
      cameras: [V, F'].
      vertices: [F, N, 3] world.

    Raises:
      UserError: the first such camera, by name and frame.
    """
    count = np.asarray(cameras.fx).shape[1]
    for view, name in enumerate(names):
        for time in range(count):
            camera = Camera(**{field: np.asarray(getattr(cameras, field))[view, time] for field in FIELDS})
            points = vertices[min(time, len(vertices) - 1)]
            where = f"`cameras`, camera '{name}'" + (f" frame {time}" if count > 1 else "")
            low, high = points.min(0), points.max(0)
            position = np.asarray(centre(camera))
            if ((position > low) & (position < high)).all():
                raise UserError(where, "stands inside the head", "move it back: half a metre is close")
            pixels, depth = (np.asarray(array) for array in project(camera, points))
            if (depth <= 0).mean() > 0.5:
                raise UserError(where, "has the head behind it", "turn it round")
            visible = (depth > 0) & (pixels >= 0).all(1) & (pixels[:, 0] < size[1]) & (pixels[:, 1] < size[0])
            if visible.mean() < MIN_VISIBLE:
                raise UserError(
                    where,
                    f"has {visible.mean():.0%} of the head in its picture",
                    "aim it at the head or widen its field of view",
                )


def _batched(camera: Camera) -> Camera:
    return jax.tree.map(lambda array: np.asarray(array)[None, None], camera)
