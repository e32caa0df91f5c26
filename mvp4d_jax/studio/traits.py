"""Who is drawn: every choice that makes one synthetic person, from one integer."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.errors import UserError

TRAIN_END, VALIDATION_END = 10_000, 11_000

# sRGB of facial skin from light to deep, spaced as the ten-step Monk scale is, without its extremes.
_SKIN_RAMP = (
    np.array(
        [
            [228, 188, 164],
            [219, 173, 145],
            [206, 156, 123],
            [189, 136, 101],
            [163, 110, 77],
            [130, 84, 58],
            [97, 63, 45],
            [72, 48, 37],
        ]
    )
    / 255.0
)
# Linear albedo of hair fibres, and how often each is drawn for light and for deep skin.
_HAIR_COLOURS = {
    "black": ((0.016, 0.013, 0.012), 2.0, 8.0),
    "dark brown": ((0.040, 0.025, 0.016), 4.0, 3.0),
    "brown": ((0.095, 0.055, 0.032), 4.0, 0.6),
    "chestnut": ((0.140, 0.066, 0.034), 2.0, 0.2),
    "auburn": ((0.210, 0.075, 0.032), 1.2, 0.1),
    "red": ((0.360, 0.130, 0.045), 0.8, 0.0),
    "dark blond": ((0.270, 0.180, 0.095), 2.0, 0.05),
    "blond": ((0.480, 0.340, 0.180), 1.8, 0.05),
    "grey": ((0.300, 0.290, 0.280), 1.0, 0.7),
    "white": ((0.620, 0.610, 0.590), 0.5, 0.3),
}
STYLES = (
    "bald",
    "buzz",
    "short",
    "crop",
    "side part",
    "bob",
    "long",
    "wavy",
    "curly",
    "afro",
    "ponytail",
    "bun",
    "fringe",
)
_STYLE_WEIGHTS = (0.04, 0.06, 0.16, 0.08, 0.12, 0.09, 0.11, 0.09, 0.07, 0.05, 0.05, 0.04, 0.04)
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
_IRISES = {
    "brown": (0.115, 0.052, 0.022),
    "dark brown": (0.055, 0.026, 0.014),
    "hazel": (0.17, 0.105, 0.04),
    "green": (0.15, 0.19, 0.085),
    "blue": (0.14, 0.24, 0.36),
    "grey": (0.22, 0.26, 0.29),
}
NECKLINES = ("crew", "vee", "turtleneck", "shirt", "bare")


@dataclasses.dataclass(frozen=True)
class Identity:
    """The traits of one person. Colours are linear RGB albedo.

    Attributes:
      number: the identity's integer; `split_of` tells its split.
      shape: [S] coefficients of the head's identity modes, in standard deviations.
      skin: colour; `melanin` 0 light to 1 deep; `redness`, `freckles`, `oiliness`, `age` 0 to 1.
      lips: colour multiplied on the skin's.
      hair: colour; `style` of STYLES; `volume` 0.7 to 1.3; `brow_weight` 0.5 to 1.3.
      beard: one of BEARDS.
      iris: colour; `pupil` radius in units of the eye's.
      cloth, collar: colours; `neckline` of NECKLINES; `stripes` 0 or 1.
      glasses: "none", "round", "square".
      frame: colour of the glasses.
    """

    number: int
    shape: np.ndarray
    skin: tuple[float, float, float]
    melanin: float
    redness: float
    freckles: float
    oiliness: float
    age: float
    lips: tuple[float, float, float]
    hair: tuple[float, float, float]
    hair_name: str
    style: str
    volume: float
    brow_weight: float
    beard: str
    iris: tuple[float, float, float]
    pupil: float
    cloth: tuple[float, float, float]
    collar: tuple[float, float, float]
    neckline: str
    stripes: int
    glasses: str
    frame: tuple[float, float, float]


def split_of(identity: int) -> str:
    """ "train" for 0 to 9,999, "validation" for 10,000 to 10,999, "test" from 11,000 on.

    Raises:
      UserError: a negative number.
    """
    if identity < 0:
        raise UserError("`identity`", f"{identity} is negative", "identities count from 0")
    return "train" if identity < TRAIN_END else "validation" if identity < VALIDATION_END else "test"


def random_for(identity: int, what: str, seed: int = 0) -> np.random.Generator:
    """A generator of its own for every purpose, so that a change in one does not move the others."""
    return np.random.default_rng([identity, seed, *what.encode()])


def draw_identity(number: int, shape_count: int) -> Identity:
    """The person with this number."""
    split_of(number)
    rng = random_for(number, "identity")
    shape = np.clip(rng.normal(0, 0.8, shape_count), -2.0, 2.0).astype(np.float32)
    melanin = float(rng.beta(1.1, 1.4))
    skin = _skin_colour(melanin, rng)
    feminine = rng.random() < 0.5
    age = float(rng.beta(1.4, 2.2))
    hair_name = _choose(
        rng,
        {name: (1 - melanin) * light + melanin * deep for name, (_, light, deep) in _HAIR_COLOURS.items()}
        | {"grey": 0.25 + 6 * age**3, "white": 0.05 + 3 * age**4},
    )
    hair = np.array(_HAIR_COLOURS[hair_name][0]) * np.exp(rng.normal(0, 0.12)) * (1 + rng.normal(0, 0.04, 3))
    weights = dict(zip(STYLES, _STYLE_WEIGHTS))
    for style in ("bob", "long", "ponytail", "bun"):
        weights[style] *= 1.8 if feminine else 0.15
    for style in ("bald", "buzz", "short", "crop"):
        weights[style] *= 0.25 if feminine else 1.8
    weights["afro"] *= 0.2 + 3 * melanin
    style = _choose(rng, weights)
    beard = _choose(rng, dict(zip(BEARDS, (1, 0, 0, 0, 0) if feminine else (0.45, 0.2, 0.08, 0.07, 0.2))))
    pale_eyes = max(0.0, 1.0 - 2.0 * melanin)
    iris = np.array(
        _IRISES[
            _choose(
                rng,
                {
                    "brown": 1.2,
                    "dark brown": 0.3 + 3 * melanin,
                    "hazel": 0.5 * pale_eyes,
                    "green": 0.4 * pale_eyes,
                    "blue": 1.1 * pale_eyes,
                    "grey": 0.3 * pale_eyes,
                },
            )
        ]
    )
    lips = np.array([1.0, 0.62, 0.60]) * (1 + rng.normal(0, 0.05, 3))
    if feminine and rng.random() < 0.4:
        lips *= np.array([0.95, 0.55, 0.60])
    cloth, collar = _cloth_colour(rng), _cloth_colour(rng)
    return Identity(
        number,
        shape,
        _triple(skin),
        melanin,
        float(rng.beta(2, 3)),
        float(rng.random() ** 4 * (1 - melanin)),
        float(rng.uniform(0.5, 1.2)),
        age,
        _triple(lips),
        _triple(hair),
        hair_name,
        style,
        float(rng.uniform(0.75, 1.25)),
        float(rng.uniform(0.5, 0.9) if feminine else rng.uniform(0.75, 1.25)),
        beard,
        _triple(iris * np.exp(rng.normal(0, 0.15))),
        float(rng.uniform(0.16, 0.25)),
        _triple(cloth),
        _triple(collar),
        _choose(rng, dict(zip(NECKLINES, (0.45, 0.2, 0.12, 0.18, 0.05)))),
        int(rng.random() < 0.2),
        _choose(rng, {"none": 0.78, "round": 0.11, "square": 0.11}),
        _triple(np.array([0.02, 0.018, 0.016]) if rng.random() < 0.6 else rng.uniform(0.02, 0.35, 3)),
    )


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light."""
    srgb = np.asarray(srgb, np.float64)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _skin_colour(melanin: float, rng: np.random.Generator) -> np.ndarray:
    place = melanin * (len(_SKIN_RAMP) - 1)
    low = min(int(place), len(_SKIN_RAMP) - 2)
    colour = _SKIN_RAMP[low] + (place - low) * (_SKIN_RAMP[low + 1] - _SKIN_RAMP[low])
    undertone = rng.normal(0, 0.012)
    return linear(np.clip(colour + np.array([undertone, 0, -undertone * 1.5]) + rng.normal(0, 0.008), 0.02, 0.98))


def _cloth_colour(rng: np.random.Generator) -> np.ndarray:
    """Mostly muted: black, white, navy, grey, and now and then something saturated."""
    value, tint = rng.beta(1.2, 1.6), rng.normal(0, 1, 3)
    return np.clip((0.02 + 0.7 * value**2) * np.exp(tint * rng.choice([0.08, 0.5], p=[0.5, 0.5])), 0.012, 0.8)


def _choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    values = np.array(list(weights.values()), np.float64)
    return str(rng.choice(list(weights), p=values / values.sum()))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return tuple(float(value) for value in values)
