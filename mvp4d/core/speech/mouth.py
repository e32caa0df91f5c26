"""The mouth: visemes and their coarticulation by openfacefx, as ARKit expressions with lips that meet."""

from __future__ import annotations

import numpy as np

from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.speech.phones import BILABIALS, SILENCE, VOWELS, Phone

# openfacefx's shapes, but for these: there the tongue leaves the mouth at every t, d, n and l.
_OWN = {
    "TH": {
        "jawOpen": 0.14,
        "tongueOut": 0.3,
        "mouthUpperUpLeft": 0.15,
        "mouthUpperUpRight": 0.15,
        "mouthLowerDownLeft": 0.15,
        "mouthLowerDownRight": 0.15,
    },
    "DD": {
        "jawOpen": 0.2,
        "mouthUpperUpLeft": 0.12,
        "mouthUpperUpRight": 0.12,
        "mouthLowerDownLeft": 0.1,
        "mouthLowerDownRight": 0.1,
    },
    "nn": {"jawOpen": 0.18, "mouthLowerDownLeft": 0.1, "mouthLowerDownRight": 0.1},
}
OPENING = (
    "jawOpen",
    "mouthFunnel",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
)
_PRESSED = {"mouthPressLeft": 0.25, "mouthPressRight": 0.25, "mouthRollLower": 0.1, "mouthRollUpper": 0.1}
_RAMP = 0.06  # seconds in which lips meet and part
_LEAST = 0.1  # of jawOpen in the middle of a vowel
_QUIET, _LOUD = 0.5, 1.0  # how far the mouth opens at the quietest and at the loudest


def mouth(phones: list[Phone], loud: np.ndarray, fps: float) -> np.ndarray:
    """ARKit expressions [F, 52] in [0, 1] of F frames.

    Args:
      loud: [F] how loud it is, any unit: the mouth opens further where it is louder.
    """
    frames = len(loud)
    expression = _visemes(phones, frames, fps) @ _shapes()
    opening = [ARKIT_NAMES.index(name) for name in OPENING]
    expression[:, opening] *= (_QUIET + (_LOUD - _QUIET) * _rank(loud))[:, None]
    jaw = ARKIT_NAMES.index("jawOpen")
    expression[:, jaw] = np.maximum(expression[:, jaw], _LEAST * bumps(phones, VOWELS, frames, fps))
    closed = bumps(phones, BILABIALS, frames, fps)[:, None]
    pressed = np.zeros(len(ARKIT_NAMES))
    for name, value in _PRESSED.items():
        pressed[ARKIT_NAMES.index(name)] = value
    return np.clip(expression * (1 - closed) + pressed * closed, 0, 1)


def bumps(phones: list[Phone], which: frozenset[str], frames: int, fps: float) -> np.ndarray:
    """[F] 1 in the middle half of those phones (at least at the frame nearest to their middle), 0 beyond a ramp.

    A ramp reaches at most to the middle of the neighbour.
    """
    times = np.arange(frames) / fps
    result = np.zeros(frames)
    for index, phone in enumerate(phones):
        if phone.symbol not in which:
            continue
        before = phones[index - 1].duration / 2 if index else _RAMP
        after = phones[index + 1].duration / 2 if index + 1 < len(phones) else _RAMP
        flat = max(phone.duration / 4, 0.5 / fps)
        start, end = phone.centre - flat, phone.centre + flat
        rise = max(start - phone.start, 0) + min(before, _RAMP)
        fall = max(phone.end - end, 0) + min(after, _RAMP)
        outside = np.maximum((start - times) / max(rise, 1e-3), (times - end) / max(fall, 1e-3))
        result = np.maximum(result, _smooth(1 - np.clip(outside, 0, 1)))
    return result


def _visemes(phones: list[Phone], frames: int, fps: float) -> np.ndarray:
    """[F, 15] openfacefx's viseme weights."""
    from openfacefx.alignment import PhonemeSegment
    from openfacefx.coarticulation import build_viseme_curves

    segments, time = [], 0.0
    for phone in [*phones, Phone(SILENCE, frames / fps, frames / fps)]:
        if phone.start > time + 1e-6:  # what nothing is said of is silence
            segments.append(PhonemeSegment("sil", time, phone.start))
        if phone.duration > 0:
            symbol = "sil" if phone.symbol == SILENCE else phone.symbol
            segments.append(PhonemeSegment(symbol, max(phone.start, time), phone.end))
        time = max(time, phone.end)
    _, weights = build_viseme_curves(segments, fps=fps)
    missing = max(frames - len(weights), 0)
    return np.pad(weights, ((0, missing), (0, 0)), mode="edge")[:frames]


def _shapes() -> np.ndarray:
    """[15, 52] ARKit expressions of a viseme."""
    from openfacefx.retarget import PRESETS
    from openfacefx.visemes import VISEMES

    table = np.zeros((len(VISEMES), len(ARKIT_NAMES)))
    shapes = {name: dict(targets) for name, targets in PRESETS["arkit"].items()} | _OWN
    for row, viseme in enumerate(VISEMES):
        for name, value in shapes.get(viseme, {}).items():
            table[row, ARKIT_NAMES.index(name)] = value
    return table


def _rank(loud: np.ndarray) -> np.ndarray:
    """[F] 0 at the tenth, 1 at the ninety-fifth percentile of what is not silent, in decibels."""
    level = 20 * np.log10(np.maximum(loud, 1e-6))
    heard = level[level > level.max() - 40]
    low, high = np.percentile(heard, (10, 95))
    return np.clip((level - low) / max(high - low, 1.0), 0, 1)


def _smooth(share: np.ndarray) -> np.ndarray:
    return share * share * (3 - 2 * share)
