"""Motion from a seed: speech, expressions, blinks, gaze, head turns; every channel is smooth in time.

Controls are laid out in seconds and sampled at the frames, so that the same seed at another frame rate is the same
performance.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d.core.ramps import smoothstep

KINDS = ("mixed", "speech", "expressive", "turning", "still")
REST_SECONDS, LID_SECONDS = 0.4, 0.08  # from a head at rest to the performance, and back; of its blinks
# Mouth shapes of speech, by ARKit names ("*" stands for Left and Right).
VISEMES = {
    "rest": {},
    "aa": {"jawOpen": 0.55, "mouthLowerDown*": 0.25, "mouthUpperUp*": 0.15},
    "ae": {"jawOpen": 0.38, "mouthStretch*": 0.25, "mouthLowerDown*": 0.3, "mouthUpperUp*": 0.2},
    "ee": {"jawOpen": 0.14, "mouthStretch*": 0.35, "mouthSmile*": 0.2, "mouthUpperUp*": 0.2, "mouthLowerDown*": 0.3},
    "oh": {"jawOpen": 0.36, "mouthFunnel": 0.55, "mouthPucker": 0.15},
    "oo": {"jawOpen": 0.16, "mouthPucker": 0.6, "mouthFunnel": 0.3},
    "mm": {"mouthClose": 0.06, "mouthPress*": 0.4, "mouthRollLower": 0.25, "mouthRollUpper": 0.2},
    "ff": {"jawOpen": 0.08, "mouthRollLower": 0.4, "mouthUpperUp*": 0.25},
    "ss": {"jawOpen": 0.06, "mouthStretch*": 0.25, "mouthLowerDown*": 0.2, "mouthUpperUp*": 0.12},
    "sh": {"jawOpen": 0.12, "mouthFunnel": 0.5, "mouthUpperUp*": 0.15, "mouthLowerDown*": 0.15},
    "th": {"jawOpen": 0.18, "tongueOut": 0.15, "mouthLowerDown*": 0.15},
    "ll": {"jawOpen": 0.24, "mouthLowerDown*": 0.15, "mouthUpperUp*": 0.1},
}
EXPRESSIONS = {
    "smile": {"mouthSmile*": 0.75, "cheekSquint*": 0.4, "mouthDimple*": 0.25, "eyeSquint*": 0.25},
    "grin": {"mouthSmile*": 0.9, "jawOpen": 0.22, "mouthUpperUp*": 0.35, "cheekSquint*": 0.6, "eyeSquint*": 0.35},
    "laugh": {"mouthSmile*": 0.9, "jawOpen": 0.55, "mouthUpperUp*": 0.4, "cheekSquint*": 0.7, "eyeSquint*": 0.5},
    "surprise": {"browInnerUp": 0.8, "browOuterUp*": 0.8, "eyeWide*": 0.7, "jawOpen": 0.45, "mouthFunnel": 0.2},
    "frown": {"browDown*": 0.8, "mouthFrown*": 0.5, "eyeSquint*": 0.3, "mouthPress*": 0.2},
    "anger": {"browDown*": 1.0, "noseSneer*": 0.5, "mouthPress*": 0.5, "eyeSquint*": 0.3, "jawForward": 0.3},
    "sadness": {"browInnerUp": 0.8, "mouthFrown*": 0.7, "mouthShrugLower": 0.5, "eyeSquint*": 0.15},
    "disgust": {"noseSneer*": 0.9, "mouthUpperUp*": 0.5, "browDown*": 0.5, "eyeSquint*": 0.4, "cheekSquint*": 0.3},
    "pucker": {"mouthPucker": 0.9, "cheekPuff": 0.1},
    "cheeks": {"cheekPuff": 0.9, "mouthPucker": 0.25, "mouthPress*": 0.2},
    "sideways": {"mouthLeft": 0.6, "jawLeft": 0.3, "mouthSmileLeft": 0.3},
    "skeptic": {"browOuterUpLeft": 0.8, "browDownRight": 0.5, "mouthRight": 0.3, "mouthDimpleRight": 0.4},
    "brows": {"browInnerUp": 0.6, "browOuterUp*": 0.6},
    "wide open": {"jawOpen": 0.95, "browInnerUp": 0.3, "eyeWide*": 0.2},
    "roll": {"mouthRollLower": 0.7, "mouthRollUpper": 0.6, "mouthPress*": 0.3},
}


def make_motion(
    expression_names: tuple[str, ...],
    frames: int,
    *,
    kind: str = "mixed",
    fps: float = 25.0,
    seed: np.random.Generator | int = 0,
) -> Motion:
    """A performance of `frames` frames for a head with ARKit expression names.

    Args:
      kind: one of KINDS. "mixed" talks, reacts, looks about and turns; "turning" adds large head turns; "still" is the
        neutral face at rest.

    Raises:
      UserError: an unknown kind, or fewer than one frame.
    """
    if kind not in KINDS:
        raise UserError("`motion`", f"no kind '{kind}'", f"one of {', '.join(KINDS)}, or a fit.npz")
    if frames < 1:
        raise UserError("`frames`", f"{frames} frames", "at least one")
    if kind == "still":
        return Motion.still(frames, len(expression_names), fps)
    rng = np.random.default_rng(seed) if isinstance(seed, int) else seed
    time = np.arange(frames) / fps
    face = _Face(expression_names, frames)
    if kind in ("mixed", "speech"):
        _speak(face, time, rng, loudness=rng.uniform(0.8, 1.25))
    if kind != "speech":
        _react(face, time, rng, share=1.0 if kind == "expressive" else 0.6)
    else:
        face.add(_pose({"browInnerUp": 0.3, "browOuterUp*": 0.3}), np.clip(_wander(time, rng, 1.2), 0, 1))
    lids = _blink(time, rng)
    face.add(_pose({"eyeBlink*": 1.0}), lids)
    gaze = _gaze(time, rng)  # [F, 2] yaw, pitch
    face.add(_pose({"eyeLookDown*": 1.0}), np.clip(gaze[:, 1] / 0.45, 0, 1))
    face.add(_pose({"eyeLookUp*": 1.0}), np.clip(-gaze[:, 1] / 0.45, 0, 1))
    eyes = np.zeros((frames, 2, 3), np.float32)
    eyes[:, :, 0], eyes[:, :, 1] = gaze[:, 1, None], gaze[:, 0, None]

    reach = {"turning": 2.4, "mixed": 1.0, "speech": 0.8, "expressive": 1.0}[kind]
    turn = np.stack([_wander(time, rng, period) * size for period, size in ((1.6, 0.16), (1.8, 0.28), (2.2, 0.10))], -1)
    turn = (turn * reach).astype(np.float32)  # pitch, yaw, roll
    sway = np.stack([_wander(time, rng, 2.5) * size for size in (0.008, 0.005, 0.008)], -1)
    expression = np.clip(face.values, 0.0, 1.0).astype(np.float32)
    zeros = np.zeros((frames, 3), np.float32)
    return Motion(expression, 0.45 * turn, sway.astype(np.float32), 0.55 * turn, zeros, eyes, fps)


def at_rest_at_ends(motion: Motion, expression_names: tuple[str, ...]) -> Motion:
    """The same performance, which begins and ends at rest in one pose: a film that has a first picture, and loops.

    Each passage takes a third of it at most. Blinks keep their depth but at the very ends: half a blink looks tired.
    """
    time = np.arange(motion.frame_count) / motion.fps
    away = np.minimum(time, time[-1] - time)
    longest = max(time[-1] / 3, np.finfo(float).tiny)
    at, lids = (
        smoothstep(away, 0.0, min(seconds, longest)).astype(np.float32)[:, None]
        for seconds in (REST_SECONDS, LID_SECONDS)
    )
    blinks = np.array(["blink" in name.lower() for name in expression_names], bool)
    parts = {name: getattr(motion, name) * at for name in ("rotation", "translation", "neck", "jaw")}
    return dataclasses.replace(
        motion, expression=motion.expression * np.where(blinks, lids, at), eyes=motion.eyes * at[:, :, None], **parts
    )


def pose_vector(expression_names: tuple[str, ...], weights: dict[str, float]) -> np.ndarray:
    """[E] coefficients from ARKit names; "*" stands for both sides; names the head lacks are left out."""
    face = _Face(expression_names, 1)
    face.add(_pose(weights), np.ones(1))
    return face.values[0].astype(np.float32)


class _Face:
    """Coefficients over time, added to by name."""

    def __init__(self, names: tuple[str, ...], frames: int):
        self.index = {name: place for place, name in enumerate(names)}
        self.values = np.zeros((frames, len(names)))

    def add(self, pose: dict[str, float], envelope: np.ndarray) -> None:
        for name, weight in pose.items():
            if name in self.index:
                self.values[:, self.index[name]] += weight * envelope


def _pose(weights: dict[str, float]) -> dict[str, float]:
    """Expands "name*" to "nameLeft" and "nameRight"."""
    return {
        name.replace("*", side): value
        for name, value in weights.items()
        for side in (("Left", "Right") if "*" in name else ("",))
    }


def _bell(time: np.ndarray, centre: float, rise: float, hold: float, fall: float) -> np.ndarray:
    """0 -> 1 -> 0 with smooth ends: rises over `rise` seconds before the hold, falls over `fall` after it."""
    up = np.clip((time - (centre - hold / 2 - rise)) / rise, 0, 1)
    down = np.clip(((centre + hold / 2 + fall) - time) / fall, 0, 1)
    return up * up * (3 - 2 * up) * down * down * (3 - 2 * down)


def _wander(time: np.ndarray, rng: np.random.Generator, period: float) -> np.ndarray:
    """Smooth noise of about unit size: a sum of sines with periods around `period` seconds."""
    frequency = np.exp(rng.normal(0, 0.35, 5)) / period * np.array([0.35, 0.6, 0.9, 1.2, 1.6])
    phase, weight = rng.uniform(0, 2 * np.pi, 5), rng.normal(0, 1, 5) / np.array([0.8, 1.0, 1.4, 2.0, 3.0])
    return (weight * np.sin(2 * np.pi * frequency * time[:, None] + phase)).sum(-1) / 1.3


def _speak(face: _Face, time: np.ndarray, rng: np.random.Generator, loudness: float) -> None:
    """Visemes at about ten a second in phrases with pauses. Each shape blends with its neighbours by dominance
    functions that overlap (Cohen and Massaro 1993), which is what coarticulation looks like."""
    names = [name for name in VISEMES if name != "rest"]
    keys, moment = [(-1.0, "rest")], -rng.uniform(0.2, 0.8)
    while moment < time[-1] + 1.0:
        for _ in range(int(rng.integers(6, 22))):
            keys.append((moment, str(rng.choice(names))))
            moment += rng.uniform(0.08, 0.17)
        keys.append((moment, "rest"))
        pause = rng.uniform(0.1, 0.6)
        keys.append((moment + pause, "rest"))
        moment += pause + 0.1
    centres = np.array([key[0] for key in keys])
    dominance = np.exp(-0.5 * ((time[:, None] - centres) / 0.055) ** 2) + 1e-9  # [F, K]
    dominance /= dominance.sum(1, keepdims=True)
    strength = loudness * (1.0 + 0.25 * _wander(time, rng, 0.9))
    for place, (_, name) in enumerate(keys):
        face.add(_pose(VISEMES[name]), dominance[:, place] * np.clip(strength, 0.4, 1.6))


def _react(face: _Face, time: np.ndarray, rng: np.random.Generator, share: float) -> None:
    moment = -rng.uniform(0.0, 1.0)
    while moment < time[-1] + 1.0:
        name = str(rng.choice(list(EXPRESSIONS)))
        rise, hold, fall = rng.uniform(0.22, 0.5), rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.7)
        centre = moment + rise + hold / 2
        face.add(_pose(EXPRESSIONS[name]), share * rng.uniform(0.6, 1.0) * _bell(time, centre, rise, hold, fall))
        moment = centre + hold / 2 + fall * rng.uniform(0.4, 1.0) + rng.exponential(0.4)


def _blink(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blinks of 150 to 400 ms, closing faster than opening, every two to five seconds."""
    lids, moment = np.zeros_like(time), rng.uniform(0.1, 1.5)
    while moment < time[-1] + 0.5:
        length = rng.uniform(0.15, 0.40)
        lids = np.maximum(lids, _bell(time, moment, 0.36 * length, 0.12 * length, 0.52 * length))
        moment += rng.uniform(1.6, 4.5)
    return lids


def _gaze(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[F, 2] yaw and pitch of the eyes: fixations of 0.3 to 1.5 s joined by saccades of 60 to 90 ms."""
    gaze = np.zeros((len(time), 2))
    previous, moment = rng.normal(0, [0.10, 0.06]), -rng.uniform(0, 0.8)
    gaze += previous
    while moment < time[-1] + 0.2:
        target = np.clip(rng.normal(0, [0.20, 0.10]), [-0.45, -0.25], [0.45, 0.28])
        t = np.clip((time - moment) / rng.uniform(0.06, 0.09), 0, 1)[:, None]
        gaze += (target - previous) * t * t * (3 - 2 * t)
        previous, moment = target, moment + rng.uniform(0.3, 1.5)
    return gaze
