"""The deformation net as blendshapes: what it does is close to linear in the expression."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from mvp4d.core.heads.motion import Motion
from mvp4d.core.progress import progress
from mvp4d_export.avatar import Avatar
from mvp4d_export.rig import Pose

RANDOM_POSES, MOTION_POSES = 96, 96  # that the fit sees, beside each expression alone
TEST_POSES = 48  # of the motions and of chance, that it does not see
RIDGE = 1e-3  # small against coefficients of about one: a coefficient that no pose uses stays zero


@dataclasses.dataclass(frozen=True)
class Baked:
    """Blendshapes of the P UV vertices in rest axes: vertices = template + features @ shapes, then skinning.

    Attributes:
      template: [P, 3] metres, float32.
      shapes: [S, P, 3] metres per feature, float32. Features: E expression coefficients, the jaw's axis-angle (3), and
        where the rig has pose correctives the entries of R - 1 of every joint but the root, row by row.
      error: metres (root mean square, 99th percentile) between net and shapes on poses that were not fitted; zeros
        without a net.
    """

    template: np.ndarray
    shapes: np.ndarray
    error: tuple[float, float]


@torch.no_grad()
def bake(avatar: Avatar, motions: Sequence[Motion]) -> Baked:
    """Rig and net as blendshapes, the net fitted by least squares on the motions, each expression alone and chance."""
    rig = avatar.rig
    parts = [rig.expression_basis, torch.zeros(3, *rig.template.shape), rig.pose_basis]
    template = avatar.gather(rig.template).numpy().copy()
    shapes = torch.cat([avatar.gather(part) for part in parts]).numpy().copy()
    if avatar.net is None:
        return Baked(template, shapes, (0.0, 0.0))
    seen, unseen = _poses(len(rig.expression_basis), motions)
    offsets = _offsets(avatar, np.concatenate([seen, unseen]))  # [F, P, 3]
    weights = _least_squares(seen, offsets[: len(seen)].reshape(len(seen), -1))
    guess = _with_one(unseen) @ weights
    distance = np.linalg.norm(offsets[len(seen) :] - guess.reshape(len(unseen), *template.shape), axis=-1)
    fitted = weights.reshape(-1, *template.shape).astype(np.float32)
    template += fitted[0]
    shapes[: len(fitted) - 1] += fitted[1:]
    return Baked(template, shapes, (float(np.sqrt((distance**2).mean())), float(np.percentile(distance, 99))))


def _poses(expressions: int, motions: Sequence[Motion]) -> tuple[np.ndarray, np.ndarray]:
    """Features [F, E + 3] (expression, jaw) to fit on, and others to test on."""
    rng = np.random.default_rng(0)
    alone = np.concatenate([np.zeros((1, expressions + 3)), np.eye(expressions + 3)])
    alone[-3:] *= 0.3  # radians
    chance = rng.random((RANDOM_POSES + TEST_POSES // 2, expressions + 3))
    chance *= rng.random(chance.shape) < rng.choice([0.05, 0.15, 0.4], (len(chance), 1))
    chance[:, -3:] *= (0.4, 0.1, 0.1)
    played = np.concatenate(
        [np.concatenate([motion.expression, motion.jaw], 1) for motion in motions] or [np.zeros((0, expressions + 3))]
    )
    picked = np.unique(np.linspace(0, len(played) - 1, MOTION_POSES).round().astype(int)) if len(played) else []
    rest = np.setdiff1d(np.arange(len(played)), picked)[:: max(1, len(played) // (TEST_POSES // 2))]
    return (
        np.concatenate([alone, chance[:RANDOM_POSES], played[picked]]),
        np.concatenate([chance[RANDOM_POSES:], played[rest]]),
    )


def _offsets(avatar: Avatar, features: np.ndarray) -> np.ndarray:
    """The net's offsets [F, P, 3] metres, float64."""
    values = torch.from_numpy(features.astype(np.float32))
    zero = torch.zeros(len(values), 3)
    pose = Pose(values[:, :-3], zero, zero, zero, values[:, -3:], torch.zeros(len(values), 2, 3))
    found = [
        avatar.offsets(pose[k : k + 1]).double().numpy()
        for k in progress(range(len(values)), what="baking the deformation", unit="pose")
    ]
    return np.stack(found)


def _with_one(features: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(features), 1)), features], 1)


def _least_squares(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights [1 + features, K] of a ridge regression; the first row is the constant."""
    design = _with_one(features)
    return np.linalg.solve(design.T @ design + RIDGE * np.eye(design.shape[1]), design.T @ targets)
