"""A picture to judge a fit by: the shaded head over the photo, with the landmarks found and fitted."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from mvp4d.core.cameras.camera import Camera, crop, project, resize
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.model import HeadModel
from mvp4d_jax.geometry.rasterize import interpolate, rasterize
from mvp4d_jax.heads.skinning import landmarks, skin

FOUND, FITTED = (40, 220, 60), (255, 60, 40)
LOUD = (255, 0, 255)  # behind cut-outs: what is left of an old background is seen
_LIGHT = np.array([0.3, 0.4, 0.87])


def draw_overlay(
    photo: np.ndarray,
    head: HeadModel,
    vertices: np.ndarray,
    camera: Camera,
    found: np.ndarray | None,
    fitted: np.ndarray,
    opacity: float = 0.55,
) -> np.ndarray:
    """uint8 [H, W, 3]: the mesh in grey over the photo, landmarks found (green) and fitted (red).

    Args:
      photo: uint8 [H, W, 3].
      vertices: [N, 3] world vertices of `head` at this frame.
      camera: unbatched.
      found, fitted: [68, 2] pixels; found is None where there was no face.
      opacity: of the mesh.
    """
    normals = vertex_normals(vertices, np.asarray(head.faces))
    raster = rasterize(camera, vertices.astype(np.float32), head.faces, photo.shape[:2], cull_backfaces=True)
    normal = np.asarray(interpolate(raster, head.faces, normals.astype(np.float32)))
    covered = np.asarray(raster.face) >= 0
    shade = 255 * (0.25 + 0.75 * np.clip(normal @ _LIGHT, 0, 1))
    weight = (covered * opacity)[..., None]
    picture = Image.fromarray(np.uint8(np.clip(photo * (1 - weight) + shade[..., None] * weight, 0, 255)))
    radius = max(1.5, max(photo.shape[:2]) / 400)
    brush = ImageDraw.Draw(picture)
    for points, colour in ((found, FOUND), (fitted, FITTED)):
        reach = 1.6 * radius if points is found else radius  # a rim is left where the fitted point lies on it
        for x, y in [] if points is None else points:
            brush.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    return np.asarray(picture)


def draw_pair(
    photo: np.ndarray,
    head: HeadModel,
    vertices: np.ndarray,
    camera: Camera,
    found: np.ndarray | None,
    fitted: np.ndarray,
    size: int = 640,
) -> np.ndarray:
    """uint8 [size, 2 size, 3]: the head's surroundings cut out of the photo, and the same with the overlay."""
    low, high = fitted.min(0), fitted.max(0)
    middle, half = (low + high) / 2, 1.3 * float((high - low).max())
    left, top = middle - half
    scale = size / (2 * half)
    window = (left, top, left + 2 * half, top + 2 * half)
    cut = Image.fromarray(photo).transform(
        (size, size), Image.Transform.EXTENT, window, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)
    )
    view = resize(crop(camera, left, top), (2 * half, 2 * half), (size, size))
    move = lambda points: None if points is None else (points - [left, top]) * scale  # noqa: E731
    picture = np.asarray(cut)
    return np.concatenate([picture, draw_overlay(picture, head, vertices, view, move(found), move(fitted))], axis=1)


def draw_portrait(portrait: Portrait, height: int = 480) -> np.ndarray:
    """uint8 picture: of each photo a row, the cut-out on a loud colour and the fitted head over the photo, with the
    landmarks found (where they were looked for) and fitted."""
    rows = []
    for index, photo in enumerate(portrait.photos):
        size = (height, round(photo.shape[1] * height / photo.shape[0]))
        camera = resize(portrait.camera[index], photo.shape[:2], size)
        vertices = np.asarray(skin(portrait.head, portrait.motion[slice(index, index + 1)]))
        fitted, _ = project(camera, np.asarray(landmarks(portrait.head, vertices))[0])
        small = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.LANCZOS))
        alpha = small[..., 3:] / np.float32(255)
        cut, plain = (
            np.uint8(np.rint(small[..., :3] * alpha + np.float32(colour) * (1 - alpha)))
            for colour in (LOUD, (255, 255, 255))
        )
        found = _found(portrait, index, size)
        overlay = draw_overlay(plain, portrait.head, vertices[0], camera, found, np.asarray(fitted))
        rows.append(np.concatenate([cut, overlay], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _found(portrait: Portrait, index: int, size: tuple[int, int]) -> np.ndarray | None:
    """[68, 2] the landmarks of a photo in pixels of its picture at `size` (H, W); None where it has none."""
    points = None if portrait.landmarks is None else portrait.landmarks[index]
    if points is None or not np.isfinite(points).all():
        return None
    height, width = portrait.photos[index].shape[:2]
    return points * [size[1] / width, size[0] / height]
