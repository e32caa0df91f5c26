"""Photos of every kind a user has."""

import numpy as np
import pytest
from PIL import Image

from mvp4d.core.errors import UserError
from mvp4d_jax.sampling.reference import load_photo

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def gradient():
    ramp = np.linspace(0, 255, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 3)) * [1, 0.5, 0.25]
    return ramp.round().astype(np.uint8)


def test_rgb_is_read_as_it_is(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    rgb, alpha = load_photo(tmp_path / "a.png")
    np.testing.assert_allclose(rgb, gradient / 255, atol=1e-6)
    assert (alpha == 1).all()


def test_transparency_goes_on_white(tmp_path, gradient):
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, : WIDTH // 2] = 128
    Image.fromarray(np.dstack([gradient, alpha])).save(tmp_path / "a.png")
    rgb, _ = load_photo(tmp_path / "a.png")
    share = alpha[..., None] / 255
    np.testing.assert_allclose(rgb, gradient / 255 * share + 1 - share, atol=1e-6)


def test_grey_sixteen_bit_and_cmyk_keep_their_meaning(tmp_path):
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    rgb, _ = load_photo(tmp_path / "deep.png")
    np.testing.assert_allclose(rgb, np.repeat(grey[..., None] / 65535, 3, -1), atol=1e-4)
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_allclose(load_photo(tmp_path / "grey.png")[0][..., 0], (grey >> 8) / 255, atol=1e-6)
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    rgb, _ = load_photo(tmp_path / "a.jpg")
    assert (rgb[..., 0] > 0.9).all() and (rgb[..., 1:] < 0.1).all()


def test_exif_rotation_is_applied(tmp_path, gradient):
    image = Image.fromarray(gradient)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    image.save(tmp_path / "a.png", exif=exif)
    rgb, _ = load_photo(tmp_path / "a.png")
    np.testing.assert_allclose(rgb, np.rot90(gradient, -1) / 255, atol=1e-6)


def test_mask_removes_the_background(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    rgb, alpha = load_photo(tmp_path / "a.png", tmp_path / "m.png")
    assert (rgb[mask == 0] == 1).all() and (alpha == mask / 255).all()
    Image.fromarray(mask[:20]).save(tmp_path / "short.png")
    with pytest.raises(UserError, match=r"short\.png"):
        load_photo(tmp_path / "a.png", tmp_path / "short.png")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"hello", b"\xff\xd8\xff\xe0" + b"0" * 50])
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_photo(tmp_path / "a.png")
    assert "\n" not in str(caught.value) and "a.png" in str(caught.value)


def test_missing_tiny_and_huge_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_photo(tmp_path / "none.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "tiny.png")
    with pytest.raises(UserError, match="too few"):
        load_photo(tmp_path / "tiny.png")
    Image.new("1", (60000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match="too many"):
        load_photo(tmp_path / "huge.png")
