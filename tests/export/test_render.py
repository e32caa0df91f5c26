"""Cameras against the other half's rigs, videos and frames, and that rendering is deterministic."""

import dataclasses
import shlex
import shutil

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from export_world import make_head, small_config
from PIL import Image

from mvp4d.avatar import frame_window, open_avatar
from mvp4d.cli import main
from mvp4d.commands.render import parse_frames, parse_size
from mvp4d.core.capture import Capture
from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d.core.sound import read_sound
from mvp4d.core.video import count_frames, read_video
from mvp4d_export.avatar import Avatar
from mvp4d_export.cameras import camera_path
from mvp4d_export.dataset import Dataset
from mvp4d_export.distill import Distiller
from mvp4d_export.render import plan_frames, render_frames
from mvp4d_export.rig import Pose


@pytest.mark.parametrize(
    "spec", ["orbit:360x8", "arc:120x5@15", "turn:-90", "sway:30@-10", "orbit:90x3,distance=0.8,fov=30"]
)
def test_specs_mean_what_they_mean_in_the_other_half(spec):
    from mvp4d.core.cameras.rigs import camera_rig

    ours, theirs = camera_path(spec, (48, 64), 7), camera_rig(spec, (48, 64), 7)
    np.testing.assert_allclose(ours.viewmats, np.asarray(theirs.world_to_camera).reshape(-1, 4, 4), atol=1e-6)
    for place, name in (((0, 0), "fx"), ((1, 1), "fy"), ((0, 2), "cx"), ((1, 2), "cy")):
        expected = np.asarray(getattr(theirs, name)).reshape(-1)
        np.testing.assert_allclose(ours.Ks[(slice(None), *place)], expected, rtol=1e-6)


def test_cap4d_paths_mean_what_they_mean_in_the_other_half(shared_data):
    from mvp4d.core.cameras.path import CameraPath

    path = shared_data / "tracked_examples" / "driving_00" / "orbit.npz"
    camera, size = CameraPath.load(path).camera, CameraPath.load(path).image_size
    ours = camera_path(f"file:{path}", size, 5)
    np.testing.assert_allclose(ours.viewmats, np.asarray(camera.world_to_camera)[:5], atol=1e-5)
    np.testing.assert_allclose(ours.Ks[:, 0, 0], np.asarray(camera.fx)[:5], rtol=1e-6)


def test_real_driving_motion_is_read(shared_data):
    """A FLAME fit drives an ARKit head by its rotations alone, and says so; nothing is matched by position."""
    motion, notice = load_motion(shared_data / "tracked_examples" / "driving_00" / "fit.npz", make_head())
    assert motion.frame_count == 384
    assert not motion.expression.any()
    assert np.abs(motion.eyes).max() > 0.05
    assert "shares no expression name" in notice


@pytest.mark.parametrize(
    "spec", ["orbit:360", "turn:360x8", "circle:3x3", "orbit:360x0", "orbit:360x4,fov=500", "file:none.npz"]
)
def test_bad_specs_end_in_one_line(spec):
    with pytest.raises(UserError):
        camera_path(spec, (48, 48), 4)


def test_shots_walk_still_cameras_and_follow_moving_ones():
    from mvp4d.core.heads.motion import Motion

    pose = Pose.of(Motion.still(3, 2))
    assert plan_frames(pose, camera_path("orbit:360x5", (48, 48), 3), (48, 48)).pairs == [
        (0, 0),
        (1, 1),
        (2, 2),
        (0, 3),
        (1, 4),
    ]
    assert plan_frames(pose, camera_path("turn:360", (48, 48), 3), (48, 48)).pairs == [(0, 0), (1, 1), (2, 2)]


def test_a_given_motion_is_filmed_whole_from_the_front(fitted, egg, tmp_path, capsys):
    out = tmp_path / "own.mp4"
    for name, more in (("own", []), ("front", ["--cameras", "turn:0"])):
        words = ["render", str(fitted[0]), "--motion", str(egg), "--size", "32", "--out", str(tmp_path / f"{name}.mp4")]
        assert main([*words, "--device", "cpu", *more]) == 0
    assert "rendered 6 frames of 32 x 32" in capsys.readouterr().out  # the egg's motion
    assert out.read_bytes() == (tmp_path / "front.mp4").read_bytes()


def test_a_program_films_as_the_command_line_does(fitted, egg, tmp_path):
    """Where no cameras are given: a motion from the front, the avatar's own from all around; a window of its frames."""
    avatar = open_avatar(fitted[0], device="cpu")
    front = avatar.render(egg, cameras="turn:0", size=24).frames()
    np.testing.assert_array_equal(avatar.render(egg, size=24).frames(), front)
    np.testing.assert_array_equal(avatar.render(egg, frames=(2, 50), size=24).frames(), front[2:])
    np.testing.assert_array_equal(avatar.render(egg, frames=3, size=24).frames(), front[:3])
    assert len(avatar.render(size=24)) == 48
    assert len(avatar.render(frames=3, size=24)) == 3
    words = ["render", str(fitted[0]), "--motion", str(egg), "--size", "24", "--frames", "2:", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "a"), "--background", "#ffffff"]) == 0
    written = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((tmp_path / "a").glob("*.png"))]
    np.testing.assert_array_equal(written, front[2:])


def test_a_folder_that_is_no_motion_names_the_one_in_it(fitted, tmp_path, capsys):
    words = ["render", str(fitted[0]), "--motion", str(tmp_path), "--out", str(tmp_path / "a.mp4")]
    shutil.copytree(fitted[0], tmp_path / "avatar")
    assert main(words) == 2
    assert capsys.readouterr().err == f"mvp4d render: {tmp_path}: is no motion; there is one at {tmp_path / 'avatar'}\n"
    for name, verb in (("a.MOV", "track"), ("a.wav", "speak")):
        (tmp_path / name).touch()
        assert main([*words[:3], str(tmp_path / name), *words[4:]]) == 2
        maker = f"mvp4d {verb} {shlex.quote(str(tmp_path / name))} --out NAME.npz makes one of it"
        assert f"is no motion yet; {maker}" in capsys.readouterr().err
    (tmp_path / "a.npz").write_bytes(b"no npz")
    shutil.copy(fitted[0] / "cameras.npz", tmp_path / "cameras.npz")
    shutil.copy(fitted[0] / "motion.npz", tmp_path / "drive.npz")
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(f"is no motion; there is one at {tmp_path / 'drive.npz'}\n")


def test_a_motion_of_another_head_is_refused(fitted):
    avatar = open_avatar(fitted[0], device="cpu")
    count = avatar.head.expression_count
    for expression in (np.zeros((2, count + 1), np.float32), np.zeros(count, np.float32)):
        other = dataclasses.replace(Motion.still(2, count), expression=expression)
        for use in (avatar.render, avatar.page, lambda motion: avatar.export("x.html", motion=motion)):
            with pytest.raises(UserError) as caught:
                use(other)
            shape = list(expression.shape)
            assert f"`motion`: has expressions {shape}, head '{avatar.head.name}' takes [frames, {count}]; " in str(
                caught.value
            )
    avatar.render(Motion.still(2, count), size=24)


@pytest.mark.parametrize("size", [1, 7, (24, 7), 8193, (8193, 24)])
def test_a_size_that_is_not_rendered_is_refused(fitted, size):
    avatar = open_avatar(fitted[0], device="cpu")
    height, width = (size, size) if isinstance(size, int) else size
    said = f"`size`: {width} x {height} pixels; use for example 512 or 1920x1080, sides of 8 to 8192"
    with pytest.raises(UserError) as caught:
        avatar.render(size=size)
    assert str(caught.value) == said
    with pytest.raises(UserError) as caught:
        parse_size(f"{width}x{height}")
    assert str(caught.value) == said


def test_the_smallest_video(fitted, tmp_path):
    avatar = open_avatar(fitted[0], device="cpu")
    for size, sides in (((8, 8), (8, 8)), ((9, 11), (8, 10))):
        avatar.render(cameras="orbit:360x2", size=size).save(tmp_path / "a.mp4", overwrite=True)
        assert [frame.shape[:2] for frame in read_video(tmp_path / "a.mp4")] == [sides] * 2


def test_an_avatar_and_a_rendering_print_as_one_line(fitted):
    avatar = open_avatar(fitted[0], device="cpu")
    told = f"Avatar('{fitted[0]}': {avatar.module.gaussian_count} Gaussians on head '{avatar.head.name}')"
    assert repr(avatar) == told
    shot = avatar.render(cameras="orbit:360x5", size=(24, 32), fps=12.5)
    assert repr(shot) == f"Rendering(5 frames of 32 x 24, 12.5 a second, of {told})"


@pytest.mark.parametrize(
    ("more", "said", "written"),
    [
        (["--out", "a", "--frames", "2"], "2 frames of 24 x 24: a", ["a"]),
        (["--out", "a.mp4", "--cameras", "orbit:90x3", "--frames", "2", "--each-view"],
         "6 frames of 24 x 24: a_00.mp4 to a_02.mp4", ["a_00.mp4", "a_01.mp4", "a_02.mp4"]),
    ],
)  # fmt: skip
def test_the_closing_line_names_what_was_written(fitted, tmp_path, monkeypatch, capsys, more, said, written):
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(fitted[0]), "--size", "24", "--device", "cpu", *more]) == 0
    assert capsys.readouterr().out == f"rendered {said}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == written


def test_rendering_twice_gives_the_same_bytes(fitted, egg, tmp_path, capsys):
    for name in ("one", "two"):
        assert (
            main(
                [
                    "render",
                    str(fitted[0]),
                    "--motion",
                    str(egg),
                    "--cameras",
                    "orbit:360x4",
                    "--size",
                    "48x40",
                    "--out",
                    str(tmp_path / f"{name}.mp4"),
                    "--device",
                    "cpu",
                ]
            )
            == 0
        )
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert (
        main(
            [
                "render",
                str(fitted[0]),
                "--cameras",
                "orbit:360x2",
                "--size",
                "48",
                "--out",
                str(tmp_path / "v.mp4"),
                "--frames",
                "1:3",
                "--each-view",
            ]
        )
        == 0
    )
    assert (tmp_path / "v_00.mp4").is_file()
    assert (tmp_path / "v_01.mp4").is_file()
    capsys.readouterr()


def test_video_shows_the_frames(fitted, tmp_path):
    import imageio_ffmpeg

    assert (
        main(["render", str(fitted[0]), "--cameras", "orbit:360x3", "--size", "48", "--out", str(tmp_path / "v.mp4")])
        == 0
    )
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "v.mp4"))
    assert next(reader)["size"] == (48, 48)
    frames = [np.frombuffer(data, np.uint8).reshape(48, 48, 3) for data in reader]
    avatar = Avatar.load(fitted[0])
    pose = Pose.of(read_motion(fitted[0] / "motion.npz").motion)
    shot = plan_frames(pose, camera_path("orbit:360x3", (48, 48), 6), (48, 48))
    expected = [rgb.numpy() * 255 for rgb, _ in render_frames(avatar, shot)]
    assert len(frames) == 3
    for got, want in zip(frames, expected):
        assert np.abs(got - want).mean() < 6


def test_sound_keeps_in_step_at_another_rate(fitted, tmp_path, capsys):
    """Frames 1 to 5 of a motion at 24 a second, shown at 48; a click at 0.1 s comes earlier by what was left out."""
    rate, click = 16000, np.zeros(16000, np.float32)
    click[1600:1700] = 0.9
    scipy.io.wavfile.write(tmp_path / "click.wav", rate, click)
    words = ["render", str(fitted[0]), "--audio", str(tmp_path / "click.wav"), "--size", "32"]
    assert main([*words, "--fps", "48", "--frames", "1:", "--out", str(tmp_path / "a.mp4")]) == 0
    assert count_frames(tmp_path / "a.mp4") == 9  # four intervals of 1/24 s in steps of 1/48, and the first frame
    heard = read_sound(tmp_path / "a.mp4")
    assert np.argmax(np.abs(heard.samples)) / rate == pytest.approx(0.1 - 1 / 24, abs=0.02)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    assert main([*words[:3], str(tmp_path / "broken.wav"), "--out", str(tmp_path / "b.mp4")]) == 2
    assert main([*words, "--out", str(tmp_path / "frames")]) == 2
    told = capsys.readouterr().err
    assert "not a readable sound file" in told and "holds no sound" in told
    assert not (tmp_path / "b.mp4").exists() and not (tmp_path / "frames").exists()


def test_alpha_frames_lay_over_any_background(fitted, tmp_path):
    common = ["render", str(fitted[0]), "--cameras", "orbit:360x2", "--size", "48"]
    assert main([*common, "--out", str(tmp_path / "rgba"), "--alpha"]) == 0
    assert main([*common, "--out", str(tmp_path / "green"), "--background", "#10c020"]) == 0
    rgba = np.asarray(Image.open(tmp_path / "rgba" / "00001.png")).astype(float) / 255
    green = np.asarray(Image.open(tmp_path / "green" / "00001.png")).astype(float) / 255
    assert rgba.shape == (48, 48, 4)
    laid = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * np.array([0x10, 0xC0, 0x20]) / 255
    assert np.abs(laid - green).max() < 2 / 255


@pytest.mark.parametrize(
    ("text", "window"),
    [(None, (0, 9)), ("4", (0, 4)), ("20", (0, 9)), ("2:5", (2, 5)), (":5", (0, 5)), ("7:", (7, 9)), (":", (0, 9))],
)
def test_a_window_of_a_motion(text, window):
    assert frame_window(parse_frames(text), 9) == window


@pytest.mark.parametrize("text", ["", "0", "5:5", "9:", "a", "1:2:3", "-1"])
def test_no_window_of_a_motion(text):
    with pytest.raises(UserError, match="`frames`: "):
        frame_window(parse_frames(text), 9)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--out", "x.mp4", "--alpha"], "--alpha"),
        (["--out", "x.gif"], ".gif"),
        (["--out", "x.mp4", "--size", "2"], "--size"),
        (["--out", "x.mp4", "--background", "red"], "--background: 'red' is no colour; use for example ffffff"),
        (["--out", "x.mp4", "--frames", "9:3"], "--frames"),
        (["--out", "x.mp4", "--motion", "none.npz"], "none.npz"),
    ],
)
def test_mistakes_end_in_one_line(fitted, capsys, arguments, word):
    assert main(["render", str(fitted[0]), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert word in lines[0]


def test_larger_pictures_show_what_the_fit_saw(egg):
    """Gaussians too thin for four times the pixels: no gaps open, and at the pictures' own size nothing changes."""
    data, small = Dataset.load(Capture.open(egg)), small_config()
    fit = Distiller(data, dataclasses.replace(small, avatar=dataclasses.replace(small.avatar, antialiased=True)))
    avatar, pose, (height, width) = fit.avatar, data.pose[:1], data.size
    assert avatar.config.pitch == pytest.approx(0.6 / float(data.Ks[0, 0, 0, 0]), rel=0.2)  # at 0.6 m

    @torch.no_grad()
    def alpha(pitch: float, factor: int, thin: float = 1.0) -> torch.Tensor:
        avatar.config = dataclasses.replace(avatar.config, pitch=pitch)
        K = data.Ks[:1, 0].clone()
        K[:, :2] *= factor
        splats = avatar.splats(avatar.vertices(pose))
        splats.opacities = torch.full_like(splats.opacities, 0.98)
        splats.scales = thin * splats.scales
        rendered = avatar.render(splats, pose, data.viewmats[:1, 0], K, width * factor, height * factor)
        return rendered.alpha[0].reshape(height, factor, width, factor).permute(0, 2, 1, 3).flatten(2)

    pitch = avatar.config.pitch
    own = alpha(pitch, 1)[..., 0]
    covered = own > 0.97
    assert covered.sum() > 300 and torch.equal(own, alpha(0.0, 1)[..., 0])
    assert (alpha(pitch, 4).mean(2) - own)[covered].abs().mean() < 2e-3
    covered = alpha(pitch, 1, 0.45)[..., 0] > 0.9
    grown, specks = alpha(pitch, 4, 0.45), alpha(0.0, 4, 0.45)
    assert covered.sum() > 300
    assert grown.amin(2)[covered].min() > 0.6 > 0.4 > specks.amin(2)[covered].min()
