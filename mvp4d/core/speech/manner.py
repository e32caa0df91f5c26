"""What goes along with speech: blinks, brows, small head movements, a gaze that stays."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.speech.phones import SILENCE, VOWELS, Phone

_BLINK = ((0.0, 0.0), (0.07, 1.0), (0.11, 1.0), (0.27, 0.0))  # seconds after it begins, lid
_BETWEEN_BLINKS = (2.0, 5.0)  # seconds
_APART = 0.45  # seconds between stressed syllables at least
_NOD, _TURN, _TILT = np.radians((2.2, 2.0, 1.2))
_GLANCE = np.radians(1.2)


def stresses(phones: list[Phone], loud: np.ndarray, fps: float) -> list[tuple[float, float]]:
    """Stressed syllables as (seconds, weight in (0, 1]): vowels that are louder and longer than their like."""
    vowels = [phone for phone in phones if phone.symbol in VOWELS]
    if not vowels:
        return []
    level = np.log(np.maximum([loud[min(round(v.centre * fps), len(loud) - 1)] for v in vowels], 1e-6))
    length = np.log(np.maximum([vowel.duration for vowel in vowels], 1e-2))
    score = _standard(level) + _standard(length)
    chosen: list[int] = []
    for index in np.argsort(-score):
        if score[index] > 0.3 and all(abs(vowels[index].centre - vowels[k].centre) > _APART for k in chosen):
            chosen.append(int(index))
    return sorted((vowels[k].centre, float(np.clip(score[k] / 3, 0.2, 1))) for k in chosen)


def manner(phones: list[Phone], loud: np.ndarray, fps: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expressions [F, 52], neck [F, 3] and eyes [F, 2, 3] axis-angle of F frames.

    Nods and brows come with stressed syllables, blinks every few seconds and rather in pauses; the head drifts slowly,
    more while there is speech; the eyes stay on the viewer. The same seed gives the same motion.
    """
    rng = np.random.default_rng(seed)
    frames = len(loud)
    times = np.arange(frames) / fps
    beats = stresses(phones, loud, fps)
    expression = np.zeros((frames, len(ARKIT_NAMES)))
    for start in _blinks(phones, frames / fps, rng):
        lid = np.interp(times - start, *zip(*_BLINK), left=0, right=0)
        for name in ("eyeBlinkLeft", "eyeBlinkRight"):
            place = ARKIT_NAMES.index(name)
            expression[:, place] = np.maximum(expression[:, place], lid)
    nod = np.zeros(frames)
    for time, weight in beats:
        nod += weight * rng.uniform(0.6, 1.0) * np.exp(-(((times - time - 0.05) / 0.13) ** 2))
        if rng.random() < 0.5:
            lift = weight * rng.uniform(0.25, 0.5) * np.exp(-(((times - time) / 0.2) ** 2))
            for name, share in (("browInnerUp", 1.0), ("browOuterUpLeft", 0.7), ("browOuterUpRight", 0.7)):
                expression[:, ARKIT_NAMES.index(name)] += share * lift
    alive = _ends(times)
    drift = _wander(rng, frames, fps, 3) * (0.4 + 0.6 * _speaking(phones, times))[:, None] * alive[:, None]
    neck = drift * (0.5 * _NOD, _TURN, _TILT)
    neck[:, 0] += _NOD * np.clip(nod, 0, 1.2) * alive
    glance = _wander(rng, frames, fps, 2, seconds=1.2) * _GLANCE * alive[:, None]
    eyes = np.zeros((frames, 2, 3))
    eyes[:, :, :2] = (glance - neck[:, :2])[:, None]  # they turn back what the head turns
    return np.clip(expression, 0, 1), neck, eyes


def _blinks(phones: list[Phone], duration: float, rng: np.random.Generator) -> list[float]:
    """When blinks begin: at intervals, moved to a pause within a second where there is one."""
    pauses = [phone.start for phone in phones if phone.symbol == SILENCE and phone.duration > 0.12]
    starts, time = [], rng.uniform(0.8, 2.0)
    while time < duration - 0.3:
        near = [pause for pause in pauses if abs(pause - time) < 1.0 and (not starts or pause > starts[-1] + 1.0)]
        time = min(near, key=lambda pause: abs(pause - time)) if near else time
        starts.append(time)
        time += rng.uniform(*_BETWEEN_BLINKS)
    return starts


def _wander(rng: np.random.Generator, frames: int, fps: float, width: int, seconds: float = 0.8) -> np.ndarray:
    """[F, width] smooth noise of standard deviation about 1 that changes within `seconds`."""
    sigma = seconds / 2 * fps
    noise = rng.standard_normal((frames + int(6 * sigma) + 1, width))
    smooth = gaussian_filter1d(noise, sigma, axis=0)[int(3 * sigma) :][:frames]
    return smooth * np.sqrt(2 * sigma * np.sqrt(np.pi))  # what the filter takes from white noise


def _speaking(phones: list[Phone], times: np.ndarray) -> np.ndarray:
    spoken = np.zeros(len(times))
    for phone in phones:
        if phone.symbol != SILENCE:
            spoken[(times >= phone.start) & (times < phone.end)] = 1
    step = times[1] - times[0] if len(times) > 1 else 1.0
    return gaussian_filter1d(spoken, 0.3 / step)


def _ends(times: np.ndarray) -> np.ndarray:
    """Fades movement in and out over a third of a second: it starts and ends at rest."""
    return np.clip(np.minimum(times, times[-1] - times) / 0.33, 0, 1)


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(values.std(), 1e-3)
