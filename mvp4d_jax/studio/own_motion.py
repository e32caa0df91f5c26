"""How a person's face really moves, where it differs from what the head model makes of the same coefficients.

Nobody moves as a blendshape rig does: a smile has its own place, size and tilt, one side does more than the other,
tissue bulges where the rig has none, and two expressions together are not their sum. `own_motion` makes such a face
from an identity's number: only the filmed figure has it. The rig and the coefficients of a capture stay the plain head
model's, which then misses the true face by a millimetre or two, as the head model of a tracker does.

All terms are proportional to the rig's own displacement nearby, with factors that vary smoothly over the face: lips
that part in the rig part here, and `mouthClose`, which shares its draws with `jawOpen`, closes what that opens. Lids,
eyes and tongue are the rig's; teeth and gums take the jaw's gain and nothing else.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from mvp4d.core.heads.mesh import neighbour_mean
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.ramps import smoothstep
from mvp4d_jax.studio.traits import random_for

# Standard deviations at amount 1, as shares of the rig's own displacement.
GAIN, BEND, BULGE, GROWTH, MEETING = 0.18, 0.20, 0.15, 0.10, 0.15
COMMON = 0.85  # correlation of left and right: smiles differ by about a tenth from side to side
BEND_LENGTH, BULGE_LENGTH = 0.030, 0.014  # metres over which the factors vary
_JAW = ("jawOpen", "jawForward", "jawLeft", "jawRight", "mouthClose")  # bone leads: the flesh deviates less
_JAW_GAIN, _JAW_BEND = 0.5, 0.4
_INWARD = 0.2  # what is left of a deviation that would press lips against the teeth
_FLESH = ("skin", "lips", "nostrils", "mouth_inside")
_WAVES = 48
_MIRROR = np.array([-1.0, 1.0, 1.0])
# First and second expression of those that often meet; the second is what changes.
_MEETINGS = (
    ("jawOpen", "mouthSmileLeft"),
    ("jawOpen", "mouthSmileRight"),
    ("jawOpen", "mouthFunnel"),
    ("jawOpen", "mouthUpperUpLeft"),
    ("jawOpen", "mouthUpperUpRight"),
    ("jawOpen", "mouthStretchLeft"),
    ("jawOpen", "mouthStretchRight"),
    ("mouthSmileLeft", "cheekSquintLeft"),
    ("mouthSmileRight", "cheekSquintRight"),
    ("browDownLeft", "noseSneerLeft"),
    ("browDownRight", "noseSneerRight"),
    ("browDownLeft", "browInnerUp"),
    ("browDownRight", "browInnerUp"),
)


@dataclasses.dataclass(frozen=True)
class OwnMotion:
    """A face that moves in its own way.

    Attributes:
      rig: the head model with this person's E expressions, then K that they grow along and P for pairs that meet.
      growing: [K] int, the expressions that the K belong to; meeting: [P, 2] int, those that the P belong to.
    """

    rig: HeadModel
    growing: np.ndarray
    meeting: np.ndarray

    def coefficients(self, expression: np.ndarray) -> np.ndarray:
        """[F, E + K + P] of `rig` for the plain head model's coefficients [F, E]. A growth is largest half-way and
        nothing at 0 and 1; a meeting is the product of the two."""
        expression = np.asarray(expression, np.float32)
        within = np.clip(expression, 0.0, 1.0)
        half, pairs = within[:, self.growing], within[:, self.meeting]
        return np.concatenate([expression, 4.0 * half * (1.0 - half), pairs[..., 0] * pairs[..., 1]], 1)


def own_motion(head: HeadModel, identity: int, amount: float) -> OwnMotion:
    """The face of a person.

    Args:
      head: the built-in head, personalised.
      identity: the person's number; the same number moves the same way.
      amount: 0 is the head model's own motion, 1 a person's.
    """
    face = _Face(head, identity, amount)
    names = head.expression_names
    basis = np.asarray(head.expression_basis, np.float64)
    own = np.stack([face.move(name, shape) for name, shape in zip(names, basis)])
    growing = np.array([place for place, name in enumerate(names) if _soft(name)])
    growth = [face.grow(names[place], own[place]) for place in growing]
    meeting = np.array([[names.index(name) for name in pair] for pair in _MEETINGS])
    met = [face.meet(names[first], names[second], own[second]) for first, second in meeting]
    added = len(growth) + len(met)
    joints = np.asarray(head.joint_expression_basis, np.float32)
    rig = dataclasses.replace(
        head,
        expression_basis=np.concatenate([own, growth, met]).astype(np.float32),
        joint_expression_basis=np.concatenate([joints, np.zeros((added, *joints.shape[1:]), np.float32)]),
        expression_names=(
            *names,
            *(f"{names[place]}:growth" for place in growing),
            *(f"{names[first]}:{names[second]}" for first, second in meeting),
        ),
    )
    return OwnMotion(rig, growing, meeting)


def _soft(name: str) -> bool:
    """Moved by flesh alone: neither lids, bone nor tongue."""
    return not name.startswith("eye") and name not in (*_JAW, "tongueOut")


class _Face:
    """Where a person's face may deviate, and by how much."""

    def __init__(self, head: HeadModel, identity: int, amount: float):
        self.identity, self.amount = identity, amount
        self.points = np.asarray(head.canonical, np.float64)  # [N, 3]
        self.free = _free(head, self.points)
        from_lips = cKDTree(self.points[_touched(head, "lips")]).query(self.points)[0]
        self.outward = _INWARD + (1 - _INWARD) * smoothstep(from_lips, 0.0, 0.015)
        self.blur = neighbour_mean(np.asarray(head.faces), head.vertex_count)

    def move(self, name: str, shape: np.ndarray) -> np.ndarray:
        """[N, 3] the person's displacement where the rig's is `shape` [N, 3]."""
        if name.startswith("eye") or name == "tongueOut":
            return shape
        if name in _JAW:
            return self._swing("jawOpen" if name == "mouthClose" else name, shape)
        gain = np.exp(self.amount * GAIN * self._number(name, "gain"))
        other = (gain - 1.0) * shape * self.free[:, None] + self.amount * (
            BEND * self._bent(name, "bend", shape) + BULGE * self._bulge(name, shape)
        )
        other[:, 2] *= np.where(other[:, 2] < 0, self.outward, 1.0)
        return shape + other

    def _swing(self, name: str, shape: np.ndarray) -> np.ndarray:
        """`move` of the jaw: one bone, so that teeth, gums and mouth go with the gain. Strictly linear in `shape`."""
        gain = np.exp(self.amount * _JAW_GAIN * GAIN * self._number(name, "gain"))
        return gain * (shape + self.amount * _JAW_BEND * BEND * self._bent(name, "bend", shape))

    def grow(self, name: str, own: np.ndarray) -> np.ndarray:
        """[N, 3] added half-way to `own` [N, 3]: early or late growth."""
        # A quarter would let an expression shrink while its coefficient grows.
        share = np.clip(self.amount * GROWTH * self._number(name, "growth"), -0.2, 0.2)
        return share * own * self.free[:, None]

    def meet(self, first: str, second: str, own: np.ndarray) -> np.ndarray:
        """[N, 3] added to `own` [N, 3], the second expression's, where the first is fully there too."""
        name = f"{second} with {first}"
        share = np.clip(self.amount * MEETING * self._number(name, "meeting"), -0.4, 0.4)
        return share * own * self.free[:, None] + self.amount * MEETING * self._bent(name, "meeting", own)

    def _bulge(self, name: str, shape: np.ndarray) -> np.ndarray:
        """[N, 3] tissue that is pushed aside, also a little beyond where `shape` [N, 3] acts."""
        reach = np.linalg.norm(shape, axis=-1)
        for _ in range(6):
            reach = self.blur(reach)
        field = self._field(name, "bulge", BULGE_LENGTH, 3)
        return np.clip(field, -2.0, 2.0) * (reach * self.free)[:, None]

    def _bent(self, name: str, what: str, shape: np.ndarray) -> np.ndarray:
        """[N, 3] `shape` [N, 3] times a smooth field of matrices: stretched, sheared, turned."""
        field = np.clip(self._field(name, what, BEND_LENGTH, 9), -2.0, 2.0).reshape(-1, 3, 3)
        return np.einsum("nij,nj->ni", field, shape) * self.free[:, None]

    def _number(self, name: str, what: str) -> float:
        common = random_for(self.identity, f"own {what} {_without_side(name)}").normal()
        own = random_for(self.identity, f"own {what} of {name}").normal()
        return float(np.clip(COMMON * common + np.sqrt(1 - COMMON**2) * own, -2.0, 2.0))

    def _field(self, name: str, what: str, length: float, width: int) -> np.ndarray:
        """[N, width] smooth, of unit variance: vectors (3) or matrices (9), alike on both sides but for an own part."""
        flip = _MIRROR if width == 3 else np.outer(_MIRROR, _MIRROR).ravel()
        common = _Waves(random_for(self.identity, f"own {what} field {_without_side(name)}"), length, width)
        if name == _without_side(name):
            alike = (common(self.points) + flip * common(self.points * _MIRROR)) / np.sqrt(2.0)
        else:
            alike = flip * common(self.points * _MIRROR) if name.endswith("Right") else common(self.points)
        own = _Waves(random_for(self.identity, f"own {what} field of {name}"), length, width)(self.points)
        return COMMON * alike + np.sqrt(1 - COMMON**2) * own


class _Waves:
    """A Gaussian random field over space (random Fourier features), with `width` values of unit variance."""

    def __init__(self, rng: np.random.Generator, length: float, width: int):
        self.frequency = rng.normal(0, 1 / length, (_WAVES, 3))
        self.phase = rng.uniform(0, 2 * np.pi, _WAVES)
        self.weight = rng.normal(0, np.sqrt(2.0 / _WAVES), (_WAVES, width))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """[N, width] at points [N, 3]."""
        # In single precision: these cosines are most of the time that a person takes.
        phase = (points @ self.frequency.T + self.phase).astype(np.float32)
        return np.cos(phase) @ self.weight


def _without_side(name: str) -> str:
    """The two sides of one expression share a name: "mouthSmileLeft with jawOpen" -> "mouthSmile with jawOpen"."""
    return " with ".join(part.removesuffix("Left").removesuffix("Right") for part in name.split(" with "))


def _free(head: HeadModel, points: np.ndarray) -> np.ndarray:
    """[N] 1 on flesh, falling to 0 at the lids, where lashes and eyeballs have to meet them, and into the mouth."""
    blink = [place for place, name in enumerate(head.expression_names) if name.startswith("eyeBlink")]
    closing = np.linalg.norm(np.asarray(head.expression_basis)[blink], axis=-1).max(0) > 0.001
    lids = _touched(head, "lid_lining", "lashes") | closing
    free = _touched(head, *_FLESH) * smoothstep(cKDTree(points[lids]).query(points)[0], 0.0, 0.012)
    lining = _touched(head, "mouth_inside") & ~_touched(head, "lips")
    return np.where(lining, free * smoothstep(points[:, 2], 0.070, 0.092), free)


def _touched(head: HeadModel, *parts: str) -> np.ndarray:
    """[N] bool: vertices of some parts."""
    chosen = np.isin(np.asarray(head.face_parts), [head.part_names.index(part) for part in parts])
    return np.isin(np.arange(head.vertex_count), np.asarray(head.faces)[chosen])
