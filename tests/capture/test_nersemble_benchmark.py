"""NeRSemble's benchmark in the layout of its toolkit: read against the toolkit's rule for its FLAME, handed in as its
readers look for it. Where the toolkit is installed, paths and tables are compared with its own."""

import dataclasses
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.cli import main
from mvp4d.core.capture import Capture
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.nersemble_benchmark import (
    TASKS,
    TRACKING,
    held_out_views,
    import_nersemble_benchmark,
    write_submission,
)
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d.core.video import VideoWriter, read_video, video_facts
from mvp4d_jax.heads.skinning import skin
from tests.capture.toy import make_cameras, make_motion, make_rig
from tests.heads.flame_files import flame_arrays

FRAMES, UNIT = 3, 7.3
MONO, NVS = TASKS["mono_flame_avatar"], TASKS["nvs"]
SERIALS = MONO.serials


def axis(which: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}
    return np.array(rows.get(which, [[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def write_films(folder: Path, serial: str, task, ground: int) -> np.ndarray:
    """A disc on one colour with a soft edge, and its alpha; returns the alpha."""
    height, width = task.size
    y, x = np.mgrid[:height, :width]
    alpha = np.clip((0.3 * width - np.hypot(x - width / 2, y - height / 2)) / 40, 0, 1)
    colour = np.full((height, width, 3), (180, 90, 60), float)
    for kind, picture in (
        ("images", alpha[..., None] * colour + (1 - alpha[..., None]) * ground),
        ("alpha_maps", np.repeat(255 * alpha[..., None], 3, 2)),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        with VideoWriter(folder / kind / f"cam_{serial}.mp4", task.size, task.fps, crf=4) as writer:
            for _ in range(FRAMES):
                writer.add(np.uint8(np.rint(picture)))
    return alpha


def write_calibration(person: Path, matrices: dict[str, np.ndarray], intrinsics: np.ndarray) -> None:
    (person / "calibration").mkdir(parents=True)
    text = {
        "world_2_cam": {serial: matrix.tolist() for serial, matrix in matrices.items()},
        "intrinsics": {serial: intrinsics.tolist() for serial in matrices},
    }
    (person / "calibration" / "camera_params.json").write_text(json.dumps(text))


@pytest.fixture(scope="module")
def flame(tmp_path_factory):
    arrays = {key: value.toarray() if hasattr(value, "toarray") else value for key, value in flame_arrays().items()}
    path = tmp_path_factory.mktemp("flame") / "flame2023.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if not isinstance(value, str)})
    return path


@pytest.fixture(scope="module")
def mono(tmp_path_factory):
    """Participant 461: one sequence with the training camera's video, and one of which the tracking alone is given."""
    person = tmp_path_factory.mktemp("benchmark") / "mono_flame_avatar" / "461"
    rng = np.random.default_rng(0)
    matrices = {}
    for number, serial in enumerate(SERIALS):
        turn = Rotation.from_euler("y", 0.3 * (number - 1)).as_matrix() @ np.diag([1.0, -1, -1])
        matrices[serial] = np.eye(4)
        matrices[serial][:3, :3], matrices[serial][:3, 3] = turn, [0, 0, 1.1 * UNIT]
    write_calibration(person, matrices, np.array([[1300.0, 0, 250], [0, 1310, 260], [0, 0, 1]]))
    write_films(person / "sequences" / "EXP-1-head", SERIALS[0], MONO, 255)
    tracking = {
        "shape": rng.normal(0, 0.5, (1, 300)),
        "expression": rng.normal(0, 0.5, (FRAMES, 100)),
        "rotation": rng.normal(0, 0.4, (FRAMES, 3)),
        "translation": rng.normal(0, 0.02 * UNIT, (FRAMES, 3)),
        "jaw": rng.normal(0, 0.1, (FRAMES, 3)),
        "frames": np.arange(FRAMES),
        "scale": np.full((1, 1), UNIT),
        "neck": rng.normal(0, 0.1, (FRAMES, 3)),
        "eyes": rng.normal(0, 0.1, (FRAMES, 6)),
    }
    tracking["rotation_matrices"] = np.stack(
        [axis("x", a) @ axis("y", b) @ axis("z", c) for a, b, c in tracking["rotation"]]
    )
    for sequence in ("EXP-1-head", "FREE"):
        folder = person / "sequences" / sequence / "tracking"
        folder.mkdir(parents=True)
        np.savez(folder / TRACKING, **{key: np.asarray(value, np.float32) for key, value in tracking.items()})
    return person, tracking, matrices


def pixels_of(points: np.ndarray, matrix: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    local = points @ matrix[:3, :3].T + matrix[:3, 3]
    seen = local @ intrinsics.T
    return seen[..., :2] / seen[..., 2:]


def test_the_monocular_task(mono, flame, tmp_path, capsys):
    """Its mesh, scale R(XYZ) v + t seen by its cameras, falls on the pixels where ours does."""
    person, tracking, matrices = mono
    words = ["--from", "nersemble-benchmark", "--sequence", "EXP-1-head", "--head", f"flame:{flame}"]
    assert main(["import", str(person), *words, "--out", str(tmp_path / "c")]) == 0
    capture = Capture.open(tmp_path / "c")
    assert capture.names == (SERIALS[0],) and capture.image_size == MONO.size and capture.has_masks
    assert abs(capture.fps - MONO.fps) < 0.01
    head = load_head(f"flame:{flame}")
    rest = Motion(
        *(np.float32(tracking[name]) for name in ("expression", "rotation", "translation", "neck", "jaw")),
        np.float32(tracking["eyes"]).reshape(FRAMES, 2, 3),
    )
    rest = dataclasses.replace(rest, rotation=rest.rotation * 0, translation=rest.translation * 0)
    mesh = np.asarray(skin(head, rest, np.float32(tracking["shape"][0])), np.float64)
    mesh = UNIT * np.einsum("fij,fnj->fni", tracking["rotation_matrices"], mesh) + tracking["translation"][:, None]
    intrinsics = np.array([[1300.0, 0, 250], [0, 1310, 260], [0, 0, 1]])
    ours = np.asarray(skin(capture.head, capture.motion), np.float64)
    lens = capture.camera(0, 0)
    numbers = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    found = pixels_of(ours, np.asarray(lens.world_to_camera), numbers)
    expected = pixels_of(mesh, matrices[SERIALS[0]], intrinsics)
    assert np.abs(found - expected).max() < 0.01
    np.testing.assert_allclose(np.ptp(ours, axis=1) * UNIT, np.ptp(mesh, axis=1), rtol=1e-4)
    # held out: the other cameras, and the other sequence
    task, serials, cameras, motion = held_out_views(person, "FREE", head)
    assert (task.name, serials) == ("mono_flame_avatar", SERIALS) and motion.fps == MONO.fps
    posed = np.asarray(skin(head, motion, np.float32(tracking["shape"][0])), np.float64)
    for view, serial in enumerate(serials):
        found = pixels_of(posed, np.asarray(cameras.world_to_camera)[view], numbers)
        assert np.abs(found - pixels_of(mesh, matrices[serial], intrinsics)).max() < 0.01
    capsys.readouterr()
    for more, message in (
        (["--sequence", "FREE", "--head", f"flame:{flame}"], "they are held out"),
        (["--sequence", "EXP-1-head", "--head", "builtin"], "belong to head 'flame2023'"),
        (["--sequence", "../EXP-1-head", "--head", "builtin"], "leads out of"),
    ):
        words = ["import", str(person), "--from", "nersemble-benchmark", *more, "--out", str(tmp_path / "d")]
        assert main(words) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(UserError, match="is not handed in"):
        held_out_views(person, "EXP-1-head", head)


@pytest.mark.parametrize("ground", [255, 0, 90])
def test_colours_of_the_edge_do_not_depend_on_the_ground(mono, flame, tmp_path, ground):
    person, _, _ = mono
    folder = person / "sequences" / "EXP-1-head"
    alpha = write_films(folder, SERIALS[0], MONO, ground)
    try:
        made = import_nersemble_benchmark(
            person, tmp_path / "c", sequence="EXP-1-head", head=load_head(f"flame:{flame}")
        )
    finally:
        write_films(folder, SERIALS[0], MONO, 255)
    wanted = alpha[..., None] * (180, 90, 60) + (1 - alpha[..., None]) * 255
    assert np.abs(made.frame(0, 1) - wanted).mean() < 1.5 and np.abs(made.mask(0, 1) - 255 * alpha).mean() < 1


def test_the_task_of_new_views(tmp_path):
    """Cameras tied to the world of the fit of one of them; those held out with them."""
    true, person = make_cameras(3), tmp_path / "nvs" / "388"
    lens = {"fx": true.fx * 100, "fy": true.fy * 100, "cx": true.cx * 0 + 550, "cy": true.cy * 0 + 800}
    true = dataclasses.replace(true, **lens)
    serials = ("222200036", "222200042", NVS.serials[0])
    other = np.eye(4)
    other[:3, :3], other[:3, 3] = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix(), [0.4, -0.2, 1.0]
    calibrated = dict(zip(serials, np.asarray(true.world_to_camera)[:, 0] @ other))
    calibrated |= dict.fromkeys(NVS.serials[1:], calibrated[serials[2]])
    write_calibration(person, calibrated, np.array([[3000.0, 0, 550], [0, 3000, 800], [0, 0, 1]]))
    for serial in serials[:2]:
        write_films(person / "sequences" / "GLASSES", serial, NVS, 255)
    Fit(make_motion(FRAMES), true[1:2], np.array([NVS.size]), serials[1:2], None, "toy").save(tmp_path / "fit.npz")
    options = {"sequence": "GLASSES", "head": make_rig()}
    made = import_nersemble_benchmark(person, tmp_path / "c", **options, fit=tmp_path / "fit.npz", scale=4)
    assert made.names == serials[:2] and made.image_size == (401, 275)
    np.testing.assert_allclose(made.cameras.world_to_camera, true.world_to_camera[:2], atol=1e-9)
    np.testing.assert_allclose(made.cameras.fx, 750)
    _, found, cameras, motion = held_out_views(person, "GLASSES", make_rig(), tmp_path / "fit.npz")
    assert found == NVS.serials and motion.frame_count == FRAMES
    np.testing.assert_allclose(cameras.world_to_camera[0], true.world_to_camera[2, 0], atol=1e-9)
    with pytest.raises(UserError, match="`fit`: is missing"):
        import_nersemble_benchmark(person, tmp_path / "d", **options)


def test_a_submission_is_added_to(tmp_path):
    out = tmp_path / "nvs.zip"
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 1, 3), np.uint8).repeat(1604, 1).repeat(1100, 2)
    views = [(serial, lambda: iter(frames)) for serial in NVS.serials]
    missing = write_submission(out, NVS, "388", "GLASSES", views)
    assert len(missing) == 12 and missing[0] == f"422/EXP-2-eyes/cam_{NVS.serials[0]}.mp4"
    with pytest.raises(UserError, match="holds 388/GLASSES/ already"):
        write_submission(out, NVS, "388", "GLASSES", views)
    with pytest.raises(UserError, match="is no submission to mono"):
        write_submission(out, MONO, "461", "FREE", views)
    before = out.read_bytes()

    def broken():
        yield frames[0]
        raise UserError("a frame", "is damaged")

    with pytest.raises(UserError, match="is damaged"):
        write_submission(out, NVS, "422", "EXP-2-eyes", [("222200046", broken)])
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]
    assert len(write_submission(out, NVS, "422", "EXP-2-eyes", views)) == 9
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(set(NVS.videos) - set(NVS.videos[6:]))
        archive.extractall(tmp_path / "x")
    film = tmp_path / "x" / "388" / "GLASSES" / "cam_222200037.mp4"
    assert video_facts(film) == ((1604, 1100), 73.0)
    np.testing.assert_allclose(np.stack(list(read_video(film))).astype(int), frames.astype(int), atol=3)
    (tmp_path / "thesis.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="was not made by this program"):
        write_submission(tmp_path / "thesis.zip", NVS, "388", "GLASSES", views)


def test_an_avatar_is_handed_in(mono, tmp_path, capsys):
    """All of `export`: four cameras of a sequence that is held out, rendered as `render` does."""
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
    from export_world import make_head, small_config

    import mvp4d
    from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar

    _, tracking, matrices = mono
    person = tmp_path / "mono_flame_avatar" / "461"
    write_calibration(person, matrices, np.array([[1300.0, 0, 250], [0, 1310, 260], [0, 0, 1]]))
    folder = person / "sequences" / "FREE" / "tracking"
    folder.mkdir(parents=True)
    egg = {**tracking, "expression": tracking["expression"] * (np.arange(100) < 4)}  # as many as the egg has
    np.savez(folder / TRACKING, **egg)
    head = dataclasses.replace(make_head(), name="flame2023")
    avatar = Avatar(small_config().avatar, head, 300, FRAMES)
    with torch.no_grad():
        for name in GAUSSIAN_TENSORS:
            getattr(avatar, name).normal_(0, 0.3)
    avatar.save(tmp_path / "avatar", {"fps": 25})
    words = ["export", str(tmp_path / "avatar"), "--format", "nersemble-benchmark", "--benchmark", str(person)]
    assert main([*words, "--out", str(tmp_path / "s.zip")]) == 2
    assert "--sequence: is missing" in capsys.readouterr().err
    assert main([*words, "--sequence", "FREE", "--out", str(tmp_path / "s.zip")]) == 0
    said = capsys.readouterr().out
    assert f"4 videos of {FRAMES} frames; it lacks 76 of 80 yet" in said
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.namelist() == [f"461/FREE/cam_{serial}.mp4" for serial in SERIALS]
        archive.extractall(tmp_path / "x")
    _, _, cameras, motion = held_out_views(person, "FREE", head)
    rendering = mvp4d.open_avatar(tmp_path / "avatar", device="cpu").render(
        motion, cameras=cameras[:, None][np.full(FRAMES, 3), 0], size=512
    )
    film = list(read_video(tmp_path / "x" / "461" / "FREE" / f"cam_{SERIALS[3]}.mp4"))
    assert np.abs(np.stack(film).astype(int) - rendering.frames()).mean() < 3 and len(film) == FRAMES
    assert rendering.frames().min() < 200  # something is there


def test_tables_and_paths_are_the_toolkits(mono, tmp_path):
    constants = pytest.importorskip("nersemble_benchmark.constants")
    assert {(int(person), name) for person, names in NVS.sequences.items() for name in names} == set(
        constants.BENCHMARK_NVS_IDS_AND_SEQUENCES
    )
    assert set(NVS.serials) == set(constants.BENCHMARK_NVS_HOLD_OUT_SERIALS)
    assert [int(person) for person in MONO.sequences] == constants.BENCHMARK_MONO_FLAME_AVATAR_IDS
    assert set(MONO.sequences["393"]) == set(constants.BENCHMARK_MONO_FLAME_AVATAR_SEQUENCES_TEST)
    assert set(MONO.serials) == set(constants.BENCHMARK_MONO_FLAME_AVATAR_SERIALS)
    data = pytest.importorskip("nersemble_benchmark.data.benchmark_data")
    person, tracking, matrices = mono
    manager = data.MonoFlameAvatarDataManager(str(person.parents[1]), 461)
    assert sorted(manager.list_sequences()) == ["EXP-1-head", "FREE"]
    assert manager.list_serials("EXP-1-head") == [SERIALS[0]]
    assert manager.load_image("EXP-1-head", SERIALS[0], 1, as_uint8=True).shape == (512, 512, 3)
    np.testing.assert_allclose(manager.load_camera_calibration().world_2_cam[SERIALS[2]], matrices[SERIALS[2]])
    np.testing.assert_allclose(manager.load_flame_tracking("FREE").eyes, tracking["eyes"], atol=1e-6)
    submission = pytest.importorskip("nersemble_benchmark.data.submission_data")
    frames = np.zeros((2, 512, 512, 3), np.uint8)
    write_submission(tmp_path / "s.zip", MONO, "461", "FREE", [(serial, lambda: frames) for serial in SERIALS])
    reader = submission.MonoFlameAvatarSubmissionDataReader(str(tmp_path / "s.zip"))
    assert sorted(reader.get_file_overview()[461]["FREE"]) == sorted(SERIALS)
    assert set(MONO.videos) == set(reader.list_expected_files())
    assert reader.get_expected_resolution() == MONO.size[::-1]
    assert np.shape(reader.load_video(461, "FREE", SERIALS[0])) == frames.shape
