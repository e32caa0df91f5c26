"""`mvp4d track` from picture to file. What needs MediaPipe is skipped where its environment cannot be built."""

import sys

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from mvp4d.cli import main
from mvp4d.core import images
from mvp4d.core.cameras.camera import project
from mvp4d.core.capture.fit import Fit
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.images import read_image
from mvp4d.core.video import VideoWriter
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking import detector, track
from mvp4d_jax.tracking.solve import SolveConfig

MOST_ERROR = 0.03  # of the face box: what a fit of a real photo must keep


@pytest.fixture(scope="session")
def mediapipe():
    """MediaPipe's environment; made once and kept in the cache folder."""
    try:
        return detector.MEDIAPIPE.python()
    except UserError as error:
        pytest.skip(f"MediaPipe cannot be had here: {error}")


@pytest.fixture(scope="session")
def builtin():
    return load_head("builtin")


@pytest.fixture(scope="session")
def astronaut(tmp_path_factory):
    data = pytest.importorskip("skimage.data")
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def fit_of(path, head, **options):
    fit, solution, found = track.track(track.Source.open(path), head, **options)
    error = np.linalg.norm(solution.projected - found.points, axis=-1).mean(-1)
    box = np.sqrt(np.prod(np.ptp(found.points, axis=1), axis=-1))
    return fit, error / box, found


@pytest.mark.parametrize("person", ["lincoln/abraham_lincoln", "tesla/tesla"])
def test_portraits_agree_with_the_tracker(mediapipe, builtin, shared_data, person):
    """Landmarks within 3 % of the face box, head rotation within 10 degrees of the tracker's own fit."""
    path = shared_data / "tracked_examples" / f"{person}.png"
    fit, error, _ = fit_of(path, builtin)
    assert error[0] <= MOST_ERROR
    theirs = Fit.load(path.parent / "fit.npz")
    relative = Rotation.from_rotvec(fit.motion.rotation[0]) * Rotation.from_rotvec(theirs.motion.rotation[0]).inv()
    assert np.degrees(relative.magnitude()) <= 10


def test_the_command_on_the_astronaut(mediapipe, astronaut, tmp_path, capsys, builtin):
    out = tmp_path / "fit.npz"
    assert main(["track", str(astronaut), "--out", str(out)]) == 0
    assert "overlay.png" in capsys.readouterr().out
    fit = Fit.load(out)
    assert fit.head == "builtin" and fit.frame_count == 1 and fit.resolutions.tolist() == [[512, 512]]
    # the written file, read back, still lays the head on the face: compare with MediaPipe's own points
    found = track.find_landmarks(track.Source.open(astronaut))
    vertices = np.asarray(landmarks(builtin, skin(builtin, fit.motion, fit.shape)), np.float64)[0]
    pixels, _ = project(fit.cameras[0, 0], vertices)
    assert np.linalg.norm(pixels - found.points[0], axis=-1).mean() / found.box_size <= MOST_ERROR
    overlay = images.read_image(tmp_path / "fit_overlay.png", mode="RGB")
    assert overlay.shape == (640, 1280, 3)
    assert np.abs(overlay[:, :640].astype(int) - overlay[:, 640:]).mean() > 5  # the right half has the mesh on it


def test_several_faces(mediapipe, astronaut, tmp_path):
    """The same person twice, the left one larger: the largest by default, others by number from the left."""
    face = Image.open(astronaut).crop((130, 0, 330, 200))
    canvas = Image.new("RGB", (900, 500), "white")
    canvas.paste(face.resize((440, 440)), (10, 30))
    canvas.paste(face.resize((300, 300)), (560, 100))
    canvas.save(tmp_path / "two.png")
    source = track.Source.open(tmp_path / "two.png")
    middle = [track.find_landmarks(source, face=number).points[0, :, 0].mean() for number in (None, 1, 2)]
    assert middle[0] == middle[1] < 450 < middle[2]
    with pytest.raises(UserError, match="has 2 faces"):
        track.find_landmarks(source, face=3)


def test_no_face_is_one_line(mediapipe, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert main(["track", str(tmp_path / "noise.png"), "--out", str(tmp_path / "fit.npz")]) == 2
    assert "no face was found" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "fit.npz").exists()


def test_a_driving_video_is_smooth(mediapipe, astronaut, builtin, tmp_path):
    """No frame further from its neighbours than three times the median step."""
    photo = Image.open(astronaut).crop((80, 0, 380, 300)).resize((480, 480))
    writer = VideoWriter(tmp_path / "v.mp4", (480, 480), 25.0, crf=10)
    angles = 12 * np.sin(np.linspace(0, 2.5, 14))
    for index, angle in enumerate(angles):
        writer.add(np.asarray(photo.rotate(angle, Image.Resampling.BICUBIC, translate=(2 * index, 0))))
    writer.close()
    fit, error, _ = fit_of(tmp_path / "v.mp4", builtin)
    assert error.max() <= MOST_ERROR and fit.motion.fps == 25.0
    vertices = np.asarray(landmarks(builtin, skin(builtin, fit.motion, fit.shape)), np.float64)
    pixels, _ = project(fit.cameras[0, 0], vertices)
    steps = np.linalg.norm(np.diff(pixels, axis=0), axis=-1).mean(-1)
    assert steps.max() <= 3 * np.median(steps)
    # the picture was turned about its axis, and so must the head: counter-clockwise is a turn about +z
    rotations = Rotation.from_rotvec(fit.motion.rotation)
    turned = np.degrees((rotations * rotations[0].inv()).as_rotvec()[:, 2])
    assert np.abs(turned - (angles - angles[0])).max() < 3


# --- without MediaPipe ----------------------------------------------------------------------------------------------
def test_landmarks_from_a_file(builtin, tmp_path, capsys):
    """Landmarks drawn from the head itself come back as its pose; no detector runs."""
    from tests.tracking.test_solve import SIZE, degrees_between, moving, observe

    motion = moving(builtin, [[0.1, -0.3, 0.05]], {})
    seen = observe(builtin, motion, np.zeros(builtin.shape_count, np.float32))
    np.savez(tmp_path / "l.npz", landmarks=seen.points)
    Image.new("RGB", SIZE[::-1], "grey").save(tmp_path / "photo.png")
    command = [
        "track",
        str(tmp_path / "photo.png"),
        "--landmarks",
        str(tmp_path / "l.npz"),
        "--out",
        str(tmp_path / "fit.npz"),
    ]
    assert main(command) == 0
    fit = Fit.load(tmp_path / "fit.npz")
    assert degrees_between(fit.motion.rotation[0], motion.rotation[0]) < 3
    assert main(["validate", str(tmp_path / "fit.npz")]) == 0


def test_landmarks_that_are_no_face(builtin, tmp_path):
    Image.new("RGB", (300, 300), "grey").save(tmp_path / "photo.png")
    np.savez(tmp_path / "l.npz", landmarks=np.random.default_rng(0).uniform(50, 250, (68, 2)))
    with pytest.raises(UserError, match="cannot be laid on this face"):
        track.track(
            track.Source.open(tmp_path / "photo.png"), builtin, landmarks=tmp_path / "l.npz", config=SolveConfig()
        )


def test_without_a_network_one_line_names_the_other_way(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match="--landmarks FILE") as caught:
        detector.MEDIAPIPE.python()
    assert "\n" not in str(caught.value)
    assert not detector.MEDIAPIPE.folder.exists()
    cache = tmp_path / "cache" / "mvp4d"
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("nothing.png", None, "no such file"),
        ("x.png", b"no picture", "not a PNG, JPEG"),
        ("x.mp4", b"no video", "not a readable video"),
        ("x.txt", b"text", "neither a picture nor a video"),
    ],
)
def test_sources_that_are_none(tmp_path, name, content, message, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["track", str(tmp_path / name), "--out", str(tmp_path / "fit.npz")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_photos_are_upright_and_on_white(tmp_path):
    """EXIF rotation is applied; what is transparent becomes white."""
    picture = Image.fromarray(np.uint8(np.arange(48).reshape(2, 8, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", mode="RGB"), np.rot90(np.asarray(picture), -1))
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = [10, 20, 30, 255]
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", mode="RGB").reshape(-1, 3).tolist() == [[10, 20, 30]] + [[255] * 3] * 3


def test_the_script_imports_nothing_of_ours():
    """It runs in another environment: the standard library and what MediaPipe's holds are all it may use."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(detector.__file__).with_name("facemesh.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.name.split(".")[0] for node in imports for alias in node.names}
    assert names - set(sys.stdlib_module_names) == {"cv2", "mediapipe", "numpy"}
