"""The maps that steer the model: where the head is (P), how the face deforms (E), where the camera looks (V), masks,
the motion within each latent frame (m). The photo painted onto the head (`small.painting`) may follow them.

Pose, expression, ray map and masks follow CAP4D (see docs/architecture.md); how MVP4D tells the model about the frames
that its autoencoder merges is unpublished: here by the screen displacement of those frames relative to the drawn one,
in latent pixels, 2 channels each.

Everything has fixed shapes and runs inside a compiled training step as well as from numpy.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d.core.cameras import camera as camera_functions
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.rotation import array_namespace, float32, rotate
from mvp4d_jax.geometry.frame_by_frame import apart, draw_apart
from mvp4d_jax.geometry.rasterize import Raster, interpolate, on_screen, rasterize_screen
from mvp4d_jax.heads.skinning import neutral, place_in_world, skin_in_head_space
from mvp4d_jax.latent_frames import frame_groups

Array = Any


@dataclasses.dataclass(frozen=True)
class ConditioningConfig:
    """What the conditioning maps look like.

    Attributes:
      frequencies: number of octaves of the pose map's encoding.
      expression_scale: metres that count as one in the expression map; CAP4D's standard deviation.
      image_to_latent: image pixels per latent pixel.
      temporal_stride: s, video frames per latent frame after the first; 4 in CogVideoX.
      supersampling: maps are rasterised this many times finer than the latent and area-averaged.
      painted: latent channels of the autoencoder, where the reference photo painted onto the head is shown to the model
        as latents, with the share that the photo shows itself (painted + 1 channels, `small.painting.painted_maps`);
        0: it is not. Not in MVP4D: for models too small to find the photo's details by attention.
    """

    frequencies: int = 7
    expression_scale: float = 0.0104
    image_to_latent: int = 8
    temporal_stride: int = 4
    supersampling: int = 2
    painted: int = 0

    def __post_init__(self):
        for name in ("frequencies", "image_to_latent", "temporal_stride", "supersampling"):
            if getattr(self, name) < 1:
                raise UserError(f"conditioning.{name}", "must be at least 1")
        if not self.expression_scale > 0:
            raise UserError("conditioning.expression_scale", "must be positive (metres)")

    @property
    def parts(self) -> dict[str, slice]:
        """Channels of each map, in order: pose, expression, rays, reference, crop, motion, painted."""
        sizes = {
            "pose": 6 * self.frequencies,
            "expression": 3,
            "rays": 3,
            "reference": 1,
            "crop": 1,
            "motion": 2 * (self.temporal_stride - 1),
            "painted": self.painted + 1 if self.painted else 0,
        }
        ends = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends)}

    @property
    def record(self) -> dict[str, Any]:
        """The fields as releases and shards keep them, with the form of the motion map, of which there is one."""
        return {"motion": "displacement", **dataclasses.asdict(self)}

    @property
    def channels(self) -> int:
        """Number of channels of the conditioning; 56 by default."""
        return self.parts["painted"].stop


def map_channels(source: ConditioningConfig, target: ConditioningConfig) -> np.ndarray:
    """[Cc of the target] int: which channel of the source's maps each of the target's is; -1: the source has no such.

    Raises:
      UserError: maps of the same name mean something else: another scale or size of a latent pixel.
    """
    for field in ("frequencies", "expression_scale", "image_to_latent"):
        ours, theirs = getattr(target, field), getattr(source, field)
        if ours != theirs:
            raise UserError(
                f"config.conditioning.{field}",
                f"is {ours}, the weights to start from were trained with {theirs}",
                "train with the same, or start from other weights",
            )
    found = np.full(target.channels, -1)
    for name, part in target.parts.items():
        there = source.parts[name]
        if part.stop - part.start == there.stop - there.start:
            found[part] = np.arange(there.start, there.stop)
    return found


def draw_conditioning(
    head: HeadModel,
    motion: Motion,
    cameras: Camera,
    image_size: tuple[int, int],
    config: ConditioningConfig,
    reference_camera: Camera,
    *,
    reference_mask: Array | None = None,
    outside: Array | None = None,
) -> Array:
    """Draws the conditioning of V views of one moving head.

    Args:
      head: personalised head; its `canonical` is what the pose map shows.
      motion: F = 1 + s (L - 1) frames, s = `config.temporal_stride`.
      cameras: [V, F'] with F' = 1 (still) or F, intrinsics for `image_size`.
      image_size: (H, W) of the video, static; multiples of `config.image_to_latent`.
      config: static.
      reference_camera: one camera (no batch axes); the ray map is in its axes.
      reference_mask: [V, L], one where the latent frame is given (clean); zeros if absent.
      outside: [V, F or 1, H, W] in [0, 1], one where the image shows no picture (out of the crop); zeros if absent.

    Returns:
      [V, L, h, w, C] float32, channels as in `config.parts`, but for the painted photo, which takes an autoencoder.
      Latent frame 0 stands for video frame 0, latent frame l for frames s (l - 1) + 1 .. s l, drawn at frame
      s l.

    Raises:
      UserError: shapes that do not belong together.
    """
    frames = motion.frame_count
    groups = frame_groups(frames, config.temporal_stride)
    step = config.image_to_latent
    if image_size[0] % step or image_size[1] % step:
        raise UserError("image_size", f"{image_size} is not a multiple of {step}")
    if len(cameras.batch_shape) != 2 or cameras.batch_shape[1] not in (1, frames):
        raise UserError("cameras", f"batch shape {cameras.batch_shape}, expected [V, 1] or [V, {frames}]")
    if reference_camera.batch_shape:
        raise UserError("reference_camera", f"batch shape {reference_camera.batch_shape}, expected one camera")
    views = cameras.batch_shape[0]
    latent_size = (image_size[0] // step, image_size[1] // step)
    shape = (views, len(groups), *latent_size)
    maps = _draw_maps(head, motion, cameras, reference_camera, image_size, latent_size, config)
    xp = array_namespace(maps, reference_mask, outside)
    reference = xp.zeros(shape[:2], np.float32) if reference_mask is None else float32(reference_mask)
    reference = xp.broadcast_to(reference[..., None, None], shape)
    crop = xp.zeros(shape, np.float32) if outside is None else _shrink_mask(outside, groups, step)
    crop = xp.broadcast_to(crop, shape)
    motion_start = config.parts["rays"].stop
    return xp.concatenate(
        [maps[..., :motion_start], reference[..., None], crop[..., None], maps[..., motion_start:]], axis=-1
    )


def normalised_template(head: HeadModel) -> Array:
    """[N, 3] canonical vertices, mean removed, divided by their largest absolute value: what the pose map encodes."""
    centred = head.canonical - head.canonical.mean(axis=0, keepdims=True)
    return float32(centred / abs(centred).max())


def encode_positions(positions: Array, frequencies: int) -> Array:
    """[..., 3] -> [..., 6 K]: per coordinate sin(2^k p) for k = 0 .. K-1, then the cosines."""
    angles = positions[..., None] * (2.0 ** np.arange(frequencies)).astype(np.float32)  # [..., 3, K]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape[:-1], -1)


def _int32(array: Array) -> Array:
    return array_namespace(array).asarray(array, dtype=np.int32)


def _shrink_mask(outside: Array, groups: np.ndarray, step: int) -> Array:
    """[V, F, H, W] -> [V, L, h, w]: area-averaged at the drawn frames."""
    outside = float32(outside)
    if outside.shape[1] > 1:
        outside = outside[:, groups[:, -1]]
    views, frames, height, width = outside.shape
    return outside.reshape(views, frames, height // step, step, width // step, step).mean(axis=(3, 5))


def _draw_maps(
    head: HeadModel,
    motion: Motion,
    cameras: Camera,
    reference_camera: Camera,
    image_size: tuple[int, int],
    latent_size: tuple[int, int],
    config: ConditioningConfig,
) -> Array:
    """[V, L, h, w, pose + expression + rays + motion]."""
    given = (head, motion, cameras, reference_camera)
    draw_all = _draw_all if apart(*given) else _draw_together
    return draw_all(*given, image_size, latent_size, config)


def _draw_all(
    head: HeadModel,
    motion: Motion,
    cameras: Camera,
    reference_camera: Camera,
    image_size: tuple[int, int],
    latent_size: tuple[int, int],
    config: ConditioningConfig,
) -> Array:
    """As `_draw_maps`, a picture at a time."""
    groups = frame_groups(motion.frame_count, config.temporal_stride)
    factor = config.supersampling
    fine_size = (latent_size[0] * factor, latent_size[1] * factor)
    cameras, reference_camera = jax.tree.map(float32, (cameras, reference_camera))
    cameras = camera_functions.resize(cameras, image_size, fine_size)
    expressive = skin_in_head_space(head, motion)  # [F, N, 3]
    world = place_in_world(motion, expressive)
    offsets = (expressive - neutral(head)) / np.float32(config.expression_scale)
    template = normalised_template(head)
    faces = _int32(head.faces)
    still = cameras.batch_shape[1] == 1

    def draw(index: Array) -> Array:
        """[h, w, maps] of one view and latent frame; one at a time, so that memory does not grow with V and L."""
        view, group = index[0], index[1:]  # group: [s] frames, the drawn one last
        camera = cameras[view, group * 0 if still else group]  # [s]
        pixels, depth = camera_functions.project(camera, world[group])  # [s, N, 2], [s, N]
        raster = rasterize_screen(on_screen(pixels[-1], depth[-1]), faces, fine_size, cull_backfaces=True)
        return _paint_maps(raster, faces, template, offsets[group[-1]], pixels, camera[-1], reference_camera, config)

    views = cameras.batch_shape[0]
    indices = np.concatenate([np.repeat(np.arange(views), len(groups))[:, None], np.tile(groups, (views, 1))], axis=1)
    maps = draw_apart(draw, indices) if apart(world, cameras) else jax.lax.map(draw, jnp.asarray(indices))
    return maps.reshape(views, len(groups), *maps.shape[1:])


_draw_together = jax.jit(_draw_all, static_argnames=("image_size", "latent_size", "config"))


@functools.partial(jax.jit, static_argnames="config")
def _paint_maps(
    raster: Raster,
    faces: Array,
    template: Array,
    offsets: Array,
    pixels: Array,
    camera: Camera,
    reference_camera: Camera,
    config: ConditioningConfig,
) -> Array:
    """[h, w, maps] of one picture: template and offsets [N, 3] of the drawn frame, pixels [s, N, 2] of the frames of
    the latent frame, the drawn one last, its camera."""
    # In latent pixels; the limit is for vertices that pass behind the camera.
    moved = jnp.clip((pixels[:-1] - pixels[-1:]) / config.supersampling, -1e3, 1e3)  # [s - 1, N, 2]
    painted = interpolate(raster, faces, jnp.concatenate([template, offsets, *moved], axis=-1))
    return _assemble(painted, raster, camera, reference_camera, config)


def _assemble(
    painted: Array, raster: Raster, camera: Camera, reference_camera: Camera, config: ConditioningConfig
) -> Array:
    """Encodes, masks and area-averages what was painted: [h, w, maps]."""
    seen = (raster.face >= 0)[..., None]
    pose = jnp.where(seen, encode_positions(painted[..., :3], config.frequencies), 0.0)
    rays = camera_functions.pixel_rays(camera, raster.face.shape)
    rays = rotate(reference_camera.world_to_camera[:3, :3], rays)
    maps = jnp.concatenate([pose, painted[..., 3:6], rays, painted[..., 6:]], axis=-1)
    height, width, channels = maps.shape
    factor = config.supersampling
    return maps.reshape(height // factor, factor, width // factor, factor, channels).mean(axis=(1, 3))
