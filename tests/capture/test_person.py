"""A person's folder: written, read, checked, and refused where it is damaged."""

import argparse
import dataclasses
import json
import shlex

import numpy as np
import pytest
from small_world import ball, motion

from mvp4d.cli import main
from mvp4d.commands import sample
from mvp4d.core.cameras.camera import FIELDS, Camera, look_at, stack
from mvp4d.core.capture.portrait import Portrait, is_person, open_person, save_person
from mvp4d.core.errors import UserError
from mvp4d_jax.sampling import inputs


@pytest.fixture
def person(tmp_path):
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 255, (size, size + 3, 4), np.uint8) for size in (40, 64))
    view = look_at(np.array([0, 0, 1.2]), np.zeros(3))
    cameras = stack([Camera(view, *(np.float64(value) for value in (focal, focal, 30, 20))) for focal in (90, 120)])
    portrait = Portrait(photos, cameras, motion(2), ball(), 1, ("a.jpg", "b.jpg"), rng.normal(0, 40, (2, 68, 2)))
    save_person(tmp_path / "person", portrait)
    return tmp_path / "person", portrait


def test_it_comes_back_as_it_was(person):
    path, portrait = person
    found = open_person(path)
    assert repr(found) == "Portrait(2 photos, reference b.jpg, on head 'ball')"
    assert is_person(path) and found.reference == 1 and found.sources == portrait.sources
    for ours, theirs in zip(found.photos, portrait.photos):
        np.testing.assert_array_equal(ours, theirs)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found.camera, name), getattr(portrait.camera, name))
    np.testing.assert_array_equal(found.motion.rotation, portrait.motion.rotation)
    np.testing.assert_array_equal(found.landmarks, portrait.landmarks)
    np.testing.assert_array_equal(found.head.template, portrait.head.template)


def test_what_is_shown_of_a_person_whose_photos_have_no_names(person):
    for sources in ((), ("", "")):
        nameless = dataclasses.replace(person[1], sources=sources)
        assert repr(nameless) == "Portrait(2 photos, reference 1, on head 'ball')"


def test_landmarks_may_be_missing(person, tmp_path):
    _, portrait = person
    for name, points in (("none", None), ("one", portrait.landmarks * [[[np.nan]], [[1]]])):
        save_person(tmp_path / name, dataclasses.replace(portrait, landmarks=points))
        assert (tmp_path / name / "portrait" / "landmarks.npz").exists() == (points is not None)
        np.testing.assert_equal(open_person(tmp_path / name).landmarks, points)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_landmarks_may_be_of_half_precision(person):
    path, portrait = person
    half = portrait.landmarks.astype(np.float16)
    _landmarks(path, points=half)
    np.testing.assert_array_equal(open_person(path).landmarks, half.astype(np.float64))


def test_validate_says_what_it_is(person, capsys):
    assert main(["validate", str(person[0])]) == 0
    assert "portrait of 2 photos (40 x 43, 64 x 67)" in capsys.readouterr().out


def test_the_next_command_is_one_that_a_shell_and_the_verb_take(person, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mvp4d.track", lambda *photos, **options: person[1], raising=False)
    out = tmp_path / "Ich, am See"
    assert main(["track", "a.jpg", "--out", str(out)]) == 0
    words = shlex.split(capsys.readouterr().out.partition("next: mvp4d ")[2])
    parser = argparse.ArgumentParser()
    sample.configure(parser)
    assert words[0] == "sample" and parser.parse_args(words[1:]).reference == str(out)


def test_a_folder_that_may_not_be_looked_into_is_passed_over(person, monkeypatch):
    """Beside the person lies somebody else's folder: that is not what is wrong with the reference."""
    (person[0].parent / "other").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "other")
    looked = inputs.is_person

    def refused(path):
        if path.name == "other":
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(inputs, "is_person", refused)
    with pytest.raises(UserError, match=f"there is a person at {person[0]}"):
        inputs.open_portrait(person[0].parent)


def test_only_a_person_is_replaced(person):
    path, portrait = person
    with pytest.raises(UserError, match="is already there"):
        save_person(path, portrait)
    save_person(path, portrait, overwrite=True)
    (path / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match=r"diary\.txt"):
        save_person(path, portrait, overwrite=True)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "portrait" / "photos" / "01.png").unlink(), r"01\.png"),
        (lambda folder: (folder / "head.npz").unlink(), r"head\.npz"),
        (lambda folder: (folder / "portrait" / "cameras.npz").write_bytes(b"no"), r"cameras\.npz"),
        (lambda folder: _landmarks(folder, points=np.zeros((1, 68, 2))), r"landmarks\.npz: .*\[1, 68, 2\]"),
        (lambda folder: _landmarks(folder, points=np.full((2, 68, 2), np.inf)), r"landmarks\.npz: .*pixels away"),
        (lambda folder: _landmarks(folder, points=np.full((2, 68, 2), "a")), r"landmarks\.npz: .*<U1"),
        (lambda folder: _landmarks(folder, other=np.zeros(1)), r"landmarks\.npz: .*'points'"),
        (lambda folder: _change(folder, reference=2), "field 'reference' is 2"),
        (lambda folder: _change(folder, version=9), "'format' and 'version'"),
        (lambda folder: _change(folder, photos=[]), "field 'photos'"),
    ],
)
def test_damage_is_named(person, damage, message):
    path, _ = person
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        open_person(path)
    assert "\n" not in str(caught.value)


def _landmarks(folder, **arrays):
    np.savez(folder / "portrait" / "landmarks.npz", **arrays)


def _change(folder, **fields):
    where = folder / "portrait" / "portrait.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | fields))
