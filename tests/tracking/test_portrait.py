"""From photos to a Portrait, with landmarks from files: no detector runs."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp4d.core.cameras.camera import project
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking import portrait as tracking
from mvp4d_jax.tracking.overlay import FITTED, FOUND, draw_portrait
from mvp4d_jax.tracking.portrait import (
    FittedPhoto,
    assemble,
    draw_faces,
    frontal_angle,
    settle,
    track_portrait,
)
from mvp4d_jax.tracking.upright import head_roll
from tests.tracking.test_solve import CAMERA, SIZE, moving, observe

ROTATIONS = ([0.05, 0.5, 0.0], [0.0, 0.1, 0.0])


@pytest.fixture(scope="module")
def builtin():
    return load_head("builtin")


@pytest.fixture(scope="module")
def photos(builtin, tmp_path_factory):
    """Two pictures whose colour says where a pixel was, their landmarks, and a mask for each."""
    folder = tmp_path_factory.mktemp("photos")
    shape = np.random.default_rng(1).normal(0, 0.5, builtin.shape_count).astype(np.float32)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = np.dstack([rows * 255 // SIZE[0], columns * 255 // SIZE[1], np.full(SIZE, 90)]).astype(np.uint8)
    mask = np.uint8(255 * ((rows - 400) ** 2 + (columns - 300) ** 2 < 250**2))
    for index, rotation in enumerate(ROTATIONS):
        seen = observe(builtin, moving(builtin, [rotation], {}), shape)
        np.savez(folder / f"{index}.npz", landmarks=seen.points)
        Image.fromarray(picture).save(folder / f"{index}.png")
        Image.fromarray(mask).save(folder / f"{index}_mask.png")
    return folder, picture, mask


@pytest.fixture(scope="module")
def portrait(builtin, photos):
    folder = photos[0]
    return track_portrait(
        [folder / "0.png", folder / "1.png"],
        builtin,
        matte="none",
        landmarks=[folder / "0.npz", folder / "1.npz"],
        masks=[folder / "0_mask.png", folder / "1_mask.png"],
    )


def test_crops_keep_pixels_and_cameras_follow(builtin, portrait, photos):
    """The head drawn with a crop's camera lands on the landmarks, less the crop's corner; pixels are untouched."""
    folder, picture, mask = photos
    for index in range(2):
        photo, camera = portrait.photos[index], portrait.camera[index]
        left, top = round(300 - float(camera.cx)), round(400 - float(camera.cy))
        height, width = photo.shape[:2]
        np.testing.assert_array_equal(photo[..., :3], picture[top : top + height, left : left + width])
        np.testing.assert_array_equal(photo[..., 3], mask[top : top + height, left : left + width])
        vertices = np.asarray(skin(portrait.head, portrait.motion[slice(index, index + 1)]))
        points, _ = project(camera, np.asarray(landmarks(portrait.head, vertices), np.float64)[0])
        wanted = np.load(folder / f"{index}.npz")["landmarks"][0] - [left, top]
        assert np.linalg.norm(points - wanted, axis=-1).mean() < 0.01 * np.ptp(wanted, axis=0).max()
        np.testing.assert_allclose(portrait.landmarks[index], wanted)


def test_found_and_fitted_landmarks_are_drawn(portrait):
    """Where a photo was not looked at, the fitted ones alone; found ones in the row of their own photo."""
    found = np.full_like(portrait.landmarks, np.nan)
    found[1] = portrait.landmarks[1] - [0, 25]
    drawn = draw_portrait(dataclasses.replace(portrait, landmarks=found), height=480)
    for index, row in enumerate((drawn[:480], drawn[480:])):
        height, width = portrait.photos[index].shape[:2]
        side = round(width * 480 / height)
        overlay = row[:, side : 2 * side]
        assert (overlay == FITTED).all(-1).sum() > 68
        green = (overlay == FOUND).all(-1)
        assert green.any() == (index == 1)
        if index == 1:
            x, y = np.round(found[1][27] * [side / width, 480 / height]).astype(int)  # of the nose's root
            assert green[y, x]


def test_the_most_frontal_photo_is_the_reference(portrait):
    angles = [frontal_angle(portrait.camera[index], portrait.motion[slice(index, index + 1)]) for index in range(2)]
    assert portrait.reference == 1 and portrait.sources == ("0.png", "1.png")
    # the head is turned by the length of its rotation vector from looking along +z, where the camera nearly is
    np.testing.assert_allclose(angles, np.degrees([np.linalg.norm(ROTATIONS[0]), 0.1]), atol=3)


def test_large_photos_are_scaled_down(builtin, photos, tmp_path):
    folder, picture, _ = photos
    Image.fromarray(picture).resize((3 * SIZE[1], 3 * SIZE[0]), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    np.savez(tmp_path / "l.npz", landmarks=3 * np.load(folder / "1.npz")["landmarks"])
    found = track_portrait([tmp_path / "large.png"], builtin, matte="none", landmarks=[tmp_path / "l.npz"])
    assert max(found.photos[0].shape[:2]) == 1024
    vertices = np.asarray(skin(found.head, found.motion))
    points, _ = project(found.camera[0], np.asarray(landmarks(found.head, vertices), np.float64)[0])
    # the colours at the landmarks are those of the places that they were observed at
    seen = np.load(folder / "1.npz")["landmarks"][0]
    for places, most in ((points, 3), (found.landmarks[0], 1)):
        inside = (places > 1).all(1) & (places < 1020).all(1)
        colours = found.photos[0][places[inside, 1].astype(int), places[inside, 0].astype(int), :2]
        wanted = picture[seen[inside, 1].astype(int), seen[inside, 0].astype(int), :2]
        assert np.abs(colours.astype(int) - wanted).mean() < most


@pytest.mark.parametrize(("scale", "told"), [(1.0, ""), (0.5, "1.png: the face is {} pixels wide; below 180")])
def test_a_face_that_makes_a_blurred_avatar_is_said(builtin, photos, tmp_path, capsys, scale, told):
    folder, picture, _ = photos
    points = scale * np.load(folder / "1.npz")["landmarks"]
    size = round(scale * SIZE[1]), round(scale * SIZE[0])
    Image.fromarray(picture).resize(size).save(tmp_path / "1.png")
    np.savez(tmp_path / "1.npz", landmarks=points)
    track_portrait([tmp_path / "1.png"], builtin, matte="none", landmarks=[tmp_path / "1.npz"])
    side = np.sqrt(np.prod(np.ptp(points[0], axis=0)))
    said = capsys.readouterr().err
    assert told.format(f"{side:.0f}") in said and ("avatar will be blurred" in said) == bool(told)


def test_faces_are_drawn_with_hair_and_neck():
    points = np.stack(np.meshgrid(np.linspace(20, 40, 10), np.linspace(30, 60, 10)), -1).reshape(-1, 2)
    drawn = draw_faces((100, 100), [points])
    assert drawn[[45, 25, 65, 45, 85], [30, 30, 30, 50, 30]].tolist() == [2, 1, 1, 0, 0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"matte": "blue"}, "none of auto, none"),
        ({"masks": ["0_mask.png"]}, "1 for 2 photos"),
        ({"landmarks": ["0.npz"]}, "1 for 2 photos"),
        ({"focal": 0.5}, "at least 1"),
    ],
)
def test_inputs_that_do_not_fit(photos, builtin, options, message):
    folder = photos[0]
    options = {
        name: [folder / item for item in value] if isinstance(value, list) else value for name, value in options.items()
    }
    with pytest.raises(UserError, match=message):
        track_portrait([folder / "0.png", folder / "1.png"], builtin, **options)


@pytest.mark.parametrize("alpha", [0, "exchanged"])
def test_a_mask_that_leaves_out_the_head(portrait, alpha):
    photo = portrait.photos[0]
    alpha = np.zeros_like(photo[..., 3]) if alpha == 0 else 255 - photo[..., 3]
    shot = FittedPhoto("0.png", photo[..., :3], alpha, portrait.camera[0], portrait.motion[:1])
    with pytest.raises(UserError, match=r"0\.png: its mask, or its own transparency, keeps \d+% of the head; white"):
        assemble([shot], portrait.head, cut=False)
    assemble([dataclasses.replace(shot, alpha=photo[..., 3])], portrait.head, cut=False)


def test_no_photo():
    with pytest.raises(UserError, match="no photo"):
        track_portrait([])


def test_a_face_at_rest_sneers_for_no_photo(builtin):
    """What photos have of a sneer on the mean becomes the head's; every photo's face stays what it was."""
    shots = [
        FittedPhoto(
            "a.png",
            np.zeros((8, 8, 3), np.uint8),
            np.zeros((8, 8), np.uint8),
            CAMERA,
            moving(builtin, [[0.0, 0.1, 0.0]], {"noseSneerLeft": left, "noseSneerRight": 0.2, "jawOpen": 0.5}),
        )
        for left in (0.4, 0.1)
    ]
    settled, rig = settle(shots, builtin)
    sneer, jaw = (builtin.expression_names.index(name) for name in ("noseSneerLeft", "jawOpen"))
    np.testing.assert_allclose([shot.motion.expression[0, sneer] for shot in settled], [0.15, -0.15], atol=1e-6)
    assert all(shot.motion.expression[0, jaw] == 0.5 for shot in settled)
    for before, after in zip(shots, settled):
        np.testing.assert_allclose(skin(rig, after.motion), skin(builtin, before.motion), atol=1e-6)
    moved = np.abs(np.asarray(rig.template) - np.asarray(builtin.template)).max(-1)
    assert moved.max() > 5e-4 and np.median(moved) < 1e-5  # the nose, not the head


def test_a_clip_is_read_no_further_than_its_last_kept_frame(monkeypatch):
    """Of 30 frames, each as bright as its number, the 3rd and the 8th are kept."""
    read = []

    class Clip:
        path, frame_count = Path("clip.mp4"), 30

        def frames(self):
            for index in range(30):
                read.append(index)
                yield np.full((4, 4, 3), index, np.uint8)

    still = types.SimpleNamespace(camera=CAMERA, motion=np.arange(30), error=np.zeros(30), shape=np.zeros(3))
    found = types.SimpleNamespace(points=np.arange(30), box_size=300.0)
    monkeypatch.setattr(tracking, "track", lambda source, head, **options: (still, still, found))
    monkeypatch.setattr(tracking, "choose_frames", lambda frames, *rest: [7, 2])
    shots, _ = tracking._from_clip(Clip(), None, None, None, None, 2)
    assert read == list(range(8))
    assert [(shot.rgb[0, 0, 0], shot.motion.tolist(), shot.points) for shot in shots] == [(2, [2], 2), (7, [7], 7)]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_photo_that_lies_is_turned_upright(photos, builtin, tmp_path, quarters, capsys):
    """The same portrait as of the photo that stands, whose pixels and landmarks were turned anticlockwise before."""
    folder, picture, _ = photos
    seen = np.load(folder / "0.npz")["landmarks"]
    height, width = SIZE
    for _ in range(quarters):
        seen = np.stack([seen[..., 1], width - seen[..., 0]], -1)
        height, width = width, height
    np.savez(tmp_path / "0.npz", landmarks=seen)
    Image.fromarray(np.rot90(picture, quarters)).save(tmp_path / "0.png")
    stands, lies = (
        track_portrait([place / "0.png"], builtin, matte="none", landmarks=[place / "0.npz"])
        for place in (folder, tmp_path)
    )
    np.testing.assert_array_equal(lies.photos[0], stands.photos[0])
    np.testing.assert_allclose(lies.motion.rotation, stands.motion.rotation, atol=1e-4)
    word = {1: "on its side", 2: "upside down", 3: "on its side"}
    assert word.get(quarters, "") in capsys.readouterr().err


def test_two_ways_to_hold_one_camera_have_one_focal_length(photos, builtin, tmp_path):
    folder, picture, _ = photos
    seen = np.load(folder / "1.npz")["landmarks"]
    np.savez(tmp_path / "1.npz", landmarks=np.stack([seen[..., 1], SIZE[1] - seen[..., 0]], -1))
    Image.fromarray(np.rot90(picture)).save(tmp_path / "1.png")
    made = track_portrait(
        [folder / "0.png", tmp_path / "1.png"],
        builtin,
        matte="none",
        landmarks=[folder / "0.npz", tmp_path / "1.npz"],
        focal=float(CAMERA.fx),
    )
    assert len(made.photos) == 2


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0])
def test_the_roll_of_a_head(degrees):
    turned = types.SimpleNamespace(rotation=np.deg2rad([[0.0, 0.0, degrees]]))
    assert head_roll(CAMERA, turned) == pytest.approx(degrees, abs=1e-4)
