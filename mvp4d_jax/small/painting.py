"""A photo on the head's mesh: what colour each vertex has in it, or is likely to have, and how that looks elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import binary_dilation, map_coordinates
from scipy.spatial import cKDTree

from mvp4d.core.cameras import camera as camera_functions
from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.heads.mesh import neighbour_mean, vertex_normals
from mvp4d.core.heads.model import INTERIOR, HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.regions import parts_named
from mvp4d.core.ramps import smoothstep
from mvp4d.core.rotation import array_namespace
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.geometry.frame_by_frame import apart, draw_apart
from mvp4d_jax.geometry.rasterize import Raster, interpolate, on_screen, rasterize, rasterize_screen
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.latent_frames import frame_groups

Array = Any
DEPTH_SLACK = 0.004  # metres: a vertex this far behind the nearest surface still counts as seen
DEPTH_SIDE = 256  # pixels a side, at least, of the depth map that says so: those of a small photo span more
STEP = 0.02  # metres between the depths of neighbouring pixels from which one surface is seen past another
MISFIT = 0.005  # metres by which a fitted head's outlines may be off: so near to them a photo may show something else
WHOLE = 0.9  # alpha of a photo from which a pixel shows the person alone
GRAZING = (0.1, 0.35)  # cosines between which trust in what the photo shows of a surface grows from none to full
FITTED = (0.5, 1.0)  # trust between which the colours of a fitted head begin to be the photo's
RINGS = 3  # rings of vertices over which they do so at least
TRUSTED = 0.1  # what the photo shows with less trust is filled in
NEIGHBOURS = 8  # trusted vertices that fill one in
SUPERSAMPLING = 2


def vertex_colours(
    reference: np.ndarray,
    camera: Camera,
    motion: Motion,
    head: HeadModel,
    alpha: np.ndarray | None = None,
    *,
    fitted: bool = False,
) -> np.ndarray:
    """Colours of vertices: from the photo where seen, from the mirrored vertex where that is, else from the nearest.

    Where the surface turns away from the photo's camera, one source fades into the next. Beside the jaw's outline, and
    beside the person's, a photo of a fitted head may show a collar or the background in its place.

    Args:
      reference: [H, W, 3] float in [0, 1]; camera: of it, unbatched.
      motion: the head's pose in it, one frame.
      head: personalised rig.
      alpha: [H, W] float in [0, 1], how far a pixel shows the person; None where all do.
      fitted: the head was fitted to the photo by landmarks, so that hair or a collar may be seen where its outline is:
        what turns away there has the colour of what is beside it, not the photo's.

    Returns:
      [N, 4] float32: red, green, blue, and the trust in [0, 1] that the photo shows the vertex itself.
    """
    size = reference.shape[:2]
    vertices = np.asarray(skin(head, motion))[0]  # [N, 3]
    pixels = np.asarray(project(camera, vertices)[0])
    rows, columns = pixels[:, 1] - 0.5, pixels[:, 0] - 0.5
    sampled = np.stack(
        [map_coordinates(reference[..., c], [rows, columns], order=1, mode="nearest") for c in range(3)], axis=-1
    )
    trust = _trust(vertices, camera, head, size)
    if alpha is not None:
        person = ~_near(alpha < WHOLE, 1)
        trust = trust * map_coordinates(person.astype(np.float32), [rows, columns], order=1, mode="nearest")
    canonical = np.asarray(head.canonical)
    partner = cKDTree(canonical).query(canonical * [-1, 1, 1])[1]
    own = trust
    if fitted:
        own, mean = smoothstep(trust, *FITTED), neighbour_mean(np.asarray(head.faces), len(trust))
        for _ in range(RINGS):
            own = np.minimum(own, mean(own))
    borrowed = (1 - own) * own[partner]
    total = own + borrowed
    known = total > TRUSTED
    if not known.any():
        return np.pad(np.full_like(sampled, 0.5, np.float32), ((0, 0), (0, 1)))
    mixed = own[:, None] * sampled + borrowed[:, None] * sampled[partner]
    colours = mixed / np.maximum(total, TRUSTED)[:, None]
    count = min(NEIGHBOURS, int(known.sum()))
    distance, nearest = (
        array.reshape(-1, count) for array in cKDTree(canonical[known]).query(canonical[~known], k=count)
    )
    weight = 1 / np.maximum(distance, 1e-6)
    colours[~known] = (weight[..., None] * colours[known][nearest]).sum(1) / weight.sum(1, keepdims=True)
    return np.concatenate([colours, trust[:, None]], axis=1).astype(np.float32)


def paint_video(
    head: HeadModel, motion: Motion, cameras: Camera, image_size: tuple[int, int], colours: Array
) -> np.ndarray:
    """The moving head in vertex colours, seen by V cameras, on white.

    Args:
      motion: F frames.
      cameras: [V, F'] with F' = 1 (still) or F.
      colours: [R, N, 4] from `vertex_colours`, of R photos.

    Returns:
      [R, V, F, H, W, 4] float32 in [0, 1]: red, green, blue, and the trust that the photo shows what is there, 0 off
      the head.
    """
    count = len(colours)
    values = np.moveaxis(np.asarray(colours, np.float32), 0, 1).reshape(head.vertex_count, 4 * count)
    painted = np.asarray(_paint(head, motion, cameras, values, image_size))
    return np.moveaxis(painted.reshape(*painted.shape[:-1], count, 4), -2, 0)


def painted_maps(
    painted: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], config: ConditioningConfig
) -> np.ndarray:
    """What the model is told of painted videos: their latents, and where the photo itself is shown.

    Args:
      painted: [V, F, H, W, 4] from `paint_video`.
      encode: video [V, F, H, W, 3] in [-1, 1] -> latents [V, L, h, w, C].
      config: of the maps that they follow.

    Returns:
      [V, L, h, w, C + 1] float32.
    """
    latents = np.asarray(encode(2 * painted[..., :3] - 1), np.float32)
    views, frames, height, width, _ = painted.shape
    step = config.image_to_latent
    trust = painted[..., 3][:, frame_groups(frames, config.temporal_stride)].mean(2)  # [V, L, H, W]
    trust = trust.reshape(views, -1, height // step, step, width // step, step).mean((3, 5))
    return np.concatenate([latents, trust[..., None]], axis=-1)


def _paint(head: HeadModel, motion: Motion, cameras: Camera, values: Array, image_size: tuple[int, int]) -> Array:
    """Vertex values [N, A] as seen: [V, F, H, W, A], area-averaged; off the head white, and no trust."""
    given = (head, motion, cameras, values)
    return (_paint_all if apart(*given) else _paint_together)(*given, image_size)


def _paint_all(head: HeadModel, motion: Motion, cameras: Camera, values: Array, image_size: tuple[int, int]) -> Array:
    """As `_paint`, a picture at a time."""
    fine = (SUPERSAMPLING * image_size[0], SUPERSAMPLING * image_size[1])
    cameras = jax.tree.map(lambda a: array_namespace(a).asarray(a, dtype=np.float32), cameras)
    cameras = camera_functions.resize(cameras, image_size, fine)
    vertices, faces = skin(head, motion), array_namespace(head.faces).asarray(head.faces, dtype=np.int32)
    views, times = cameras.batch_shape

    def draw(index: Array) -> Array:
        view, frame = index
        pixels, depth = project(cameras[view, frame * int(times > 1)], vertices[frame])
        return _picture(rasterize_screen(on_screen(pixels, depth), faces, fine), faces, values)

    frames = len(vertices)
    indices = np.stack([np.repeat(np.arange(views), frames), np.tile(np.arange(frames), views)], axis=1)
    pictures = draw_apart(draw, indices) if apart(vertices, values) else jax.lax.map(draw, jnp.asarray(indices))
    return pictures.reshape(views, frames, *pictures.shape[1:])


_paint_together = jax.jit(_paint_all, static_argnames="image_size")


@jax.jit
def _picture(raster: Raster, faces: Array, values: Array) -> Array:
    """[H, W, A] of a raster of SUPERSAMPLING times as many pixels a side."""
    height, width = (side // SUPERSAMPLING for side in raster.face.shape)
    background = jnp.tile(jnp.array([1.0, 1.0, 1.0, 0.0]), values.shape[-1] // 4)
    picture = jnp.where((raster.face >= 0)[..., None], interpolate(raster, faces, values), background)
    return picture.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, -1).mean((1, 3))


def _trust(vertices: np.ndarray, camera: Camera, head: HeadModel, size: tuple[int, int]) -> np.ndarray:
    """[N] in [0, 1]: in the picture, not hidden by a nearer surface, not at a grazing angle, nor beside such places."""
    factor = -(-DEPTH_SIDE // min(size))
    fine = (size[0] * factor, size[1] * factor)
    camera = camera_functions.resize(camera, size, fine)
    pixels, depth = (np.asarray(array) for array in project(camera, vertices))
    raster = rasterize(camera, vertices, head.faces, fine)
    surface = np.asarray(raster.depth)
    row, column = np.floor(pixels[:, 1]).astype(int), np.floor(pixels[:, 0]).astype(int)
    inside = (row >= 0) & (row < fine[0]) & (column >= 0) & (column < fine[1])
    row, column = np.clip(row, 0, fine[0] - 1), np.clip(column, 0, fine[1] - 1)
    in_front = depth <= surface[row, column] + DEPTH_SLACK
    clear = ~_near(_steps(surface, np.asarray(raster.face), head), _misfit(camera, vertices))[row, column]
    faces = np.asarray(head.faces)
    matrix = np.asarray(camera.world_to_camera)
    to_eye = -matrix[:3, :3].T @ matrix[:3, 3] - vertices
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    cosine = (vertex_normals(vertices, faces) * to_eye).sum(1)
    trust = np.clip((cosine - GRAZING[0]) / (GRAZING[1] - GRAZING[0]), 0, 1) * (inside & in_front & clear)
    return np.minimum(trust, neighbour_mean(faces, len(trust))(trust))


def _steps(depth: np.ndarray, face: np.ndarray, head: HeadModel) -> np.ndarray:
    """[H, W] bool: pixels of a raster past which a farther part of the head is seen, but for the mouth's inside.

    A surface that turns away gets deeper towards its outline too, but not all at once.
    """
    hidden = parts_named(head.part_names, INTERIOR)[np.asarray(head.face_parts)[np.maximum(face, 0)]]
    near = np.pad(np.where(face >= 0, depth, np.nan), 1, constant_values=np.nan)
    far = np.pad(np.where((face >= 0) & ~hidden, depth, np.nan), 1, constant_values=np.nan)
    steps = np.zeros_like(near, bool)
    for axis, side in ((0, 1), (0, -1), (1, 1), (1, -1)):
        turning = np.nan_to_num(near - np.roll(near, -side, axis)).clip(0)
        steps |= np.roll(far, side, axis) - near - 2 * turning > STEP
    return steps[1:-1, 1:-1]


def _misfit(camera: Camera, vertices: np.ndarray) -> float:
    """`MISFIT` in pixels at the head's distance."""
    return MISFIT * float(camera.fx) / float(np.median(np.asarray(project(camera, vertices)[1])))


def _near(mask: np.ndarray, reach: float) -> np.ndarray:
    """A mask [H, W] grown by `reach` pixels."""
    whole = int(reach)
    rows, columns = np.mgrid[-whole : whole + 1, -whole : whole + 1]
    return binary_dilation(mask, rows**2 + columns**2 <= reach**2)
