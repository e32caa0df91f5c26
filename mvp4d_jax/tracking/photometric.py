"""A rig's fit made finer by the pictures: where the head lies right, all views see one colour at each point of it.

Detectors put landmarks some millimetres beside where the head has them, by another vector for every person. The face's
points are projected into all views that they face and in which nothing of the head hides them; what their colours
differ from each other's mean is minimised by Gauss-Newton over identity, pose and expression, from blurred pictures to
sharp ones, with the landmarks held loosely. Points that hair covers, or that shine, lose their weight (Geman-McClure).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, centre, project, resize, to_camera
from mvp4d.core.cameras.crops import head_vertices
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.progress import progress
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking.banded import band
from mvp4d_jax.tracking.overlay import vertex_normals
from mvp4d_jax.tracking.problem import Layout, SolveConfig, linearise, motion_of, robust

Array = Any
Pictures = Callable[[], Iterable[Sequence[np.ndarray]]]  # begins the frames: V pictures uint8 [H, W, 3] of each
POINTS = 2000  # of the face, at most
MATCHED = 0.05  # cameras whose exposures differ by less are taken as they are
KEYFRAMES = 4  # that the identity is fitted on
FRONT = 0.25  # the face is what lies further in front than this, from the ears (0) to the tip of the nose (1)
FACING = 0.3, 0.7  # cosine between skin and camera from which a point counts, and counts in full
DEPTH_SIDE, DEPTH_SLACK = 192, 0.003  # pixels of the depth maps that tell what is hidden; metres
NOISE, OUTLIER = 0.02, 0.04  # of colours in [0, 1]: standard deviation, and what counts a quarter
LOOSE = 5.0  # how much wider than in a fit by landmarks alone their standard deviation is
# Blur over the face box, iterations, and how many points of a view count as measured by themselves.
LEVELS = ((0.028, 5, 50.0), (0.014, 6, 67.0), (0.007, 12, 100.0))
AFTER = (
    (0.014, 3, 67.0),
    (0.007, 6, 100.0),
)  # of the other frames, which begin where the first ones' mean change leads


@dataclasses.dataclass(frozen=True)
class Refiner:
    """What does not change from frame to frame. V views, N points."""

    head: HeadModel
    surface: HeadModel
    normals: np.ndarray  # [N, 3] at rest
    small: tuple  # what `landmark_rig` gives
    layout: Layout
    config: SolveConfig
    cameras: Camera  # [V]
    boxes: np.ndarray  # [V] side of the face box in pixels

    @classmethod
    def of(
        cls, head: HeadModel, small: tuple, layout: Layout, config: SolveConfig, cameras: Camera, boxes: np.ndarray
    ) -> Refiner:
        template, faces = np.asarray(head.template, np.float64), np.asarray(head.faces)
        marks = np.asarray(landmarks(head, np.asarray(head.template)))
        ears = marks[[1, 15], 2].mean()
        skin_only = np.asarray(head.face_parts) == 0
        inside = np.isin(np.arange(len(template)), faces[skin_only]) & ~np.isin(
            np.arange(len(template)), faces[~skin_only]
        )
        front = template[:, 2] > ears + FRONT * (marks[30, 2] - ears)
        keep = np.flatnonzero(inside & head_vertices(head) & front)
        if len(keep) > POINTS:
            keep = np.sort(np.random.default_rng(0).choice(keep, POINTS, replace=False))
        surface = dataclasses.replace(
            head,
            canonical=np.asarray(head.canonical)[keep],
            template=np.asarray(head.template)[keep],
            faces=np.zeros((1, 3), np.int32),
            shape_basis=np.asarray(head.shape_basis)[:, keep],
            expression_basis=np.asarray(head.expression_basis)[:, keep],
            pose_basis=np.asarray(head.pose_basis)[:, keep],
            skin_weights=np.asarray(head.skin_weights)[keep],
            landmark_faces=np.zeros(68, np.int32),
            face_parts=np.zeros(1, np.uint8),
            face_uvs=np.zeros((1, 3), np.int32),
        )
        return cls(head, surface, vertex_normals(template, faces)[keep], small, layout, config, cameras, boxes)

    def seen(self, shared: np.ndarray, frame: np.ndarray, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[V, N] how far each point counts in each view, 0 to 1; nothing where fewer than two views see it."""
        places = np.asarray(_places(np.float32(shared), np.float32(frame), self.surface, layout=self.layout)[0])
        turn = Rotation.from_rotvec(frame[self.layout.slices["rotation"]]).as_matrix()
        towards = centre(self.cameras)[:, None] - places
        cosine = (towards * (self.normals @ turn.T)).sum(-1) / np.linalg.norm(towards, axis=-1)
        weights = np.clip((cosine - FACING[0]) / (FACING[1] - FACING[0]), 0, 1)
        motion = jax.tree.map(np.asarray, motion_of(self.layout, np.float32(frame)[None]))
        vertices = np.asarray(skin(self.head, motion, np.float32(shared[:-1])))[0]
        for view in np.flatnonzero(weights.any(1)):
            weights[view] *= self._in_front(vertices, places, self.cameras[view], pictures[view].shape[:2])
        return weights * ((weights > 0.05).sum(0) >= 2)

    def _in_front(self, vertices: np.ndarray, places: np.ndarray, camera: Camera, size: tuple[int, int]) -> np.ndarray:
        """[N] whether nothing of the head lies between a place [N, 3] and the camera."""
        camera = resize(camera, (max(size), max(size)), (DEPTH_SIDE, DEPTH_SIDE))
        depth = np.asarray(rasterize(camera, vertices, self.head.faces, (DEPTH_SIDE, DEPTH_SIDE)).depth)
        depth = ndimage.maximum_filter(np.where(np.isfinite(depth), depth, 0.0), 3)
        pixels, own = project(camera, places)
        x, y = np.clip(np.int64(np.floor(pixels)), 0, DEPTH_SIDE - 1).T
        return own < depth[y, x] + DEPTH_SLACK

    def gains(self, pictures: Sequence[Sequence[np.ndarray]], shared: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """[V, 3] what each view's colours are to be multiplied by, so that all views have the same on the mean."""
        own, common = np.zeros((2, len(self.boxes), 3))
        for frame, views in zip(frames, pictures):
            weights = self.seen(shared, frame, views)  # [V, N]
            soft = [_blurred(picture, LEVELS[0][0] * box) for picture, box in zip(views, self.boxes)]
            places = _places(np.float32(shared), np.float32(frame), self.surface, layout=self.layout)[0]
            colours = np.stack([_sampled(*one)[0] for one in zip(soft, project(self.cameras, np.asarray(places))[0])])
            own += (weights[..., None] * colours).sum(1)
            common += (weights[..., None] * _mean(colours, weights)).sum(1)
        found = common / np.maximum(own, 1e-6)
        return np.where((np.abs(found - 1) < MATCHED) | (own == 0), 1.0, found)

    def descend(
        self,
        pictures: Sequence[Sequence[np.ndarray]],
        data: dict[str, np.ndarray],
        shared: np.ndarray,
        frames: np.ndarray,
        gains: np.ndarray,
        identity: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unknowns at the minimum of a few frames, and each frame's normal matrix [F, P, P].

        Args:
          gains: what `gains` gives; identity: whether it is an unknown; where not, the pose is known nearly.
        """
        shapes, size, count = self.layout.shapes, self.layout.frame_size, len(frames)
        blocks = np.zeros((count, size, size))
        for blur, iterations, independent in LEVELS if identity else AFTER:
            soft = [[_blurred(picture, blur * box) for picture, box in zip(views, self.boxes)] for views in pictures]
            seen = [self.seen(shared, frame, views) for frame, views in zip(frames, pictures)]
            for _ in range(iterations):
                normal, gradient = np.zeros((shapes + count * size,) * 2), np.zeros(shapes + count * size)
                for index in range(count):
                    rows = {name: value[index] for name, value in data.items()}
                    squared, slope = self._by_marks(rows, shared, frames[index])
                    more = self._by_colours(soft[index], seen[index], shared, frames[index], gains, independent)
                    squared, slope = squared + more[0], slope + more[1]
                    where = np.r_[:shapes, shapes + index * size : shapes + (index + 1) * size]
                    normal[np.ix_(where, where)] += squared
                    gradient[where] += slope
                    blocks[index] = squared[shapes:, shapes:]
                normal[:shapes, :shapes] += np.eye(shapes) / self.config.shape**2
                gradient[:shapes] += shared[:shapes] / self.config.shape**2
                free = np.arange(0 if identity else shapes, len(gradient))
                normal = normal[np.ix_(free, free)]
                change = np.zeros(len(gradient))
                change[free] = -np.linalg.solve(normal + 1e-4 * np.diag(np.diag(normal) + 1), gradient[free])
                shared = shared + np.append(change[:shapes], 0)
                frames = frames + change[shapes:].reshape(count, size)
        return shared, frames, blocks

    def _by_marks(
        self, data: dict[str, np.ndarray], shared: np.ndarray, frame: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix [S + P, S + P] and gradient of the landmarks and of the frame's priors."""
        one = {name: value[None] for name, value in data.items()}
        value, *by = linearise(
            *self.small, np.float32(shared), np.float32(frame)[None], one, layout=self.layout, config=self.config
        )
        soft = robust(np.asarray(value), data["points"].shape[0], self.config.outlier)[0]
        jacobian = np.concatenate([np.asarray(part[0]) for part in by], 1) * soft[:, None]
        jacobian = np.delete(jacobian, self.layout.shapes, axis=1).astype(np.float64)  # the focal length is known
        return jacobian.T @ jacobian, jacobian.T @ (np.asarray(value[0]) * soft)

    def _by_colours(
        self,
        pictures: Sequence[np.ndarray],
        seen: np.ndarray,
        shared: np.ndarray,
        frame: np.ndarray,
        gains: np.ndarray,
        independent: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix and gradient of what colours differ from their mean; robust weights are held."""
        places, jacobian = (
            np.asarray(part)
            for part in _places(np.float32(shared), np.float32(frame), self.surface, layout=self.layout)
        )
        views = np.flatnonzero(seen.any(1))
        if not len(views):
            return np.zeros((jacobian.shape[-1],) * 2), np.zeros(jacobian.shape[-1])
        colours, slopes, weights = [], [], seen[views]
        for view in views:
            pixels, by_place = _projected(self.cameras[view], places)
            colour, by_pixel = _sampled(pictures[view], pixels)
            colours.append(colour * gains[view])
            slopes.append(by_pixel @ by_place * gains[view][:, None])
        colours, slopes = np.stack(colours), np.stack(slopes)  # [v, N, 3], [v, N, 3, 3]
        off = ((colours - _mean(colours, weights)) ** 2).sum(-1)
        weights = weights / (1 + off / OUTLIER**2) ** 2
        differences, slopes = colours - _mean(colours, weights), slopes - _mean(slopes, weights)
        weights = weights * independent / len(self.normals) / NOISE**2
        # Every point by itself meets the unknowns only through its place: 3 x 3 blocks.
        squared = np.einsum("vn,vnci,vncj->nij", weights, slopes, slopes, optimize=True)
        slope = np.einsum("vn,vnci,vnc->ni", weights, slopes, differences, optimize=True)
        flat = jacobian.reshape(-1, jacobian.shape[-1])  # [N 3, S + P]
        normal = flat.T @ (np.float32(squared) @ jacobian).reshape(flat.shape)
        return normal.astype(np.float64), (slope.reshape(-1) @ flat).astype(np.float64)


def refine(
    refiner: Refiner,
    data: dict[str, np.ndarray],
    smooth: np.ndarray | None,
    shared: np.ndarray,
    frames: np.ndarray,
    pictures: Pictures,
) -> tuple[np.ndarray, np.ndarray]:
    """The unknowns of a rig's problem, refined: identity on a few frames, then every frame by itself, then smoothed.

    Args:
      data: what `observations_of_rig` gives; smooth: what `acceleration_weights` does.
      shared, frames: where the fit by landmarks ended.
    """
    data = {**data, "spread": LOOSE * data["spread"]}
    data = {name: np.asarray(value, np.float32) for name, value in data.items()}
    chosen = np.unique(np.linspace(0, len(frames) - 1, KEYFRAMES).round().astype(int))
    kept = [views for index, views in enumerate(pictures()) if index in chosen]
    gains = refiner.gains(kept, shared, frames[chosen])
    shared, new, blocks = refiner.descend(
        kept, {name: value[chosen] for name, value in data.items()}, shared, frames[chosen], gains
    )
    if len(chosen) == len(frames):
        frames = new
    else:
        found = frames + (new - frames[chosen]).mean(0)
        blocks = np.zeros((len(frames), *blocks.shape[1:]))
        for index, views in enumerate(progress(pictures(), total=len(frames), what="refining", unit="frame")):
            one = slice(index, index + 1)
            rows = {name: value[one] for name, value in data.items()}
            _, found[one], blocks[one] = refiner.descend([views], rows, shared, found[one], gains, identity=False)
        frames = found
    return shared, frames if smooth is None else _smoothed(frames, blocks, smooth)


def _smoothed(frames: np.ndarray, blocks: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """The minimum of (x - frames)' blocks (x - frames) and the accelerations of x."""
    blocks = blocks + 1e-6 * np.eye(blocks.shape[1])
    right = np.einsum("fpq,fq->fp", blocks, frames).reshape(-1)
    factor = cholesky_banded(band(blocks, smooth**2), lower=True)
    return cho_solve_banded((factor, True), right).reshape(frames.shape)


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(picture.astype(np.float32) / 255, (sigma, sigma, 0))


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[N, ...] of the views' values [V, N, ...], weighted [V, N]."""
    weights = weights.reshape(*weights.shape, *(1,) * (values.ndim - 2))
    return (values * weights).sum(0) / (weights.sum(0) + 1e-6)


@functools.partial(jax.jit, static_argnames="layout")
def _places(shared: Array, frame: Array, surface: HeadModel, *, layout: Layout) -> tuple[Array, Array]:
    """The points in the world [N, 3] and their derivatives by identity and frame [N, 3, S + P]."""

    def places(unknowns: Array) -> tuple[Array, Array]:
        shape, frame = unknowns[: layout.shapes], unknowns[layout.shapes :]
        found = skin(surface, motion_of(layout, frame[None]), shape)[0]
        return found, found

    jacobian, found = jax.jacfwd(places, has_aux=True)(jnp.concatenate([shared[:-1], frame]))
    return found, jacobian


def _projected(camera: Camera, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] of places [N, 3], and their derivatives [N, 2, 3]."""
    x, y, z = to_camera(camera, places).T[..., None]
    right, down, forward = np.asarray(camera.world_to_camera)[:3, :3]
    along = [camera.fx * (right - x / z * forward) / z, camera.fy * (down - y / z * forward) / z]
    return project(camera, places)[0], np.stack(along, 1)


def _sampled(picture: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N, 3] at pixels [N, 2], bilinear, and their derivatives [N, 3, 2]; those of the border beyond it."""
    limit = np.array([picture.shape[1], picture.shape[0]]) - 1.001
    place = np.clip(pixels - 0.5, 0, limit)
    corner = np.floor(place).astype(int)
    (a, b), (x, y) = (place - corner).T[..., None], corner.T
    first, second = picture[y, x], picture[y, x + 1]
    third, fourth = picture[y + 1, x], picture[y + 1, x + 1]
    top, bottom = (1 - a) * first + a * second, (1 - a) * third + a * fourth
    across = (1 - b) * (second - first) + b * (fourth - third)
    return (1 - b) * top + b * bottom, np.stack([across, bottom - top], -1)
