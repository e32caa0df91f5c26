"""The least-squares problem of a track: unknowns, residuals, priors, and the damped Gauss-Newton step.

Unknowns: identity and focal length, shared by all frames, and per frame the head's rotation and translation, the
expression, the jaw (of heads without ARKit's jaw expressions) and the eyes; of photos, each its own focal length too.
The residuals are landmark distances in pixels over their standard deviation, the priors' standard scores and, in time,
accelerations. A frame is seen by one camera, whose focal length is an unknown, or by V cameras that are known. Each
frame's block is linearised by JAX; frames meet only in the shared unknowns and the accelerations, so that the normal
equations are a banded matrix with a border: a banded Cholesky factor and a Schur complement solve them exactly, in time
linear in F.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve, cho_solve_banded, cholesky_banded

from mvp4d.core.cameras.camera import FIELDS, Camera, project
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking.banded import band, second_differences_transposed
from mvp4d_jax.tracking.observations import WEIGHTS

Array = Any
UP = np.diag([1.0, -1.0, -1.0, 1.0])  # the tracking camera: at the origin, looking along -z of our world, y up


@dataclasses.dataclass(frozen=True)
class SolveConfig:
    """Standard deviations of measurements and priors; our choice, not published anywhere.

    Attributes:
      landmark: of a landmark, as a fraction of the face box; `outlier` standard deviations count half.
      focal: prior focal length over the longer image side (2.66 is a vertical field of about 21 degrees, a portrait
        lens) and the standard deviation of its logarithm.
      zoom: standard deviation of a photo's log focal length from that of the photos together.
      shape, expression, jaw, eyes, vergence: of coefficients and, in radians, joint angles; `vergence` is the
        difference between the eyes.
      rare: of expressions that hardly anybody makes for a photo (`RARE`).
      bound: how hard ARKit expressions are held in [0, 1]; they are clipped there in the end.
      accelerations: per frame squared at 25 frames a second, of rotation (radians), translation (metres), expression,
        jaw and eyes (radians).
      iterations: of Gauss-Newton with everything free, after `pose_iterations` with the pose alone.
      shape_count: identity modes used, at most.
    """

    landmark: float = 0.012
    outlier: float = 4.0
    focal: float = 2.66
    focal_spread: float = 0.25
    zoom: float = 0.15
    shape: float = 1.0
    expression: float = 0.35
    rare: float = 0.35
    jaw: float = 0.15
    eyes: float = 0.25
    vergence: float = 0.05
    bound: float = 0.02
    accelerations: tuple[float, float, float, float, float] = (0.012, 0.002, 0.08, 0.02, 0.06)
    iterations: int = 40
    pose_iterations: int = 15
    shape_count: int = 150


# Told from a few landmarks these and the identity look alike.
RARE = ("cheekPuff", "noseSneer", "jawForward", "jawLeft", "jawRight", "mouthLeft", "mouthRight", "tongueOut")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each unknown lies: shared [S + 1] = shape, log of the focal length over the longer image side; frame [P] =
    rotation, translation, expression, jaw, eyes (pitch and yaw of left and right), zoom (what a photo's log focal
    length has beyond the shared one)."""

    shapes: int
    expressions: int
    jaw: bool
    bounded: bool
    zoom: bool = False

    @property
    def slices(self) -> dict[str, slice]:
        ends = np.cumsum([0, 3, 3, self.expressions, 3 if self.jaw else 0, 4, 1 if self.zoom else 0])
        return {
            name: slice(int(a), int(b))
            for name, a, b in zip(("rotation", "translation", "expression", "jaw", "eyes", "zoom"), ends[:-1], ends[1:])
        }

    @property
    def frame_size(self) -> int:
        return self.slices["zoom"].stop

    @classmethod
    def of(cls, head: HeadModel, config: SolveConfig, zoom: bool = False) -> Layout:
        """What is unknown of a head; `zoom` for photos."""
        known = set(head.expression_names) & set(ARKIT_NAMES)
        jaw = "jaw" in head.joint_names and "jawOpen" not in known
        shapes = min(head.shape_count, config.shape_count)
        return cls(shapes, head.expression_count, jaw, len(known) >= 40, zoom)


class Problem:
    """The least-squares problem of one track."""

    def __init__(
        self, small: tuple, layout: Layout, config: SolveConfig, data: dict[str, np.ndarray], smooth: np.ndarray | None
    ):
        self.layout, self.config, self.data, self.small = layout, config, data, small
        self._smooth = smooth  # [P] weights of second differences in time; None where no time connects the frames
        self._log_focal = float(np.log(config.focal))
        self._shared_spread = np.append(np.full(layout.shapes, config.shape), config.focal_spread)

    def step(
        self, shared: np.ndarray, frames: np.ndarray, damping: float, pose_only: bool
    ) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """One damped Gauss-Newton step; the old unknowns and a larger damping where the cost would rise."""
        value, by_shared, by_frame = self._chunks(linearise, shared, frames)
        weights = robust(value, self.data["points"].shape[1], self.config.outlier)  # [F, R]
        if pose_only:
            by_shared = np.zeros_like(by_shared)
            by_frame = by_frame.copy()
            by_frame[..., self.layout.slices["translation"].stop :] = 0
        cost = self._cost(value, weights, shared, frames)
        change = self._solve(
            value * weights,
            by_shared * weights[..., None],
            by_frame * weights[..., None],
            shared,
            frames,
            damping,
            pose_only,
        )
        new_shared, new_frames = shared + change[0], frames + change[1]
        new_value = self._chunks(values, new_shared, new_frames)
        new_cost = self._cost(new_value, weights, new_shared, new_frames)
        if not new_cost < cost:
            return shared, frames, min(damping * 10, 1e8), damping >= 1e6
        return new_shared, new_frames, max(damping / 5, 1e-7), (cost - new_cost) < 1e-5 * cost

    def _chunks(self, function: Callable, shared: np.ndarray, frames: np.ndarray) -> Any:
        """Runs a vmapped function over frames in chunks of one size: bounded memory, one compilation for all videos."""
        count = len(frames)
        size = min(count, 16) if self._smooth is None else 16
        starts = range(0, count, size)
        index = np.minimum(np.arange(len(starts) * size), count - 1).reshape(-1, size)
        parts = [
            function(
                *self.small,
                shared,
                frames[rows],
                {name: item[rows] for name, item in self.data.items()},
                layout=self.layout,
                config=self.config,
            )
            for rows in index
        ]
        return jax.tree.map(lambda *items: np.concatenate(items)[:count].astype(np.float64), *parts)

    def _cost(self, value: np.ndarray, weights: np.ndarray, shared: np.ndarray, frames: np.ndarray) -> float:
        total = ((value * weights) ** 2).sum() + (self._shared_prior(shared) ** 2).sum()
        if self._smooth is not None:
            total += ((np.diff(frames, 2, axis=0) * self._smooth) ** 2).sum()
        return float(total)

    def _shared_prior(self, shared: np.ndarray) -> np.ndarray:
        centre = np.zeros_like(shared)
        centre[-1] = self._log_focal
        return (shared - centre) / self._shared_spread

    def _solve(
        self,
        value: np.ndarray,
        by_shared: np.ndarray,
        by_frame: np.ndarray,
        shared: np.ndarray,
        frames: np.ndarray,
        damping: float,
        pose_only: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        count, size = frames.shape
        turned = by_frame.transpose(0, 2, 1)
        blocks = turned @ by_frame  # [F, P, P]
        border = (turned @ by_shared).reshape(count * size, -1)  # [F P, S + 1]
        gradient = (turned @ value[..., None])[..., 0]  # [F, P]
        stacked = by_shared.reshape(-1, by_shared.shape[-1])  # [F R, S + 1]
        corner = stacked.T @ stacked + np.diag(self._shared_spread**-2.0)
        corner_gradient = stacked.T @ value.reshape(-1) + self._shared_prior(shared) / self._shared_spread
        if self._smooth is not None:
            gradient = gradient + second_differences_transposed(np.diff(frames, 2, axis=0) * self._smooth**2)
        diagonal = np.einsum("fpp->fp", blocks)
        diagonal += damping * (diagonal + 1.0)  # a view: this damps `blocks`
        corner += damping * np.diag(np.diag(corner))
        if pose_only:
            fixed = slice(self.layout.slices["translation"].stop, None)
            gradient[:, fixed], corner_gradient = 0, np.zeros_like(corner_gradient)
        factor = cholesky_banded(band(blocks, None if self._smooth is None else self._smooth**2), lower=True)
        right = np.concatenate([border, gradient.reshape(-1, 1)], axis=1)
        solved = cho_solve_banded((factor, True), right)
        schur = corner - border.T @ solved[:, :-1]
        shared_step = -cho_solve(cho_factor(schur), corner_gradient - border.T @ solved[:, -1])
        frame_step = -(solved[:, -1] + solved[:, :-1] @ shared_step)
        return shared_step, frame_step.reshape(count, size)


def minimise(
    problem: Problem, shared: np.ndarray, frames: np.ndarray, report: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The unknowns at the minimum: the pose first, then everything. `report` is called with (step, of how many)."""
    config, damping = problem.config, 1e-3
    total = config.pose_iterations + config.iterations
    for iteration in range(total):
        if report:
            report(iteration, total)
        if iteration == config.pose_iterations:
            damping = 1e-3
        shared, frames, damping, done = problem.step(shared, frames, damping, iteration < config.pose_iterations)
        if done and iteration > config.pose_iterations + 5:
            break
    if report:
        report(total, total)
    return shared, frames


@functools.partial(jax.jit, static_argnames=("layout", "config"))
def values(
    rig: HeadModel,
    iris: Array,
    shared: Array,
    frames: Array,
    data: dict[str, Array],
    *,
    layout: Layout,
    config: SolveConfig,
) -> Array:
    """Residuals [F, R]."""
    return jax.vmap(lambda frame, seen: frame_residuals(rig, iris, layout, config, shared, frame, seen))(frames, data)


@functools.partial(jax.jit, static_argnames=("layout", "config"))
def linearise(
    rig: HeadModel,
    iris: Array,
    shared: Array,
    frames: Array,
    data: dict[str, Array],
    *,
    layout: Layout,
    config: SolveConfig,
) -> tuple[Array, Array, Array]:
    """Residuals [F, R] and their derivatives [F, R, S + 1] and [F, R, P]."""

    def one(frame: Array, seen: dict[str, Array]) -> tuple[Array, Array, Array]:
        def residuals(vector: Array) -> tuple[Array, Array]:
            value = frame_residuals(rig, iris, layout, config, vector[: shared.size], vector[shared.size :], seen)
            return value, value

        derivative, value = jax.jacfwd(residuals, has_aux=True)(jnp.concatenate([shared, frame]))
        return value, derivative[:, : shared.size], derivative[:, shared.size :]

    return jax.vmap(one)(frames, data)


def robust(value: Array, views: int, outlier: float, xp: Any = np) -> Array:
    """Root weights [F, R] of iterated reweighting: Geman-McClure on landmarks of V views, one elsewhere."""
    measured = 2 * len(WEIGHTS) * views
    squared = (value[:, :measured] ** 2).reshape(len(value), -1, 2).sum(-1)
    soft = xp.repeat(1 / (1 + squared / outlier**2), 2, axis=1)
    return xp.concatenate([soft, xp.ones_like(value[:, measured:])], axis=1)


def frame_residuals(
    rig: HeadModel,
    iris: Array,
    layout: Layout,
    config: SolveConfig,
    shared: Array,
    frame: Array,
    data: dict[str, Array],
) -> Array:
    """[R] of one frame: V x 68 landmarks x 2, V x irises 2 x 2, expression prior and bounds, jaw, eyes, zoom."""
    points, centres = _project(rig, iris, layout, data, shared, frame)
    spread = data["spread"][:, None, None]
    part = {name: frame[where] for name, where in layout.slices.items()}
    rows = [
        ((points - data["points"]) * data["weights"][..., None] / spread).reshape(-1),
        ((centres - data["iris"]) * data["iris_weights"][..., None] / spread).reshape(-1),
        part["expression"] / expression_spread(rig.expression_names, config),
    ]
    if layout.bounded:
        outside = jnp.minimum(part["expression"], 0) + jnp.maximum(part["expression"] - 1, 0)
        rows.append(outside / config.bound)
    if layout.jaw:
        # A jaw opens (turns about +x), hardly closes beyond rest, and slides little.
        rows += [
            part["jaw"] / (config.jaw * jnp.array([1.0, 0.3, 0.1])),
            jnp.minimum(part["jaw"][:1], 0) / config.bound,
        ]
    eyes = part["eyes"].reshape(2, 2)
    rows += [part["eyes"] / config.eyes, (eyes[0] - eyes[1]) / config.vergence, part["zoom"] / config.zoom]
    return jnp.concatenate(rows)


def expression_spread(names: Sequence[str], config: SolveConfig) -> np.ndarray:
    """[E] standard deviations of the expressions of these names."""
    rare = [name.startswith(RARE) for name in names]
    return np.where(rare, config.rare, config.expression).astype(np.float32)


def _project(
    rig: HeadModel, iris: Array, layout: Layout, data: dict[str, Array], shared: Array, frame: Array
) -> tuple[Array, Array]:
    """Pixels of the 68 landmarks [V, 68, 2] and of the irises [V, 2, 2]."""
    motion, shape = motion_of(layout, frame[None]), shared[:-1]
    vertices = skin(rig, motion, shape)  # [1, n, 3]
    points = landmarks(rig, vertices)[0]
    both = jnp.concatenate([points, vertices[0, iris]])
    if "fx" in data:  # a rig
        pixels, _ = project(Camera(*(data[name] for name in FIELDS)), both)
    else:
        size = data["image_size"]
        pixels, _ = project(_camera(focal_of(layout, size, shared, frame), size), both)
        pixels = pixels[None]
    return pixels[:, : len(WEIGHTS)], pixels[:, len(WEIGHTS) :]


def focal_of(layout: Layout, image_size: Array, shared: Array, frame: Array) -> Array:
    """Focal length in pixels of one frame."""
    return jnp.max(jnp.asarray(image_size)) * jnp.exp(shared[-1] + frame[layout.slices["zoom"]].sum())


def _camera(focal: Array, image_size: Array) -> Camera:
    return Camera(jnp.asarray(UP, jnp.float32), focal, focal, image_size[1] / 2, image_size[0] / 2)


def motion_of(layout: Layout, frames: Array, fps: float = 25.0) -> Motion:
    part = {name: frames[:, where] for name, where in layout.slices.items()}
    zero = jnp.zeros_like(part["rotation"])
    eyes = part["eyes"].reshape(-1, 2, 2)
    eyes = jnp.concatenate([eyes, jnp.zeros_like(eyes[..., :1])], axis=-1)  # pitch, yaw, no roll
    return Motion(
        part["expression"], part["rotation"], part["translation"], zero, part["jaw"] if layout.jaw else zero, eyes, fps
    )


def landmark_rig(head: HeadModel) -> tuple[HeadModel, np.ndarray]:
    """The head with no vertices but those the landmarks and the irises need, and the irises' vertices [2] in it.

    The iris is the vertex of each eyeball that lies furthest forward at rest.
    """
    corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)]  # [68, 3]
    template, weights = np.asarray(head.template), np.asarray(head.skin_weights)
    irises = []
    for name in ("left_eye", "right_eye"):
        owned = weights[:, head.joint_names.index(name)] > 0.5 if name in head.joint_names else np.zeros(0, bool)
        rows = np.flatnonzero(owned)
        irises.append(rows[np.argmax(template[rows, 2])] if len(rows) else corners[0, 0])
    keep, inverse = np.unique(np.concatenate([corners.reshape(-1), irises]), return_inverse=True)
    faces = inverse[: corners.size].reshape(-1, 3).astype(np.int32)
    small = head.with_vertices(keep, faces, np.arange(len(faces), dtype=np.int32))
    return small, inverse[corners.size :]


def acceleration_weights(layout: Layout, config: SolveConfig, fps: float) -> np.ndarray:
    """[P] one over the standard deviation of second differences; at fewer frames a second they may be larger."""
    scale = (25.0 / fps) ** 2
    weights = np.zeros(layout.frame_size)
    for spread, where in zip(config.accelerations, list(layout.slices.values())[:5]):
        weights[where] = 1 / (spread * scale)
    return weights


@functools.partial(jax.jit, static_argnames="layout")
def draw(rig: HeadModel, iris: Array, shared: Array, frames: Array, data: dict[str, Array], *, layout: Layout) -> Array:
    """[F, V, 68, 2] pixels of the landmarks."""
    return jax.vmap(lambda frame, seen: _project(rig, iris, layout, seen, shared, frame)[0])(frames, data)
