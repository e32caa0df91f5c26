"""Fitting a head to one frame of landmarks after another, without looking ahead.

The residuals are those of `solve`. Each frame's pose and expression start from the last frame's and take a few
Gauss-Newton steps. What a frame says about the unknowns that all frames share (identity, focal length) is kept as a
Gaussian: the frame's own unknowns are eliminated from its normal matrix, and the rest is added to the prior of the next
frame. After `learn` frames the shared unknowns stand fixed. A one-euro filter smooths what comes out.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.tracking.landmarks import Landmarks
from mvp4d_jax.tracking.observations import WEIGHTS, observations
from mvp4d_jax.tracking.problem import (
    Layout,
    SolveConfig,
    frame_residuals,
    landmark_rig,
    motion_of,
    robust,
)
from mvp4d_jax.tracking.solve import start

Array = Any


@dataclasses.dataclass(frozen=True)
class FollowConfig:
    """Our choices.

    Attributes:
      solve: of the residuals.
      learn: frames with a face that identity and focal length are learned from.
      lost: mean distance of landmarks over the face box from which a fit is none: the next frame begins anew.
      settle: most Gauss-Newton steps of the first frame, and of one after a gap; `steps` of any other.
      drift: standard deviation per root of a second of what is not in the landmarks: rotation (radians), translation
        (metres), expression, jaw and eyes (radians).
      cutoff: of the filter on a still face, hertz, in the same order; `speed` is what a change of one unit a second
        adds to it.
    """

    solve: SolveConfig = dataclasses.field(default_factory=SolveConfig)
    learn: int = 250
    lost: float = 0.08
    settle: int = 30
    steps: int = 4
    drift: tuple[float, float, float, float, float] = (1.0, 0.3, 2.0, 1.0, 2.0)
    cutoff: tuple[float, float, float, float, float] = (2.0, 1.5, 4.0, 3.0, 3.0)
    speed: tuple[float, float, float, float, float] = (12.0, 40.0, 10.0, 4.0, 8.0)


class _Lost(Exception):
    """There is no fit."""


class Follower:
    """One face, frame by frame."""

    def __init__(self, head: HeadModel, config: FollowConfig | None = None, focal: float | None = None):
        """
        Args:
          head: with 68 landmarks and shape modes.
          focal: focal length in pixels where it is known.
        """
        self.head, self.config, self.focal = head, config or FollowConfig(), focal
        self.layout = Layout.of(head, self.config.solve)
        self._small = landmark_rig(head)
        self._shared: np.ndarray | None = None  # [S + 1] identity, log of the focal length over the longer image side
        self._frame = np.zeros(self.layout.frame_size)  # [P] of the last frame, as solved
        self._filter = OneEuro(self._spread(self.config.cutoff), self._spread(self.config.speed))
        self._time: float | None = None  # of the last frame with a face
        self.seen = 0

    def step(self, landmarks: Landmarks, time: float) -> Motion:
        """Pose and expression of one more frame.

        Args:
          landmarks: one frame with a face.
          time: seconds, later than the last frame's.

        Returns:
          one frame, smoothed; translation from the tracking camera.
        """
        fresh = self._time is None or time - self._time > 1.0
        data = {name: item[0] for name, item in observations(landmarks, self.config.solve.landmark).items()}
        if self._shared is None:
            self._begin(max(landmarks.image_size))
        if fresh:
            focal = float(np.exp(self._shared[-1])) * max(landmarks.image_size)
            self._frame = start(self._small, self.layout, landmarks, focal)[0]
            self._filter.reset()
        learning = self.seen < self.config.learn
        drift = np.zeros(self.layout.frame_size)
        if not fresh:
            drift = 1 / (self._spread(self.config.drift) ** 2 * max(time - self._time, 1e-3))
        before = self._shared, self._frame
        try:
            self._solve(data, drift, learning, self.config.settle if fresh else self.config.steps, pose_first=fresh)
        except _Lost:  # the next frame begins anew
            self._shared, self._time = before[0], None
            return self._motion(self._filter.value if self._filter.value is not None else before[1])
        self._time, self.seen = time, self.seen + 1
        return self._motion(self._filter(self._frame, time))

    def compile(self) -> None:
        """Compiles what `step` needs, so that the first frame is not late."""
        other = Follower(self.head, self.config)
        rest = np.asarray(self.head.template, np.float64)
        corners = rest[np.asarray(self.head.faces)[np.asarray(self.head.landmark_faces)]]  # [68, 3, 3]
        points = corners.mean(1)[:, :2] * [1000, -1000] + 200
        for time in (0.0, 0.04):
            other.step(Landmarks(points[None], np.full((1, 2, 2), np.nan), (400, 400)), time)

    def _begin(self, side: int) -> None:
        """The prior of what all frames share."""
        config = self.config.solve
        spread = np.append(np.full(self.layout.shapes, config.shape), config.focal_spread)
        self._shared = np.append(np.zeros(self.layout.shapes), np.log(config.focal))
        if self.focal is not None:
            self._shared[-1], spread[-1] = np.log(self.focal / side), 1e-4
        self._mean, self._information = self._shared.copy(), np.diag(spread**-2.0)

    def _solve(self, data: dict[str, Array], drift: np.ndarray, learning: bool, most: int, pose_first: bool) -> None:
        """Gauss-Newton steps on the frame's unknowns and, while they are learned, the shared ones.

        Raises:
          _Lost: they lead nowhere.
        """
        start, damping = self._frame, 1e-4
        shares = len(self._shared) if learning else 0
        fixed = len(self._shared) - shares
        pose = self.layout.slices["translation"].stop
        for step in range(most):
            free = np.ones(shares + len(start), bool)
            if pose_first and step < most // 3:
                free[:shares], free[shares + pose :] = False, False
            normal, gradient, error = self._linearise(data)
            if not np.isfinite(normal).all():
                raise _Lost
            normal, gradient = normal[fixed:, fixed:], gradient[fixed:]
            normal[:shares, :shares] += self._information[:shares, :shares]
            gradient[:shares] += (self._information @ (self._shared - self._mean))[:shares]
            diagonal = np.diagonal(normal)
            normal[np.diag_indices_from(normal)] += np.append(np.zeros(shares), drift) + damping * (diagonal + 1.0)
            gradient[shares:] += drift * (self._frame - start)
            change = np.zeros(len(free))
            change[free] = -cho_solve(cho_factor(normal[np.ix_(free, free)]), gradient[free])
            self._shared = self._shared + np.append(change[:shares], np.zeros(fixed))
            self._frame = self._frame + change[shares:]
            if free.all() and np.abs(change[shares:]).max() < 1e-3:
                break
        if not error < self.config.lost:
            raise _Lost
        if learning:
            self._learn(normal, shares)

    def _learn(self, normal: np.ndarray, shares: int) -> None:
        """Adds what this frame says about the shared unknowns, its own being whatever fits best."""
        border = normal[:shares, shares:]
        left = border @ cho_solve(cho_factor(normal[shares:, shares:]), border.T)
        self._information = normal[:shares, :shares] - left  # the old information is in `normal` already
        self._mean = self._shared.copy()

    def _linearise(self, data: dict[str, Array]) -> tuple[np.ndarray, np.ndarray, float]:
        """Normal matrix and gradient of the shared and the frame's unknowns, and the mean distance of landmarks over
        the face box."""
        single = {name: np.asarray(item, np.float32) for name, item in data.items()}
        normal, gradient, distance = _normal_equations(
            *self._small,
            np.float32(self._shared),
            np.float32(self._frame),
            single,
            layout=self.layout,
            config=self.config.solve,
        )
        error = float(distance) * self.config.solve.landmark
        return np.array(normal, np.float64), np.array(gradient, np.float64), error

    def _spread(self, parts: tuple[float, ...]) -> np.ndarray:
        """[P] a number for rotation, translation, expression, jaw and eyes."""
        out = np.zeros(self.layout.frame_size)
        for value, where in zip(parts, list(self.layout.slices.values())[:5]):
            out[where] = value
        return out

    def _motion(self, frame: np.ndarray) -> Motion:
        frame = frame.copy()
        if self.layout.bounded:
            where = self.layout.slices["expression"]
            frame[where] = np.clip(frame[where], 0, 1)
        motion = motion_of(self.layout, np.float32(frame[None]))
        return jax.tree.map(np.asarray, motion)


class OneEuro:
    """The one-euro filter (Casiez, Roussel, Vogel 2012): a low pass whose cutoff rises with speed, for a vector."""

    def __init__(self, cutoff: np.ndarray, speed: np.ndarray, cutoff_of_speed: float = 1.0):
        """
        Args:
          cutoff: [P] hertz, at rest; speed: [P] what a change of one unit a second adds.
          cutoff_of_speed: hertz, of the low pass on the speed itself.

        `value` is the last one that came out, None before the first.
        """
        self.cutoff, self.speed, self.cutoff_of_speed = cutoff, speed, cutoff_of_speed
        self.reset()

    def reset(self) -> None:
        self.value: np.ndarray | None = None

    def __call__(self, value: np.ndarray, time: float) -> np.ndarray:
        """The filtered value [P]; `time` in seconds never goes back."""
        if self.value is None:
            self.value, self._slope, self._time = value.copy(), np.zeros_like(value), time
            return value.copy()
        step = max(time - self._time, 1e-6)
        slope = (value - self.value) / step
        self._slope = self._slope + _share(self.cutoff_of_speed, step) * (slope - self._slope)
        share = _share(self.cutoff + self.speed * np.abs(self._slope), step)
        self.value, self._time = self.value + share * (value - self.value), time
        return self.value.copy()


def _share(cutoff: Array, step: float) -> Array:
    """How much of a new value a first-order low pass takes."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


@functools.partial(jax.jit, static_argnames=("layout", "config"))
def _normal_equations(
    rig: HeadModel,
    iris: Array,
    shared: Array,
    frame: Array,
    data: dict[str, Array],
    *,
    layout: Layout,
    config: SolveConfig,
) -> tuple[Array, Array, Array]:
    """J'J and J'r of the weighted residuals, and the mean distance of landmarks in standard deviations. Products are
    made here because BLAS splits even small ones among threads, which wait for each other on a busy machine."""

    def residuals(vector: Array) -> tuple[Array, Array]:
        parts = vector[: shared.size], vector[shared.size :]
        value = frame_residuals(rig, iris, layout, config, *parts, data)
        return value, value

    jacobian, value = jax.jacfwd(residuals, has_aux=True)(jnp.concatenate([shared, frame]))
    points = value[: 2 * len(WEIGHTS)].reshape(-1, 2)
    distance = jnp.linalg.norm(points, axis=-1).sum() / WEIGHTS.sum()
    weights = robust(value[None], 1, config.outlier, jnp)[0]
    jacobian, value = jacobian * weights[:, None], value * weights
    return jnp.matmul(jacobian.T, jacobian, precision="highest"), jacobian.T @ value, distance
