"""`mvp4d sample` as a user runs it, on random weights: two windows, resumed runs, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from small_world import FRAMES, SIZE, ball, motion, write_release, write_scene

from mvp4d.cli import main
from mvp4d.core.capture import Capture, validate
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.portrait import read_portrait
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling import generate, photo_detail
from mvp4d_jax.sampling.temporal_filter import RigView, joined, steady


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "truth")


def _arguments(release, scene, out, *more):
    return [
        "sample",
        "--weights",
        str(release),
        "--reference",
        str(scene),
        "--motion",
        str(scene),
        "--cameras",
        str(scene),
        "--out",
        str(out),
        "--steps",
        "2",
        *more,
    ]


@pytest.fixture(scope="module")
def sampled(release, scene, tmp_path_factory):
    """Two windows of five frames, the second begun with the last frame of the first."""
    out = tmp_path_factory.mktemp("out") / "sampled"
    assert main(_arguments(release, scene, out)) == 0
    return out


def test_a_capture_comes_out(sampled, scene):
    capture, truth = Capture.open(sampled), Capture.open(scene)
    validate(sampled)
    assert capture.names == truth.names and capture.frame_count == FRAMES and capture.image_size == (SIZE, SIZE)
    np.testing.assert_allclose(capture.cameras.world_to_camera, truth.cameras.world_to_camera)
    np.testing.assert_allclose(capture.motion.rotation, truth.motion.rotation)
    assert sampled.with_name("sampled.mp4").stat().st_size > 0
    assert not sampled.with_name("sampled.work").exists()
    np.testing.assert_allclose(capture.info.extra["reference_axis"], [0, 0, -1], atol=1e-6)
    kept = read_portrait(capture.path, capture.head)  # the photo that it was made from, at its own size
    np.testing.assert_array_equal(kept.photos[0][..., :3], truth.frame(*truth.reference))
    np.testing.assert_allclose(kept.camera.fx[0], truth.camera(*truth.reference).fx)


def test_with_photo_detail_the_same_views_take_it(release, scene, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_detail, "UNLIKE", (9.0, 10.0))  # random weights paint in no colours of the photo
    out = tmp_path / "sampled"
    assert main(_arguments(release, scene, out, "--photo-detail")) == 0
    capture, plain = Capture.open(out), Capture.open(sampled)
    assert capture.info.extra["photo_detail"] and not plain.info.extra["photo_detail"]
    photo = photo_detail.read_photo(read_portrait(out, capture.head), SIZE)
    vertices = np.asarray(skin(capture.head, capture.motion))
    poses = photo_detail.read_poses(photo, capture.motion, vertices)
    for view in range(2):
        camera = capture.cameras[view]
        raster = rasterize(camera, vertices, capture.head.faces, (SIZE, SIZE))
        expected = photo_detail.add_detail(poses, camera, raster, plain.frames(view))
        np.testing.assert_allclose(capture.frames(view).astype(int), expected.astype(int), atol=1)
        assert (np.abs(expected.astype(int) - plain.frames(view)).max() > 0) == (view == 0)  # the other sees the back


def test_with_the_temporal_filter_they_are_the_same_views_joined_and_filtered(release, scene, sampled, tmp_path):
    out = tmp_path / "sampled"
    assert main(_arguments(release, scene, out, "--temporal-filter")) == 0
    capture, plain = Capture.open(out), Capture.open(sampled)
    assert capture.info.extra["temporal_filter"] and not plain.info.extra["temporal_filter"]
    vertices = np.asarray(skin(capture.head, capture.motion))
    for view in range(2):
        camera = capture.cameras[view]
        raster = rasterize(camera, vertices, capture.head.faces, (SIZE, SIZE))
        sight = RigView.of(capture.head, camera, vertices, raster)
        whole = joined(capture.head, sight, plain.frames(view), [5])  # frames 0 to 4, then on from the last of them
        assert np.abs(whole.astype(int) - plain.frames(view)).max() > 0
        expected = steady(capture.head, sight, whole, 0, capture.frame_count)
        np.testing.assert_allclose(capture.frames(view).astype(int), expected.astype(int), atol=1)
        assert np.abs(expected.astype(int) - plain.frames(view)).max() > 0


def test_enlarged_views_are_the_same_ones_larger(release, scene, sampled, tmp_path):
    out = tmp_path / "sampled"
    assert main(_arguments(release, scene, out, "--enlarge", "2")) == 0
    capture, plain = Capture.open(out), Capture.open(sampled)
    validate(out)
    assert capture.image_size == (2 * SIZE, 2 * SIZE) and capture.mask(0, 0).shape == (2 * SIZE, 2 * SIZE)
    for name in ("fx", "fy", "cx", "cy"):
        np.testing.assert_allclose(getattr(capture.cameras, name), 2 * getattr(plain.cameras, name))
    larger = Image.fromarray(plain.frame(1, 3)).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(capture.frame(1, 3), np.asarray(larger))
    assert main(_arguments(release, scene, tmp_path / "none", "--enlarge", "0")) == 2


def _pixels(path):
    capture = Capture.open(path)
    return np.stack([capture.frames(view) for view in range(capture.view_count)])


def test_a_killed_run_goes_on_and_ends_the_same(release, scene, sampled, tmp_path, monkeypatch, capsys):
    real, calls = generate.denoise, []

    def dies_at_the_second_window(*arguments, **named):
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(generate, "denoise", dies_at_the_second_window)
    out = tmp_path / "sampled"
    assert main(_arguments(release, scene, out)) == 130
    assert "going on" not in capsys.readouterr().err
    kept = tmp_path / "sampled.work" / "latents_000.npz"
    assert not out.exists() and kept.is_file()
    whole = kept.read_bytes()
    np.savez(kept, latents=np.zeros((1, 2)))
    capsys.readouterr()
    assert main(_arguments(release, scene, out)) == 2
    assert "latents_000.npz: holds no finite 'latents'" in capsys.readouterr().err
    kept.write_bytes(whole)
    assert main(_arguments(release, scene, out)) == 0
    assert calls == [0, 1, 1]  # the first window was not done again
    assert "going on: 1 of 2 windows denoised\n" in capsys.readouterr().err
    np.testing.assert_array_equal(_pixels(out), _pixels(sampled))


def test_kept_windows_of_another_run_are_not_used(release, scene, sampled, tmp_path, monkeypatch, capsys):
    out = tmp_path / "sampled"

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generate.CaptureWriter, "__enter__", stop)
        assert main(_arguments(release, scene, out, "--seed", "5")) == 130
    assert "begins anew" not in capsys.readouterr().err
    assert main(_arguments(release, scene, out)) == 0
    assert "had other settings or inputs: this one begins anew" in capsys.readouterr().err
    np.testing.assert_array_equal(_pixels(out), _pixels(sampled))


def test_added_views_take_part_and_change_what_is_made(release, scene, sampled, tmp_path):
    out = tmp_path / "sampled"
    assert main(_arguments(release, scene, out, "--clean-views", f"{scene}:cam01")) == 0
    assert np.abs(_pixels(out).astype(int) - _pixels(sampled)).max() > 0


def test_plan_is_printed_and_nothing_is_done(release, scene, tmp_path, capsys):
    assert main(_arguments(release, scene, tmp_path / "out", "--plan")) == 0
    shown = capsys.readouterr().out
    assert "2 windows: 0-4, 4-8" in shown and "8 forward passes" in shown
    assert not (tmp_path / "out").exists()


@pytest.fixture
def fit(scene, tmp_path):
    """A fit of the first view of the scene, as tracking would write it."""
    capture = Capture.open(scene)
    camera = capture.camera(0, 0)
    cameras = type(camera)(**{name: np.asarray(value)[None, None] for name, value in vars(camera).items()})
    path = tmp_path / "fit.npz"
    Fit(motion(1), cameras, np.array([[SIZE, SIZE]]), ("cam0",), np.zeros(0, np.float32), "ball").save(path)
    return path


REFUSED = {
    "no such weights": (["--weights", "nowhere"], "holds no release"),
    "photo without a fit": (["--reference", "{photo}"], "--fit"),
    "more frames than the motion": (["--frames", "50"], "--frames"),
    "cameras behind the head": (["--cameras", "orbit:360x4,distance=0.05"], "camera"),
    "not a camera rig": (["--cameras", "circle"], "not a camera rig"),
    "no such motion": (["--motion", "nothing.npz"], "no such motion"),
    "window that is not 1 + 4k": (["--window", "6"], "--window"),
    "unknown sampler": (["--sampler", "euler"], "sampler"),
    "unknown routing": (["--group", "1", "--routing", "star"], "--routing"),
    "mesh that is not one": (["--mesh", "many"], "--mesh"),
    "matte of what is no photo": (["--matte", "none"], "--matte: is for a photo"),
    "mesh that does not divide": (["--mesh=-1,1,3"], "--mesh: (-1, 1, 3): 3 does not divide the 8 devices"),
    "clean view that is not there": (["--clean-views", "{scene}:cam77"], "cam77"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_line_before_the_first_step(case, release, scene, tmp_path, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(generate, "denoise", never)
    photo = tmp_path / "photo.png"
    from PIL import Image

    Image.new("RGB", (64, 64)).save(photo)
    words, expected = REFUSED[case]
    words = [word.format(photo=photo, scene=scene) for word in words]
    assert main(_arguments(release, scene, tmp_path / "out", *words)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("mvp4d sample: ") and expected in line
    assert not (tmp_path / "out").exists()


def test_fit_of_another_photo_is_refused(release, scene, fit, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from mvp4d_jax.sampling import inputs

    monkeypatch.setattr(inputs, "load_head", lambda spec: ball())
    Image.new("RGB", (90, 60)).save(tmp_path / "wide.png")
    words = ["--reference", str(tmp_path / "wide.png"), "--fit", str(fit)]
    assert main(_arguments(release, scene, tmp_path / "out", *words)) == 2
    assert "give the fit of this photo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, cut",
    [([], True), (["--matte", "auto"], True), (["--matte", "none"], False), (["--mask", "{mask}"], False)],
)
def test_photo_with_its_fit_is_sampled(release, scene, fit, tmp_path, monkeypatch, words, cut):
    """The person is cut out of it, as `track` does, but for a mask or `--matte none`."""
    from PIL import Image

    from mvp4d_jax.sampling import inputs
    from mvp4d_jax.tracking import portrait

    seen = []

    def cut_out(subjects):
        seen.extend(subject.rgb for subject in subjects)
        return [np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]) for rgb in seen]

    monkeypatch.setattr(portrait, "cut_out", cut_out)
    monkeypatch.setattr(inputs, "load_head", lambda spec: ball())
    Image.fromarray(Capture.open(scene).frame(0, 0)).resize((128, 128)).save(tmp_path / "photo.png")
    Image.new("L", (128, 128), 255).save(tmp_path / "mask.png")
    out, words = tmp_path / "out", [word.format(mask=tmp_path / "mask.png") for word in words]
    words += ["--reference", str(tmp_path / "photo.png"), "--fit", str(fit), "--frames", "5"]
    assert main(_arguments(release, scene, out, *words)) == 0
    assert len(seen) == cut
    assert Capture.open(out).frame_count == 5


def test_facts_that_do_not_fit_are_named(release, scene, tmp_path, capsys):
    import shutil

    broken = tmp_path / "release"
    shutil.copytree(release, broken)
    facts = json.loads((broken / "mvp4d.json").read_text())
    del facts["views"]
    (broken / "mvp4d.json").write_text(json.dumps(facts))
    assert main(_arguments(broken, scene, tmp_path / "out")) == 2
    assert "views" in capsys.readouterr().err
