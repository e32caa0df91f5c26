"""Pictures of every kind a user has."""

import os

import numpy as np
import pytest
from PIL import Image, ImageCms

from mvp4d.core.errors import UserError
from mvp4d.core.images import has_alpha, image_size, read_image, read_mask, read_photo, read_picture, told_focal

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def gradient():
    ramp = np.linspace(0, 255, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 3)) * [1, 0.5, 0.25]
    return ramp.round().astype(np.uint8)


def test_rgb_is_read_as_it_is(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    rgb, alpha = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(rgb, gradient)
    assert (alpha == 255).all()


def test_transparency_is_alpha_and_colours_stay_straight(tmp_path, gradient):
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, : WIDTH // 2] = 128
    Image.fromarray(np.dstack([gradient, alpha])).save(tmp_path / "a.png")
    rgb, found = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(found, alpha)
    np.testing.assert_array_equal(rgb[alpha > 0], gradient[alpha > 0])


def test_grey_sixteen_bit_and_cmyk_keep_their_meaning(tmp_path):
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    rgb, _ = read_photo(tmp_path / "deep.png")
    np.testing.assert_allclose(rgb, np.repeat(grey[..., None] / 257, 3, -1), atol=0.5 + 1e-6)
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png")[0][..., 0], grey >> 8)
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    rgb, _ = read_photo(tmp_path / "a.jpg")
    assert (rgb[..., 0] > 229).all() and (rgb[..., 1:] < 26).all()


def test_the_focal_length_that_a_camera_wrote_down(tmp_path, gradient):
    """48 mm before a diagonal of 43.3 is 1.109 diagonals: 1.387 times the longer side of 4 : 3."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA405: 48, 0xA002: 4032, 0xA003: 3024})
    for name, picture in (("wide", gradient), ("upright", gradient.swapaxes(0, 1)), ("cropped", gradient[:, :50])):
        Image.fromarray(picture).save(tmp_path / f"{name}.jpg", exif=exif)
    Image.fromarray(gradient).save(tmp_path / "plain.jpg")
    assert told_focal(tmp_path / "wide.jpg") == pytest.approx(48 / 43.27 * 5 / 4, rel=1e-3)
    assert told_focal(tmp_path / "upright.jpg") == told_focal(tmp_path / "wide.jpg")
    assert told_focal(tmp_path / "cropped.jpg") is None
    assert told_focal(tmp_path / "plain.jpg") is None
    exif.get_ifd(0x8769)[0xA405] = 0
    Image.fromarray(gradient).save(tmp_path / "unknown.jpg", exif=exif)
    assert told_focal(tmp_path / "unknown.jpg") is None


def test_exif_rotation_is_applied(tmp_path, gradient):
    image = Image.fromarray(gradient)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    image.save(tmp_path / "a.png", exif=exif)
    rgb, _ = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(rgb, np.rot90(gradient, -1))


def test_a_mask_is_alpha(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    rgb, alpha = read_photo(tmp_path / "a.png", tmp_path / "m.png")
    assert (rgb == gradient).all() and (alpha == mask).all()
    Image.fromarray(mask[:20]).save(tmp_path / "short.png")
    with pytest.raises(UserError, match=r"short\.png"):
        read_photo(tmp_path / "a.png", tmp_path / "short.png")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"hello", b"\xff\xd8\xff\xe0" + b"0" * 50])
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_photo(tmp_path / "a.png")
    assert "\n" not in str(caught.value) and "a.png" in str(caught.value)


def test_missing_tiny_and_huge_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such picture"):
        read_photo(tmp_path / "none.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "tiny.png")
    with pytest.raises(UserError, match="too few"):
        read_photo(tmp_path / "tiny.png")
    Image.new("1", (60000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match="too large"):
        read_photo(tmp_path / "huge.png")


@pytest.mark.parametrize("form", ["I;16 png", "I;16B tiff", "I;16 tiff", "float tiff", "8 bit png", "1 bit png"])
def test_greys_of_any_depth_mean_the_same_to_pictures_and_masks(tmp_path, form):
    """A ramp from black to white has a mean of 127.5, whatever it is stored in."""
    ramp = np.linspace(0, 1, WIDTH)[None].repeat(HEIGHT, 0)
    path = tmp_path / f"a.{form.split()[-1]}"
    depth = np.uint16(np.rint(ramp * 65535))
    if form.startswith("I;16"):
        Image.fromarray(depth.astype(">u2") if "B" in form else depth).save(path)
    elif form.startswith("float"):
        Image.fromarray(ramp.astype(np.float32)).save(path)
    else:
        bits = np.uint8(np.rint(ramp * 255))
        (Image.fromarray(bits) if form.startswith("8") else Image.fromarray(bits > 127)).save(path)
    expected = (ramp > 127.4 / 255) * 255.0 if form.startswith("1") else ramp * 255
    for found in (read_mask(path), read_image(path, mode="L"), *np.moveaxis(read_picture(path).rgb, -1, 0)):
        assert found.dtype == np.uint8
        assert np.abs(found - expected).max() <= 0.51


def test_hidden_colours_do_not_show(tmp_path):
    """Straight alpha over white, by its closed form; the mask is the transparency."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (8, 9, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    share = rgba[..., 3:] / 255
    expected = rgba[..., :3] * share + 255 * (1 - share)
    assert np.abs(read_image(tmp_path / "a.png", mode="RGB") - expected).max() <= 0.51
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", mode="RGBA"), rgba)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), rgba[..., 3])
    assert has_alpha(tmp_path / "a.png")


def test_a_palette_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.png", transparency=0)
    found = read_picture(tmp_path / "a.png")
    assert found.alpha[0].tolist() == [0, 255, 255, 255] and found.on_white()[0, :2].tolist() == [
        [255] * 3,
        [200, 100, 50],
    ]


def test_opaque_pictures_with_an_alpha_channel_are_masks_by_their_brightness(tmp_path):
    grey = np.uint8([[0, 255], [128, 7]])
    Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, 255)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), grey)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright(tmp_path, orientation):
    """The header's size and the pixels agree; the eight are EXIF's definition, by flips and turns of the array."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.tiff", exif=exif)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff", mode="RGB", size=upright.shape[:2]), upright)
    assert image_size(tmp_path / "a.tiff") == upright.shape[:2]


def test_colours_are_taken_to_srgb(tmp_path):
    """LAB's own profile and linear RGB, against the transfer function of IEC 61966-2-1."""
    linear = np.linspace(0.02, 1, 64)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    stored = np.uint8(np.rint(linear * 255))[None].repeat(2, 0)
    Image.fromarray(stored[..., None].repeat(3, -1)).save(tmp_path / "a.png", icc_profile=linear_profile())
    found = read_image(tmp_path / "a.png", mode="RGB")
    assert np.abs(found[0, :, 0] - encoded * 255).max() < 5 and found[0, 10, 0] > stored[0, 10] + 30
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), stored)  # a mask's numbers are no colours
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(stored[..., None].repeat(3, -1)).save(tmp_path / "b.png", icc_profile=srgb)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png", mode="RGB")[..., 0], stored)
    Image.fromarray(stored).save(tmp_path / "c.png", icc_profile=b"nonsense")
    np.testing.assert_array_equal(read_image(tmp_path / "c.png", mode="RGB")[..., 0], stored)


def linear_profile() -> bytes:
    """An sRGB profile whose three curves are the identity: ICC.1, a `curv` tag of no entries."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[:] = profile
    count = int.from_bytes(profile[128:132], "big")
    for index in range(count):
        entry = 132 + 12 * index
        if bytes(profile[entry : entry + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(profile[entry + 4 : entry + 8], "big")
            profile[offset : offset + 12] = b"curv" + bytes(8)
            profile[entry + 8 : entry + 12] = (12).to_bytes(4, "big")
    at = bytes(profile).find("sRGB".encode("utf-16-be"))
    while at >= 0:
        profile[at : at + 8] = "line".encode("utf-16-be")
        at = bytes(profile).find("sRGB".encode("utf-16-be"))
    return bytes(profile)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "tiff", "bmp"])
def test_formats(tmp_path, suffix, gradient):
    Image.fromarray(gradient).save(tmp_path / f"a.{suffix}", quality=95)
    found = read_image(tmp_path / f"a.{suffix}", mode="RGB", size=(HEIGHT, WIDTH))
    assert np.abs(found.astype(int) - gradient).mean() < 3
    os.rename(tmp_path / f"a.{suffix}", tmp_path / "b.png")  # the content tells, not the name
    np.testing.assert_array_equal(read_image(tmp_path / "b.png", mode="RGB"), found)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content, message",
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n{ } loop\n", "not a PNG"),
        (b"GIF89a" + bytes(100), "not a PNG"),
        (b"%PDF-1.7\n", "not a PNG"),
        (b"", "is empty; copy or download it again"),
        (b"P6\n9 9\n255\n", "not"),
        (bytes(4) + b"ftypheic" + bytes(100), "pip install pillow-heif"),
    ],
)
def test_no_other_decoder_is_started(tmp_path, content, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "portrait.png").write_bytes(content)
    for read in (read_picture, read_mask, read_photo, image_size, has_alpha):
        with pytest.raises(UserError, match=message):
            read(tmp_path / "portrait.png")


@pytest.mark.timeout(20)
def test_named_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a regular file"):
        read_picture(tmp_path / "a.png")


def test_pictures_that_cannot_be_told_are_refused(tmp_path):
    Image.fromarray(np.float32([[0, np.nan]])).save(tmp_path / "a.tiff")
    Image.fromarray(np.int32([[0, 70_000]])).save(tmp_path / "b.tiff")
    for name, message in (("a", "not finite"), ("b", "32-bit")):
        with pytest.raises(UserError, match=message):
            read_picture(tmp_path / f"{name}.tiff")
