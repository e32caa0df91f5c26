"""The photo's own detail in generated views: where the photo shows the very skin that a view shows, as squarely.

The fitted rig tells where a pixel of a view lies in the photo. The difference of the two, less its mean around the
pixel, is added: fine detail is the photo's, shading and colour stay the model's. Nothing is taken where the rig may not
be what one of them shows: where they differ in colour at large (hair, glasses, a hand), beside outlines and steps in
depth, inside of the mouth, of a lid in place of an eye, or of skin that the expression stretches.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
    maximum_filter,
    minimum_filter,
    spline_filter,
)

from mvp4d.core.cameras.camera import Camera, centre, project
from mvp4d.core.cameras.crops import MARGIN, crop_camera, crop_image
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.model import EYES, INTERIOR, HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.regions import vertices_of
from mvp4d.core.ramps import smoothstep
from mvp4d_jax.geometry.frame_by_frame import draw_apart
from mvp4d_jax.geometry.framing import crop_box
from mvp4d_jax.geometry.rasterize import Raster, on_pixels, rasterize
from mvp4d_jax.heads.skinning import skin, skin_in_head_space
from mvp4d_jax.small.painting import WHOLE

FINER = 2  # pixels of the photo kept for one of a view, at most
IN_PHOTO = (0.25, 0.6)  # cosines between which the photo passes from nothing to all of a surface's detail
IN_VIEW = (0.15, 0.45)  # likewise of a view, which may be turned further: it shrinks what the photo has
STEP = 0.02  # metres between the depths of neighbouring pixels from which one of them hides the other
BESIDE = (0.0, 0.75)  # pixels of a view from outlines and such steps, between which trust grows
BEHIND = (0.003, 0.009)  # metres behind what the photo shows, between which trust ends
STRETCH = (1.35, 1.8)  # how many times longer or shorter skin is than in the photo, between which trust ends
MEAN = 6 / 128  # standard deviation of the mean that stays the model's, over a view's side
AROUND = 2.5 / 128  # likewise of the colours that are compared
UNLIKE = (0.1, 0.2)  # difference of such colours between which trust ends
LEAST = 1e-3  # trust that is none


@dataclasses.dataclass(frozen=True)
class PhotoTexture:
    """A photo ready to be looked up from the rig's surface.

    Attributes:
      head: personalised rig.
      splines: [3, S, S] cubic B-spline coefficients of its colours, blurred to a view's pixels.
      trust: [M, M] in [0, 1], how squarely it shows the rig; depth: [M, M] metres, of the rig.
      eye: [M, M] 1 where it shows an eye, else 0.
      places: [N, 3] column and row, as shares of its side, and depth of the rig's vertices in it.
      edges: [T, 3] edge frame of each triangle in it (`_edges`).
    """

    head: HeadModel
    splines: np.ndarray
    trust: np.ndarray
    depth: np.ndarray
    eye: np.ndarray
    places: np.ndarray
    edges: np.ndarray


@dataclasses.dataclass(frozen=True)
class Poses:
    """F frames of the rig in all views.

    Attributes:
      photo: what they take detail from.
      vertices: [F, N, 3] in world axes; normals: [F, N, 3] of unit length, likewise.
      trust: [F, N] in [0, 1], how far skin is as it is in the photo.
    """

    photo: PhotoTexture
    vertices: np.ndarray
    normals: np.ndarray
    trust: np.ndarray

    def __getitem__(self, part: slice) -> Poses:
        return Poses(self.photo, self.vertices[part], self.normals[part], self.trust[part])


def read_photo(portrait: Portrait, size: int, margin: float = MARGIN) -> PhotoTexture:
    """The reference photo of a portrait, for views of `size` pixels a side.

    Args:
      margin: half side of the model's crops over the larger half extent of the head: it tells a view's pixels.

    Raises:
      UserError: the fitted head does not lie in the photo.
    """
    index, head = portrait.reference, portrait.head
    motion, camera = portrait.motion[slice(index, index + 1)], portrait.camera[index]
    picture, alpha = portrait.on_background(index), portrait.photos[index][..., 3] / np.float32(255)
    box = crop_box(alpha.shape, camera, motion, head, margin)
    # Colours as fine as the photo has them; the rig at one size, for which the reference's maps were drawn, too.
    side, fine = max(1, min(round(box[2] - box[0]), FINER * size)), FINER * size
    colours, solid = crop_image(picture, box, side, background=1.0)[0], crop_image(alpha, box, fine, background=0.0)[0]
    blur = np.sqrt(max(0.0, (side / size) ** 2 - 1) / 12)  # a pixel of a view has this much more variance
    splines = [spline_filter(gaussian_filter(colours[..., channel], blur), order=3) for channel in range(3)]
    camera, vertices = crop_camera(camera, box, fine), np.asarray(skin(head, motion))[0]
    raster = rasterize(camera, vertices, head.faces, (fine, fine))
    pixels, depth = (np.asarray(array) for array in project(camera, vertices))
    facing = _facing(camera, vertices, vertex_normals(vertices, np.asarray(head.faces)))
    values = np.stack([facing, vertices_of(head, INTERIOR), vertices_of(head, EYES)], axis=-1)
    facing, interior, eye = np.moveaxis(_paint(head, raster, values), -1, 0)
    surface = np.asarray(raster.depth)
    bare = np.minimum(_distance(solid < WHOLE), _distance(_outline(np.asarray(raster.face), surface)))
    trust = smoothstep(facing, *IN_PHOTO) * smoothstep(bare / FINER, *BESIDE) * (interior < 0.5)
    return PhotoTexture(
        head,
        np.stack(splines).astype(np.float32),
        trust.astype(np.float32),
        np.where(np.isfinite(surface), surface, 0).astype(np.float32),
        (eye > 0.5).astype(np.float32),
        np.column_stack([pixels / fine, depth]).astype(np.float32),
        _edges(head, np.asarray(skin_in_head_space(head, motion))[0]),
    )


def read_poses(photo: PhotoTexture, motion: Motion, vertices: np.ndarray) -> Poses:
    """F frames of the rig, whose vertices [F, N, 3] lie in world axes, once for all views."""
    head = photo.head
    spread = _to_vertices(head)
    trust = [
        1 - smoothstep(spread @ _stretch(photo.edges, _edges(head, frame)), *STRETCH)
        for frame in np.asarray(skin_in_head_space(head, motion))
    ]
    outside = 1 - vertices_of(head, INTERIOR)
    normals = [vertex_normals(frame, np.asarray(head.faces)) for frame in vertices]
    return Poses(photo, vertices, np.stack(normals), np.stack(trust).astype(np.float32) * outside)


def add_detail(poses: Poses, cameras: Camera, raster: Raster, frames: np.ndarray) -> np.ndarray:
    """Frames of one view with the photo's detail.

    Args:
      poses: F frames; cameras: [F' = 1 or F] of the view.
      raster: the rig as the view shows it, [F, H, W].
      frames: [F, H, W, 3] uint8 on white.

    Returns:
      [F, H, W, 3] uint8.
    """

    def one(frame: int) -> np.ndarray:
        camera = cameras[frame * int(cameras.batch_shape[0] > 1)]
        part = Raster(*(np.asarray(array)[frame] for array in (raster.face, raster.barycentric, raster.depth)))
        facing = _facing(camera, poses.vertices[frame], poses.normals[frame])
        trust = smoothstep(facing, *IN_VIEW) * poses.trust[frame]
        return _detailed(poses.photo, part, trust, frames[frame])

    return draw_apart(one, range(len(frames)))


def _detailed(photo: PhotoTexture, raster: Raster, trust: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 of one frame, whose view trusts vertices by `trust` [N]."""
    shown, weight = _look_up(photo, raster, trust)
    if weight.max() < LEAST:
        return frame
    picture = frame / np.float32(255)
    weight = weight[..., None]
    off = weight * (shown - picture)
    alike = 1 - smoothstep(np.abs(_mean(off, weight, AROUND * len(frame))).max(-1, keepdims=True), *UNLIKE)
    off, weight = alike * off, alike * weight
    mixed = picture + off - weight * _mean(off, weight, MEAN * len(frame))
    return (255 * mixed + 0.5).clip(0, 255).astype(np.uint8)


def _mean(values: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """[H, W, C] mean around each pixel of what is weighed by `weight` [H, W, 1]: `values` are the products."""
    around = gaussian_filter(np.concatenate([values, weight], axis=-1), (sigma, sigma, 0), mode="constant", truncate=3)
    return around[..., :-1] / np.maximum(around[..., -1:], LEAST)


def _look_up(photo: PhotoTexture, raster: Raster, trust: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the photo shows of each pixel's surface, [H, W, 3], and how far that is it, [H, W] in [0, 1]."""
    shape = raster.face.shape
    values = np.column_stack([photo.places, trust, vertices_of(photo.head, EYES)])
    hit = raster.face >= 0
    hit[hit] = _mix(photo.head, raster, trust[:, None], hit)[:, 0] > LEAST
    colours, weight = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)
    if not hit.any():
        return colours, weight
    column, row, depth, trusted, eye = _mix(photo.head, raster, values.astype(np.float32), hit).T
    place = np.stack([row, column])
    shown, eyes, surface = (
        map_coordinates(array, place * len(array) - 0.5, order=1, mode="constant")
        for array in (photo.trust, photo.eye, photo.depth)
    )
    beside = smoothstep(_distance(_outline(raster.face, raster.depth))[hit], *BESIDE)
    weight[hit] = (
        trusted
        * shown
        * beside
        * (1 - smoothstep(depth - surface, *BEHIND))
        * (1 - smoothstep(np.abs(eyes - (eye > 0.5)), 0.25, 0.75))
    )
    for channel, spline in enumerate(photo.splines):
        at = place * len(spline) - 0.5
        colours[hit, channel] = map_coordinates(spline, at, order=3, mode="nearest", prefilter=False)
    return colours, weight


def _outline(face: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """[H, W] bool: off the rig, or beside a step in its depth."""
    near = np.where(face >= 0, depth, 0.0)
    steps = maximum_filter(near, 3) - minimum_filter(near, 3) > STEP
    return steps | (face < 0)


def _distance(away: np.ndarray) -> np.ndarray:
    """[H, W] pixels to the nearest True."""
    return distance_transform_edt(~away) if away.any() else np.full(away.shape, np.inf)


def _facing(camera: Camera, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """[N] cosine between normals [N, 3] and the direction to the camera."""
    towards = np.asarray(centre(camera), np.float32) - vertices
    return (normals * towards).sum(1) / np.maximum(np.linalg.norm(towards, axis=1), 1e-9)


def _to_vertices(head: HeadModel) -> sparse.csr_array:
    """[N, T]: means over the triangles of each vertex."""
    faces = np.asarray(head.faces)
    triangles = np.repeat(np.arange(len(faces)), 3)
    links = sparse.csr_array((np.ones(3 * len(faces)), (faces.reshape(-1), triangles)), (head.vertex_count, len(faces)))
    return links.multiply(1 / np.maximum(links.sum(1), 1)[:, None]).tocsr().astype(np.float32)


def _edges(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """[T, 3] two edges of each triangle in its own plane, the first along x: (length, x of the second, y of it)."""
    a, b, c = (vertices[np.asarray(head.faces)[:, corner]].astype(np.float64) for corner in range(3))
    length = np.maximum(np.linalg.norm(b - a, axis=1), 1e-9)
    along = ((b - a) * (c - a)).sum(1) / length
    across = np.sqrt(np.maximum(((c - a) ** 2).sum(1) - along**2, 1e-18))
    return np.stack([length, along, across], axis=1)


def _stretch(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[T] how many times longer or shorter a triangle with edges `after` is than `before`, [T, 3] each, where most.

    The larger of the first singular value of the map of one to the other and of the inverse of the second.
    """
    a = after[:, 0] / before[:, 0]  # the map is upper triangular: (a, b), (0, d)
    b = (after[:, 1] - a * before[:, 1]) / before[:, 2]
    d = after[:, 2] / before[:, 2]
    total, difference = np.hypot(a + d, b), np.hypot(a - d, b)
    return np.maximum((total + difference) / 2, 2 / np.maximum(total - difference, 1e-6))


def _mix(head: HeadModel, raster: Raster, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[M, A] values of vertices [N, A] at the M pixels of `where` [H, W], all of them on the rig."""
    return on_pixels(head.faces, np.asarray(raster.face)[where], np.asarray(raster.barycentric)[where], values)


def _paint(head: HeadModel, raster: Raster, values: np.ndarray) -> np.ndarray:
    """[H, W, A] values of vertices [N, A] as a picture shows them; 0 off the rig."""
    where = np.asarray(raster.face) >= 0
    painted = np.zeros((*where.shape, values.shape[1]), np.float32)
    painted[where] = _mix(head, raster, values, where)
    return painted
