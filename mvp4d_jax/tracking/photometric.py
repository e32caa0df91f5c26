"""A rig's fit made finer by the pictures: where the head lies right, all views see one colour at each point of it.

Detectors put landmarks some millimetres beside where the head has them, by another vector for every person. The points
of face, ears and neck are projected into all views that they face and in which nothing of the head hides them; what
their colours differ from each other's mean is minimised by Gauss-Newton over identity, pose and expression. Colours are
blurred along the surface, first widely: so blurred, two views of a place see the same, however they look at it, and
nothing of what lies beside it; at last hardly, because clean skin agrees to half a per cent. Only skin and lips count,
away from what moves before them as a camera moves: hair (brows' too), lashes, eyes, teeth and nearer parts of the head.
Where along the skin a point lies colours do not tell: landmarks do that have a place on it (eyes, nostrils, mouth).
Where skin ends before a plain background, the head's outline is held to that line (`outline`). What shines loses its
weight (Geman-McClure).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from scipy import ndimage
from scipy.linalg import cho_solve_banded, cholesky_banded

from mvp4d.core.cameras.camera import Camera, centre, project, resize
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.progress import progress
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.tracking.banded import band
from mvp4d_jax.tracking.outline import Contour, Person, Skin, beyond, contour, projected, sampled, trust
from mvp4d_jax.tracking.problem import Layout, SolveConfig, linearise, motion_of, robust
from mvp4d_jax.tracking.skin_points import SkinPoints

Pictures = Callable[[], Iterable[Sequence[np.ndarray]]]  # begins the frames: V pictures uint8 [H, W, 3] of each
MATCHED, LITTLE = 0.05, 0.25  # exposures that differ by less are taken as they are; so are those of views that see less
EXPOSED, STRANGE = 0.02, 0.1  # blur for exposures over the face box; colours that differ by this count a quarter
FEWEST = 30  # colours of cheeks and nose that tell a person's skin
KEYFRAMES = 4  # that the identity is fitted on
FACING = 0.1, 0.4  # cosine between skin and camera from which a point counts, and counts in full
DEPTH_SIDE, DEPTH_SLACK = 192, 0.003  # pixels of the depth maps that tell what is hidden; metres
EDGE = 0.006, 0.015  # metres by which what lies beside a point in a picture may be nearer, and further
BLUR = 0.003  # of pictures, over the face box
NOISE = 0.02  # standard deviation of colours in [0, 1]
LINE = 0.015  # standard deviation of the person's line over the face box; neighbouring points of it err alike
LOOSE = 2.0  # how much less sure landmarks are than in a fit by them alone
VAGUE = (
    slice(0, 31),
    0.3,
)  # those that have no place along the skin, of jaw, brows and the nose's ridge; what they count
SHAPE = 0.8  # standard deviation of identity over that of a fit by landmarks alone
HELD = 3  # iterations through which visibility, derivatives and the outline's points are held
# Blur along the surface in metres; iterations; how many points of a view count as measured by themselves; and what
# counts a quarter, of colours and as distance of the person's line over the face box.
LEVELS = (
    (0.012, 6, 100.0, 0.04, 0.08),
    (0.006, 6, 150.0, 0.04, 0.04),
    (0.003, 6, 1000.0, 0.02, 0.025),
    (0.001, 12, 3000.0, 0.02, 0.025),
)
AFTER = tuple((blur, 6, *rest) for blur, _, *rest in LEVELS[2:])  # of the other frames, which begin near
Level = tuple[float, int, float, float, float]


@dataclasses.dataclass(frozen=True)
class View:
    """A picture in colours [0, 1], softened [H, W, 3], and who is in it; None where their skin is not known."""

    soft: np.ndarray
    person: Person | None


@dataclasses.dataclass(frozen=True)
class Look:
    """What does not change through a few iterations of a frame.

    Attributes:
      weights: [V, N] how far each point counts.
      jacobian: [N, 3, S + P] of the points by the unknowns.
      lines: of views with a line, the head's outline and how far its points count.
    """

    weights: np.ndarray
    jacobian: np.ndarray
    lines: dict[int, tuple[Contour, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Refiner:
    """What does not change from frame to frame. V views, N points."""

    head: HeadModel
    points: SkinPoints
    small: tuple  # what `landmark_rig` gives
    layout: Layout
    config: SolveConfig
    cameras: Camera  # [V]
    boxes: np.ndarray  # [V] side of the face box in pixels

    @classmethod
    def of(
        cls, head: HeadModel, small: tuple, layout: Layout, config: SolveConfig, cameras: Camera, boxes: np.ndarray
    ) -> Refiner:
        points = SkinPoints.of(head, [blur for blur, *_ in LEVELS])
        return cls(head, points, small, layout, config, cameras, boxes)

    def seen(
        self, shared: np.ndarray, frame: np.ndarray, sizes: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """[V, N] how far each point counts in each view, 0 to 1, nothing where fewer than two views see it; and depth
        maps [n, n] of the views, whose pictures are of `sizes` (H, W), 0 where the head is not."""
        places = self.places(shared, frame)
        normals = vertex_normals(places, self.points.triangles)
        towards = centre(self.cameras)[:, None] - places
        cosine = (towards * normals).sum(-1) / np.linalg.norm(towards, axis=-1)
        weights = np.clip((cosine - FACING[0]) / (FACING[1] - FACING[0]), 0, 1)
        motion = jax.tree.map(np.asarray, motion_of(self.layout, np.float32(frame)[None]))
        vertices = np.asarray(skin(self.head, motion, np.float32(shared[:-1])))[0]
        depths = []
        for view, size in enumerate(sizes):
            camera = resize(self.cameras[view], (max(size), max(size)), (DEPTH_SIDE, DEPTH_SIDE))
            depth = np.asarray(rasterize(camera, vertices, self.head.faces, (DEPTH_SIDE, DEPTH_SIDE)).depth)
            depth = np.where(np.isfinite(depth), depth, 0.0)
            pixels, own = project(camera, places)
            x, y = np.clip(np.int64(np.floor(pixels)), 0, DEPTH_SIDE - 1).T
            weights[view] *= own < ndimage.maximum_filter(depth, 3)[y, x] + DEPTH_SLACK
            depths.append(depth)
            filled = np.where(depth > 0, depth, np.inf)
            weights[view] *= own < ndimage.minimum_filter(filled, 3)[y, x] + EDGE[0]
            weights[view] *= own > ndimage.maximum_filter(filled, 3)[y, x] - EDGE[1]
        return weights * ((weights > 0.05).sum(0) >= 2), depths

    def places(self, shared: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """[N, 3] in the world."""
        return self.points.places(shared, frame, self.layout)

    def gains(self, pictures: Sequence[Sequence[np.ndarray]], shared: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """[V, 3] what each view's colours are to be multiplied by, so that all views have the same on the mean."""
        own, common, total = *np.zeros((2, len(self.boxes), 3)), np.zeros(len(self.boxes))
        for frame, views in zip(frames, pictures):
            weights = self.seen(shared, frame, [view.shape[:2] for view in views])[0] * self.points.cheeks
            soft = [_blurred(*one) for one in zip(views, EXPOSED * self.boxes)]
            colours = np.stack(self._colours(soft, shared, frame))
            off = ((colours - _mean(colours, weights)) ** 2).sum(-1)
            weights = weights / (1 + off / STRANGE**2) ** 2
            own += (weights[..., None] * colours).sum(1)
            common += (weights[..., None] * _mean(colours, weights)).sum(1)
            total += weights.sum(1)
        found = common / np.maximum(own, 1e-6)
        return np.where((np.abs(found - 1) < MATCHED) | (total < LITTLE * total.max())[:, None], 1.0, found)

    def _colours(self, soft: Sequence[np.ndarray], shared: np.ndarray, frame: np.ndarray) -> list[np.ndarray]:
        """[N, 3] of each view."""
        pixels = project(self.cameras, self.places(shared, frame))[0]
        return [sampled(*one)[0] for one in zip(soft, pixels)]

    def views(
        self, pictures: Sequence[np.ndarray], shared: np.ndarray, frame: np.ndarray, gains: np.ndarray
    ) -> list[View]:
        """A frame's pictures, prepared."""
        soft = [_blurred(*one) * gain.astype(np.float32) for *one, gain in zip(pictures, BLUR * self.boxes, gains)]
        weights = self.seen(shared, frame, [picture.shape[:2] for picture in pictures])[0]
        colours = np.stack(self._colours(soft, shared, frame))[(weights > 0.5) & self.points.cheeks]
        if len(colours) < FEWEST:
            return [View(picture, None) for picture in soft]
        known = Skin.of(colours)
        return [
            View(*one)
            for one in zip(
                soft,
                (Person.of(np.float32(p) / 255 * g, known, b) for p, g, b in zip(pictures, gains, self.boxes)),
            )
        ]

    def look(self, views: Sequence[View], shared: np.ndarray, frame: np.ndarray) -> Look:
        """What a few iterations of a frame hold."""
        weights, depths = self.seen(shared, frame, [view.soft.shape[:2] for view in views])
        jacobian = self.points.derivatives(shared, frame, self.layout)
        places = self.places(shared, frame)
        weights, normals, lines = weights * self.points.clear, vertex_normals(places, self.points.triangles), {}
        for index, view in enumerate(views):
            camera, person = self.cameras[index], view.person
            if person is not None:
                likeness = sampled(person.skin, project(camera, places)[0])[0][:, 0]
                weights[index] *= np.where(self.points.lips, 1.0, likeness)
            if person is not None and person.distance is not None:
                line = contour(places, normals, self.points.edges, camera, depths[index], max(view.soft.shape[:2]))
                lines[index] = line, trust(line, places, camera, person)
        return Look(np.float32(weights), jacobian, lines)

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
        prepared = [self.views(views, shared, frame, gains) for views, frame in zip(pictures, frames)]
        for level in LEVELS if identity else AFTER:
            for iteration in range(level[1]):
                if iteration % HELD == 0:
                    looks = [self.look(views, shared, frame) for views, frame in zip(prepared, frames)]
                normal, gradient = np.zeros((shapes + count * size,) * 2), np.zeros(shapes + count * size)
                for index in range(count):
                    rows = {name: value[index] for name, value in data.items()}
                    one = prepared[index], looks[index], self.places(shared, frames[index]), level
                    parts = (
                        self._by_marks(rows, shared, frames[index]),
                        self._by_colours(*one),
                        self._by_lines(*one),
                    )
                    squared, slope = (sum(part[kind] for part in parts) for kind in range(2))
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
        self, views: Sequence[View], look: Look, places: np.ndarray, level: Level
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix and gradient of what colours differ from their mean; robust weights are held."""
        blur, _, independent, outlier, _ = level
        use = np.flatnonzero((look.weights > 0.05).any(1))
        if not len(use):
            return np.zeros((look.jacobian.shape[-1],) * 2), np.zeros(look.jacobian.shape[-1])
        weights = look.weights[use]
        rows = []
        for view in use:
            pixels, by_place = projected(self.cameras[view], places)
            colours, by_pixel = sampled(views[view].soft, pixels)
            rows.append(np.concatenate([colours, (by_pixel @ by_place).reshape(-1, 9)], 1))
        rows = self.points.blurred(blur, np.float32(rows), weights)  # [v, N, 12]
        colours, slopes = rows[..., :3], rows[..., 3:].reshape(*rows.shape[:2], 3, 3)
        weights = weights * ((weights > 0.05).sum(0) >= 2)
        off = ((colours - _mean(colours, weights)) ** 2).sum(-1)
        weights = weights / (1 + off / outlier**2) ** 2
        differences, slopes = colours - _mean(colours, weights), slopes - _mean(slopes, weights)
        weights = weights * independent / len(places) / NOISE**2
        # Every point by itself meets the unknowns only through its place: 3 x 3 blocks.
        squared = np.einsum("vn,vnci,vncj->nij", weights, slopes, slopes, optimize=True)
        slope = np.einsum("vn,vnci,vnc->ni", weights, slopes, differences, optimize=True)
        flat = look.jacobian.reshape(-1, look.jacobian.shape[-1])  # [N 3, S + P]
        normal = flat.T @ (np.float32(squared) @ look.jacobian).reshape(flat.shape)
        return normal.astype(np.float64), (slope.reshape(-1) @ flat).astype(np.float64)

    def _by_lines(
        self, views: Sequence[View], look: Look, places: np.ndarray, level: Level
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix and gradient of how far the head's outline lies from the person's line."""
        unknowns = look.jacobian.shape[-1]
        normal, gradient = np.zeros((unknowns, unknowns)), np.zeros(unknowns)
        for view, (line, weights) in look.lines.items():
            box = self.boxes[view]
            off, by_place = beyond(line, places, self.cameras[view], views[view].person)
            weights = weights / (1 + (off / box / level[4]) ** 2) ** 2 / (LINE * box) ** 2
            rows = np.einsum("kc,kcj->kj", np.float32(by_place), line.between(look.jacobian))
            normal += (rows * weights[:, None]).T @ rows
            gradient += (weights * off) @ rows
        return normal, gradient


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
    weights = data["weights"].copy()
    weights[..., VAGUE[0]] *= VAGUE[1]
    data = {**data, "spread": LOOSE * data["spread"], "weights": weights}
    refiner = dataclasses.replace(
        refiner, config=dataclasses.replace(refiner.config, shape=SHAPE * refiner.config.shape)
    )
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
