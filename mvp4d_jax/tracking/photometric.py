"""A rig's fit made finer by the pictures: where the head lies right, all views see one colour at each point of it.

Detectors put landmarks some millimetres beside where the head has them, by another vector for every person. The face's
points are projected into all views that they face; what their colours differ from each other's mean is minimised by
Gauss-Newton over identity, pose and expression, from blurred pictures to sharp ones, with the landmarks held loosely.
Points that hair covers, or that shine, lose their weight (Geman-McClure).
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

from mvp4d.core.cameras.camera import FIELDS, Camera, centre, project
from mvp4d.core.cameras.crops import head_vertices
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.progress import progress
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking.banded import band
from mvp4d_jax.tracking.overlay import vertex_normals
from mvp4d_jax.tracking.problem import Layout, SolveConfig, linearise, motion_of, robust

Array = Any
Pictures = Callable[[], Iterable[Sequence[np.ndarray]]]  # begins the frames: V pictures uint8 [H, W, 3] of each
POINTS = 2000  # of the face, at most
MATCHED = 0.05  # cameras whose exposures differ by less are taken as they are
KEYFRAMES = 4  # that the identity is fitted on
FRONT = 0.3  # the face is what lies further in front than this, from the ears (0) to the tip of the nose (1)
FACING = 0.3, 0.7  # cosine between skin and camera from which a point counts, and counts in full
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
        ears = marks[[0, 16], 2].mean()
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
        return cls(surface, vertex_normals(template, faces)[keep], small, layout, config, cameras, boxes)

    def facing(self, frame: np.ndarray) -> np.ndarray:
        """[V, N] how far each point counts in each view, 0 to 1; nothing where fewer than two views see it."""
        part = self.layout.slices
        turn = Rotation.from_rotvec(frame[part["rotation"]]).as_matrix()
        places = np.asarray(self.surface.template, np.float64) @ turn.T + frame[part["translation"]]
        towards = centre(self.cameras)[:, None] - places
        cosine = (towards * (self.normals @ turn.T)).sum(-1) / np.linalg.norm(towards, axis=-1)
        weights = np.clip((cosine - FACING[0]) / (FACING[1] - FACING[0]), 0, 1)
        return weights * ((weights > 0.05).sum(0) >= 2)

    def gains(self, pictures: Sequence[Sequence[np.ndarray]], shared: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """[V, 3] what each view's colours are to be multiplied by, so that all views have the same on the mean."""
        facing = np.stack([self.facing(frame) for frame in frames])[..., None]  # [F, V, N, 1]
        soft = [
            [_blurred(picture, LEVELS[0][0] * box) for picture, box in zip(views, self.boxes)] for views in pictures
        ]
        colours = np.stack(
            [
                np.asarray(
                    _colours(
                        np.float32(shared), np.float32(frame), self.surface, self.cameras, seen, layout=self.layout
                    )
                )
                for frame, seen in zip(frames, soft)
            ]
        )  # [F, V, N, 3]
        means = np.stack([_mean(values, weights[..., 0]) for values, weights in zip(colours, facing)])[:, None]
        found = (facing * means).sum((0, 2)) / np.maximum((facing * colours).sum((0, 2)), 1e-6)
        return np.where((np.abs(found - 1) < MATCHED) | (facing.sum((0, 2)) == 0), 1.0, found)

    def descend(
        self,
        pictures: Sequence[Sequence[np.ndarray]],
        data: dict[str, np.ndarray],
        shared: np.ndarray,
        frames: np.ndarray,
        gains: np.ndarray,
        levels: Sequence[tuple[float, int, float]] = LEVELS,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unknowns at the minimum of a few frames, and each frame's normal matrix [F, P, P].

        Args:
          gains: what `gains` gives; levels: LEVELS, or AFTER where the identity is known and stays.
        """
        shapes, size, count = self.layout.shapes, self.layout.frame_size, len(frames)
        blocks = np.zeros((count, size, size))
        for blur, iterations, independent in levels:
            soft = [[_blurred(picture, blur * box) for picture, box in zip(views, self.boxes)] for views in pictures]
            for _ in range(iterations):
                normal, gradient = np.zeros((shapes + count * size,) * 2), np.zeros(shapes + count * size)
                for index in range(count):
                    rows = {name: value[index] for name, value in data.items()}
                    value, jacobian = self._residuals(soft[index], rows, shared, frames[index], gains, independent)
                    where = np.r_[:shapes, shapes + index * size : shapes + (index + 1) * size]
                    squared = jacobian.T @ jacobian
                    normal[np.ix_(where, where)] += squared
                    gradient[where] += jacobian.T @ value
                    blocks[index] = squared[shapes:, shapes:]
                normal[:shapes, :shapes] += np.eye(shapes) / self.config.shape**2
                gradient[:shapes] += shared[:shapes] / self.config.shape**2
                free = np.arange(0 if levels is LEVELS else shapes, len(gradient))
                normal = normal[np.ix_(free, free)]
                change = np.zeros(len(gradient))
                change[free] = -np.linalg.solve(normal + 1e-4 * np.diag(np.diag(normal) + 1), gradient[free])
                shared = shared + np.append(change[:shapes], 0)
                frames = frames + change[shapes:].reshape(count, size)
        return shared, frames, blocks

    def _residuals(
        self,
        pictures: Sequence[np.ndarray],
        data: dict[str, np.ndarray],
        shared: np.ndarray,
        frame: np.ndarray,
        gains: np.ndarray,
        independent: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colours' and landmarks' residuals [R], with their robust weights, and derivatives [R, S + P]."""
        one = {name: value[None] for name, value in data.items()}
        marks, *by = linearise(
            *self.small, np.float32(shared), np.float32(frame)[None], one, layout=self.layout, config=self.config
        )
        soft = robust(np.asarray(marks), data["points"].shape[0], self.config.outlier)[0]
        values = [np.asarray(marks[0]) * soft]
        jacobians = [np.concatenate([np.asarray(part[0]) for part in by], 1) * soft[:, None]]
        facing = self.facing(frame)
        views = np.flatnonzero(facing.any(1))
        if len(views):
            seen, weights, gain = [pictures[view] for view in views], facing[views], gains[views]
            arguments = np.float32(shared), np.float32(frame), self.surface, self.cameras[views], seen
            colours = np.asarray(_colours(*arguments, layout=self.layout)) * gain[:, None]  # [v, N, 3]
            off = ((colours - _mean(colours, weights)) ** 2).sum(-1)
            weights = weights / (1 + off / OUTLIER**2) ** 2
            scale = np.sqrt(weights * independent / len(self.normals)) / NOISE
            more = np.float32(weights), np.float32(gain), np.float32(scale)
            value, *by = _linearised(*arguments, *more, layout=self.layout)
            values.append(np.asarray(value))
            jacobians.append(np.concatenate([np.asarray(part) for part in by], 1))
        jacobian = np.delete(np.concatenate(jacobians), self.layout.shapes, axis=1)  # the focal length, which is known
        return np.concatenate(values).astype(np.float64), jacobian.astype(np.float64)


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
            _, found[one], blocks[one] = refiner.descend([views], rows, shared, found[one], gains, AFTER)
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


def _mean(colours: Array, weights: Array) -> Array:
    """[N, 3] of the views."""
    return (colours * weights[..., None]).sum(0) / (weights.sum(0) + 1e-6)[:, None]


@functools.partial(jax.jit, static_argnames="layout")
def _colours(
    shared: Array, frame: Array, surface: HeadModel, cameras: Camera, pictures: Sequence[Array], *, layout: Layout
) -> Array:
    """[V, N, 3] in [0, 1] of the points in each picture, bilinear."""
    places = skin(surface, motion_of(layout, frame[None]), shared[:-1])[0]
    cameras = Camera(*(jnp.asarray(getattr(cameras, name), jnp.float32) for name in FIELDS))
    pixels = project(cameras, places)[0]  # [V, N, 2]
    return jnp.stack([_sampled(picture, where) for picture, where in zip(pictures, pixels)])


def _sampled(picture: Array, pixels: Array) -> Array:
    limit = jnp.array([picture.shape[1], picture.shape[0]]) - 1.001
    place = jnp.clip(pixels - 0.5, 0, limit)
    corner = jnp.floor(place).astype(int)
    (a, b), (x, y) = (place - corner).T[..., None], corner.T
    top = (1 - a) * picture[y, x] + a * picture[y, x + 1]
    return (1 - b) * top + b * ((1 - a) * picture[y + 1, x] + a * picture[y + 1, x + 1])


@functools.partial(jax.jit, static_argnames="layout")
def _linearised(
    shared: Array,
    frame: Array,
    surface: HeadModel,
    cameras: Camera,
    pictures: Sequence[Array],
    weights: Array,
    gains: Array,
    scale: Array,
    *,
    layout: Layout,
) -> tuple[Array, Array, Array]:
    """Differences [V N 3] of the colours from their mean, and their derivatives."""

    def rows(shared: Array, frame: Array) -> tuple[Array, Array]:
        colours = _colours(shared, frame, surface, cameras, pictures, layout=layout) * gains[:, None]
        value = ((colours - _mean(colours, weights)) * scale[..., None]).reshape(-1)
        return value, value

    (by_shared, by_frame), value = jax.jacfwd(rows, argnums=(0, 1), has_aux=True)(shared, frame)
    return value, by_shared, by_frame
