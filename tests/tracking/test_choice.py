"""Which frames of a clip become photos, and which photos are refused."""

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.tracking import choice
from mvp4d_jax.tracking.choice import check_one_person, choose_frames, note_differences, sharpness
from mvp4d_jax.tracking.landmarks import Landmarks

SIZE = (120, 160)
FACE = np.stack(np.meshgrid(np.linspace(60, 100, 17), np.linspace(40, 80, 4)), -1).reshape(-1, 2)  # [68, 2]


def clip(count, yaw, blurred=()):
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    soft = np.full((*SIZE, 3), 120, np.uint8)
    frames = [soft if index in blurred else sharp for index in range(count)]
    rotation = np.zeros((count, 3))
    rotation[:, 1] = yaw
    still = np.zeros((count, 3))
    motion = Motion(np.zeros((count, 4)), rotation, still, still, still, np.zeros((count, 2, 3)))
    seen = Landmarks(np.repeat(FACE[None], count, 0), np.full((count, 2, 2), np.nan), SIZE)
    return frames, seen, motion, np.full(count, 0.02)


def test_sharp_frames_spread_over_the_turn():
    """A head that turns from -1 to 1 rad, every second frame blurred: both ends, and the middle, all sharp."""
    yaw = np.linspace(-1, 1, 41)
    chosen = choose_frames(*clip(41, yaw, blurred=range(1, 41, 2)), most=5)
    assert len(chosen) == 5 and chosen == sorted(chosen) and all(index % 2 == 0 for index in chosen)
    assert {0, 40} <= set(chosen) and min(abs(yaw[chosen])) < 0.11
    assert np.diff(yaw[chosen]).min() > 0.3


def test_an_expression_is_something_new():
    frames, seen, motion, error = clip(20, np.zeros(20))
    motion.expression[7, 2] = 1.0
    chosen = choose_frames(frames, seen, motion, error)
    assert len(chosen) == 2 and 7 in chosen  # nothing else is new: no more than two


def test_frames_where_the_face_leaves_or_the_fit_fails_are_left_out():
    frames, seen, motion, error = clip(9, np.linspace(-1, 1, 9))
    seen.points[0] += [80, 0]  # half out of the picture
    seen.points[8] = np.nan
    error[[7, 8]] = 0.2, np.nan
    assert set(choose_frames(frames, seen, motion, error)) <= set(range(1, 7))
    seen.points[:] += [1000, 0]
    with pytest.raises(UserError, match="no frame whose face lies whole"):
        choose_frames(frames, seen, motion, error)


def test_sharpness_does_not_depend_on_the_pictures_size():
    """A checkerboard of 8 pixels, and the same at twice the size; blurring makes it less."""
    board = np.uint8(255 * ((np.add.outer(np.arange(240) // 20, np.arange(320) // 20)) % 2))
    small, large = np.dstack([board] * 3), np.dstack([board.repeat(2, 0).repeat(2, 1)] * 3)
    one, two = sharpness(small, 2 * FACE), sharpness(large, 4 * FACE)
    assert one == pytest.approx(two, rel=0.05)


class Described:
    """Stands in for `describe_faces`: unit vectors at given angles, NaN for None."""

    def __init__(self, monkeypatch, *degrees):
        self.rows = np.array(
            [
                np.full(128, np.nan)
                if angle is None
                else [np.cos(np.radians(angle)), np.sin(np.radians(angle)), *np.zeros(126)]
                for angle in degrees
            ]
        )
        monkeypatch.setattr(choice, "describe_faces", lambda pictures, count: self.rows)


def photos(count):
    seen = [Landmarks(FACE[None], np.full((1, 2, 2), np.nan), SIZE)] * count
    return [f"{index}.png" for index in range(count)], [np.full((*SIZE, 3), 120, np.uint8)] * count, seen


def test_the_odd_one_is_named(monkeypatch):
    Described(monkeypatch, 0, 10, 60, 5)  # chords: 2 sin(a / 2); 55 degrees apart is 0.92
    with pytest.raises(UserError, match=r"2\.png: seems to show another person than 3\.png .*0\.92.*same_person"):
        check_one_person(*photos(4))


def test_one_person_passes(monkeypatch, capsys):
    Described(monkeypatch, 0, 20, None)
    check_one_person(*photos(3))
    assert "2.png" in capsys.readouterr().err


def test_without_descriptors_it_is_said(monkeypatch, capsys):
    def fail(pictures, count):
        raise UserError("dlib", "no network")

    monkeypatch.setattr(choice, "describe_faces", fail)
    check_one_person(*photos(2))
    assert "was not checked: dlib: no network" in capsys.readouterr().err


def test_other_light_and_small_faces_are_said(capsys):
    names, pictures, seen = photos(3)
    pictures[1] = np.full((*SIZE, 3), 200, np.uint8)  # (200 / 120)^2.2 = 3.1 times as bright
    note_differences(names, pictures, seen)
    said = capsys.readouterr().err
    assert "1.png: its face is 3.1 times as bright as in 0.png" in said and "2.png: its face is 3" not in said
    assert said.count("pixels wide; it adds little detail") == 3
