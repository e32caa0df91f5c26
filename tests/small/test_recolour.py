"""Other colours: white and black stay, grey is grey, the true colours come first."""

import numpy as np

from mvp4d_jax.small.recolour import LUMA, Palette, draw_palettes


def test_white_and_black_stay_whatever_the_palette():
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    for palette in draw_palettes(20, np.random.default_rng(0)):
        np.testing.assert_allclose(palette.apply(ends), ends, atol=1e-3)


def test_a_palette_is_the_formula():
    pictures = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    palette = Palette((0.7, 1.0, 1.6), 0.4)
    colour = (pictures / 255.0) ** np.array([0.7, 1.0, 1.6])
    grey = (colour * LUMA).sum(-1, keepdims=True)
    np.testing.assert_allclose(palette.apply(pictures), 255 * (0.6 * grey + 0.4 * colour), atol=2e-3)


def test_first_palette_leaves_colours_alone_and_grey_ones_are_grey():
    palettes = draw_palettes(60, np.random.default_rng(2))
    pictures = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    np.testing.assert_allclose(palettes[0].apply(pictures), pictures, atol=1e-3)
    grey = [palette for palette in palettes if palette.saturation == 0]
    assert 3 <= len(grey) <= 20
    assert np.ptp(grey[0].apply(pictures), axis=-1).max() < 1e-3
