"""Colours that tell skin from hair: OKLab's lightness, and its opponents over the lightness."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.ramps import smoothstep

UNLIKE_SKIN = (1.5, 3.0)  # spreads of skin's colour from its median between which a colour becomes another's
LEAST_SPREAD = (0.08, 0.03, 0.03)  # of lightness and of the opponents over it
LEAST_HAIR = 0.12  # share of what a photo shows of the scalp that must be unlike skin: fewer is a bald head's shading
DARK = 0.05  # lightness below which a colour has no hue
# Of OKLab (Ottosson): linear sRGB to cones, and their cube roots to lightness and opponents. In float32, as pictures
# are: cube roots and powers of float64 take twice as long.
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
FROM_CONES, FROM_LAB = np.linalg.inv(TO_CONES), np.linalg.inv(TO_LAB)


@dataclasses.dataclass(frozen=True)
class SkinColour:
    """The colour of one person's skin.

    Attributes:
      median, spread: [3] of `lightness_and_hue`; the spread is a normal distribution's standard deviation.
    """

    median: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, colours: np.ndarray) -> SkinColour:
        """That of skin's `lightness_and_hue` [M, 3], a few of which may be something else's."""
        median = np.median(colours, axis=0)
        return cls(median, np.maximum(1.25 * np.abs(colours - median).mean(0), LEAST_SPREAD))

    def unlike(self, colours: np.ndarray) -> np.ndarray:
        """[...] in [0, 1], how far `lightness_and_hue` [..., 3] is not skin's."""
        return smoothstep(np.sqrt((((colours - self.median) / self.spread) ** 2).sum(-1)), *UNLIKE_SKIN)


def lightness_and_hue(rgb: np.ndarray) -> np.ndarray:
    """OKLab's lightness and its opponents over the lightness, [..., 3] float32, of sRGB [..., 3] in [0, 1]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T
    return np.concatenate([lab[..., :1], lab[..., 1:] / np.maximum(lab[..., :1], DARK)], -1).astype(np.float32)


def to_rgb(colours: np.ndarray) -> np.ndarray:
    """The inverse of `lightness_and_hue`, to [0, 1]."""
    lab = np.concatenate([colours[..., :1], colours[..., 1:] * np.maximum(colours[..., :1], DARK)], -1)
    linear = ((lab @ FROM_LAB.T) ** 3 @ FROM_CONES.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
