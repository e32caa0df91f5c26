"""Other colours for the same capture, so that a model learns to take them from the reference image.

A recoloured capture is another scene: all of its views, frames and references change alike. White stays white (the
background) and black stays black.
"""

from __future__ import annotations

import dataclasses

import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear light (ITU-R BT.709); close enough for a grey value


@dataclasses.dataclass(frozen=True)
class Palette:
    """How colours change: each channel c becomes c ** gamma, then is mixed with the grey value.

    Attributes:
      gamma: of red, green and blue; above 1 darkens.
      saturation: 0 leaves grey, 1 leaves colours as they are.
    """

    gamma: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0

    def apply(self, pictures: np.ndarray) -> np.ndarray:
        """[..., 3] uint8 -> the same shape, float32 in [0, 255]."""
        table = (np.arange(256, dtype=np.float32) / 255)[:, None] ** np.asarray(self.gamma, np.float32)  # [256, 3]
        colour = np.stack([table[pictures[..., channel], channel] for channel in range(3)], axis=-1)
        grey = (colour @ LUMA)[..., None]
        return 255 * np.clip(grey + self.saturation * (colour - grey), 0, 1)


def draw_palettes(count: int, random: np.random.Generator) -> list[Palette]:
    """`count` palettes: the true colours first, then drawn ones; one in six of those is a black-and-white picture."""
    palettes = [Palette()]
    while len(palettes) < count:
        gamma = np.exp(random.normal(0, 0.25) + random.normal(0, 0.18, 3))
        saturation = 0.0 if random.random() < 1 / 6 else random.uniform(0.5, 1.2)
        palettes.append(Palette(tuple(float(value) for value in gamma), float(saturation)))
    return palettes
