"""Landmarks: the table, choosing a face, reading a file."""

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.tracking.landmarks import choose_face, from_mesh, read_landmarks


def mesh_at(*centres, size=40.0):
    """Faces [K, 478, 2]: clouds of points about centres."""
    cloud = np.random.default_rng(0).uniform(-size, size, (478, 2))
    return np.stack([cloud + centre for centre in centres])


def test_mesh_points_follow_multipie():
    """Spot checks of the order: chin, nose tip, outer eye corners, mouth corners, by MediaPipe's documented indices."""
    mesh = np.zeros((1, 478, 2))
    mesh[0, :, 0] = np.arange(478)
    found = from_mesh(mesh, (100, 100))
    assert found.points.shape == (1, 68, 2)
    index = found.points[0, :, 0]
    assert index[8] == 152 and index[30] == 4 and index[36] == 33 and index[45] == 263
    assert index[48] == 61 and index[54] == 291 and index[62] == 13 and index[66] == 14
    assert index[19] == (105 + 52) / 2
    assert found.iris[0, :, 0].tolist() == [473, 468]


def faces_of(frames, most=3):
    out = np.full((len(frames), most, 478, 2), np.nan)
    for index, meshes in enumerate(frames):
        for place, mesh in enumerate(meshes):
            out[index, place] = mesh
    return out


def test_the_largest_face_or_the_nth_from_the_left():
    small, large = mesh_at((300, 100), size=20), mesh_at((100, 100), size=40)
    faces = faces_of([np.concatenate([small, large])])
    assert choose_face(faces, None, "x")[0].mean(0)[0] == pytest.approx(large.mean((0, 1))[0])
    assert choose_face(faces, 2, "x")[0].mean(0)[0] == pytest.approx(small.mean((0, 1))[0])
    with pytest.raises(UserError, match="has 2 faces"):
        choose_face(faces, 3, "x")
    with pytest.raises(UserError, match="no face was found"):
        choose_face(faces_of([[], []]), None, "photo.png")


def test_a_face_is_followed_through_a_video():
    """Two people; the detector lists them in changing order and loses one of them for a while."""
    frames = []
    for time in range(8):
        a, b = mesh_at((100 + 5 * time, 100)), mesh_at((400 - 5 * time, 100), size=38)
        frames.append(b if 3 <= time < 5 else np.concatenate([a, b] if time % 2 else [b, a]))
    chosen = choose_face(faces_of(frames), None, "x")
    middle = mesh_at((0, 0)).mean((0, 1))[0]
    for time in range(8):
        if 3 <= time < 5:
            assert np.isnan(chosen[time]).all()
        else:
            assert chosen[time].mean(0)[0] == pytest.approx(100 + 5 * time + middle)


@pytest.mark.parametrize("shape", [(68, 2), (1, 68, 3), (478, 2), (1, 478, 3)])
def test_reading(tmp_path, shape):
    points = np.random.default_rng(0).uniform(20, 80, shape).astype(np.float32)
    np.savez(tmp_path / "l.npz", landmarks=points)
    found = read_landmarks(tmp_path / "l.npz", (100, 100), 1, 25.0)
    assert found.points.shape == (1, 68, 2) and found.found.all()
    if 68 in shape:
        np.testing.assert_array_equal(found.points[0], points.reshape(-1, shape[-1])[:, :2])
        assert np.isnan(found.iris).all()


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"points": np.zeros((68, 2))}, "lacks the array"),
        ({"landmarks": np.zeros((5, 2))}, "expected"),
        ({"landmarks": np.zeros((2, 68, 2))}, "2 frames"),
        ({"landmarks": np.full((68, 2), np.nan)}, "no frame with a face"),
        ({"landmarks": np.random.default_rng(0).uniform(0, 1, (68, 2))}, "do not lie in the picture"),
        ({"landmarks": np.random.default_rng(0).uniform(900, 1000, (68, 2))}, "do not lie in the picture"),
        ({"landmarks": np.full((68, 2), "a")}, "expected"),
    ],
)
def test_wrong_files_end_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "l.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_landmarks(tmp_path / "l.npz", (100, 100), 1, 25.0)
