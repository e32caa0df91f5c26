"""Cutting a person out: what is kept of a segmentation, and the edge's alpha and colours."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp4d.core.errors import UserError
from mvp4d_jax.tracking import cutout
from mvp4d_jax.tracking.cutout import Subject, cut_out, grow, hold, shrink
from mvp4d_jax.tracking.detector import MEDIAPIPE
from mvp4d_jax.tracking.portrait import track_portrait

SIZE = (200, 200)
ROWS, COLUMNS = np.mgrid[: SIZE[0], : SIZE[1]]


@pytest.fixture(scope="session")
def mediapipe():
    try:
        return MEDIAPIPE.python()
    except UserError as error:
        pytest.skip(f"MediaPipe cannot be had here: {error}")


def disc(row, column, radius):
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


HEAD = disc(100, 100, 40)  # 81 pixels high
RIG = HEAD | ((ROWS > 150) & (abs(COLUMNS - 100) < 60))
NOBODY = np.zeros(SIZE, np.uint8)
GREY = np.full((*SIZE, 3), 128, np.uint8)


def test_hair_is_kept_and_strangers_are_not():
    hair, friend = disc(95, 100, 50), disc(60, 185, 14)
    person, known = hold(GREY, (hair | RIG | friend) * 1.0, RIG, HEAD, NOBODY)
    assert (known[disc(95, 100, 46)] == 255).all() and (person[hair] == 1).all()
    assert (known[friend] == 0).all() and (person[friend] == 0).all()
    assert set(np.unique(known)) == {0, 128, 255}
    # the band of what is to be matted lies along the edge: within a twentieth of a head's height outside of it
    band = known == 128
    assert not band[~grow(hair | RIG, 0.05 * 81 + 1)].any() and not band[shrink(hair | RIG, 0.03 * 81 + 1)].any()


def test_a_link_as_thin_as_a_finger_ties_nobody():
    stranger = disc(100, 170, 20)
    link = (abs(ROWS - 100) < 2) & (COLUMNS > 100) & (COLUMNS < 170)
    _, known = hold(GREY, (HEAD | link | stranger) * 0.8, HEAD, HEAD, NOBODY)
    assert (known[disc(100, 170, 18)] == 0).all()


def test_a_doubtful_network_is_believed_only_near_the_head():
    """Leaves that it takes for hair with six in ten: kept at 5 pixels from the head, not at 30."""
    person = np.where(disc(100, 100, 75), 0.6, 0.0)
    person, known = hold(GREY, person, HEAD, HEAD, NOBODY)
    assert person[100, 145] == pytest.approx(0.6) and person[100, 172] == 0 and known[100, 172] == 0


def test_the_head_is_there_whatever_the_network_says():
    _, known = hold(GREY, np.zeros(SIZE), HEAD, HEAD, NOBODY)
    assert (known[disc(100, 100, 34)] == 255).all() and (known[~disc(100, 100, 50)] == 0).all()


def test_a_face_beside_the_head_is_parted_at_the_edge_of_colours():
    """Cheek to cheek: the network sees one person; a face was found in the right half, and the colours change."""
    both = disc(100, 100, 44) | disc(100, 172, 30)
    other = disc(100, 172, 30) & ~disc(100, 100, 44)
    rgb = np.where(other[..., None], [200, 160, 140], [90, 60, 50]).astype(np.uint8)
    faces = np.where(disc(100, 178, 18), 2, 0).astype(np.uint8)
    person, _ = hold(rgb, both * 1.0, HEAD, HEAD, faces)
    assert (person[disc(100, 178, 20)] == 0).all() and (person[disc(100, 100, 42)] == 1).all()


def test_growing_and_shrinking_are_discs():
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    rows, columns = np.mgrid[:21, :21] - 10
    np.testing.assert_array_equal(grow(mask, 5.0), rows**2 + columns**2 <= 25)
    np.testing.assert_array_equal(shrink(~mask, 5.0), rows**2 + columns**2 > 25)
    assert shrink(np.ones((4, 4), bool), 3.0).all()  # the picture's border is no outside


def test_the_script_imports_nothing_of_ours():
    tree = ast.parse(Path(cutout.__file__).with_name("selfie.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"mediapipe", "numpy", "pymatting", "scipy"}


def test_edge_colours_are_free_of_the_old_background(mediapipe):
    """A red disc with a soft edge on blue, its alpha given: at half alpha the colour is red again, not purple."""
    alpha = np.clip((50 - np.hypot(ROWS - 100, COLUMNS - 100)) / 6 + 0.5, 0, 1)
    rgb = alpha[..., None] * [220, 30, 30] + (1 - alpha[..., None]) * [20, 40, 230]
    subject = Subject(np.uint8(rgb), HEAD, HEAD, NOBODY, np.uint8(np.rint(alpha * 255)))
    (out,) = cut_out([subject])
    np.testing.assert_array_equal(out[..., 3], np.uint8(np.rint(alpha * 255)))
    edge = (alpha > 0.3) & (alpha < 0.7)
    assert np.abs(out[edge][:, :3].astype(float) - [220, 30, 30]).max() < 12
    assert np.abs(rgb[edge] - [220, 30, 30]).max() > 100  # as they were


def test_the_astronaut(mediapipe, tmp_path):
    """Points told by eye: hair, face, collar are hers; flag, shuttle and wall are not."""
    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    portrait = track_portrait([tmp_path / "a.png"])
    photo, camera = portrait.photos[0], portrait.camera[0]
    whole = track_portrait([tmp_path / "a.png"], matte="none")
    assert (whole.photos[0][..., 3] == 255).all()
    # where the crop lies in the whole picture: its camera's principal point was the middle of 512 x 512
    left, top = 256 - float(camera.cx), 256 - float(camera.cy)
    alpha = lambda x, y: photo[round(y - top), round(x - left), 3]  # noqa: E731
    for x, y in ((225, 40), (180, 80), (272, 95), (225, 110), (215, 195)):
        assert alpha(x, y) > 240, (x, y)
    for x, y in ((150, 20), (300, 40), (310, 100), (150, 130)):
        assert alpha(x, y) < 15, (x, y)


def test_the_astronaut_upside_down(mediapipe, tmp_path, capsys):
    """Detectors find upright faces in inverted ones, too."""
    data = pytest.importorskip("skimage.data")
    for name, picture in (("a", data.astronaut()), ("b", data.astronaut()[::-1, ::-1])):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    stands, lies = (track_portrait([tmp_path / f"{name}.png"], matte="none") for name in "ab")
    assert "note: b.png is upside down" in capsys.readouterr().err
    np.testing.assert_allclose(lies.landmarks, stands.landmarks, atol=3.0)  # pixels
    np.testing.assert_allclose(lies.motion.rotation, stands.motion.rotation, atol=0.05)
