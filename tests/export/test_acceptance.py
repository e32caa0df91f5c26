"""The promises of the presets at full size: on a studio capture of a test identity, and on a GPU if there is one."""

import dataclasses
import time

import pytest
import torch
from export_world import small_config, write_capture

from mvp4d.cli import main
from mvp4d.core.capture import Capture
from mvp4d_export.dataset import Dataset
from mvp4d_export.distill import Distiller
from mvp4d_export.fit_score import score
from mvp4d_export.fitting import distill
from mvp4d_export.presets import preset


def film(folder, identity, *options, frames, size):
    arguments = ["studio", "--out", str(folder), "--identity", identity, "--cameras", "orbit:360x12", *options]
    assert main([*arguments, "--frames", str(frames), "--size", str(size)]) == 0
    return folder


def fitted_scores(data, config):
    fit = Distiller(data, config)
    for _ in range(config.steps):
        fit.train_step()
    scores = score(fit)
    print(scores)
    return scores


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_cpu_preset_on_a_studio_capture(tmp_path):
    """12 views x 24 frames of 128 x 128 of a person that no training has seen, 2 views and 4 frames held out."""
    torch.set_num_threads(2)
    path = film(tmp_path / "person", "11007", frames=24, size=128)
    scores = fitted_scores(Dataset.load(Capture.open(path), hold_views=2, hold_times=4), preset("cpu"))
    assert scores["held_views"]["psnr"] >= 28
    assert scores["held_views"]["ssim"] >= 0.93


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_deformation_net_learns_how_a_person_moves(tmp_path):
    """The same person moving in their own way: the rig misses them by 1.5 mm on average, as fits miss real people."""
    torch.set_num_threads(2)
    path = film(
        tmp_path / "person", "11007", "--motion", "expressive", "--fps", "6", "--own-motion", "1.4", frames=24, size=128
    )
    data, config = Dataset.load(Capture.open(path), hold_views=2, hold_times=4), preset("cpu")
    start = time.perf_counter()
    scores = fitted_scores(data, config)
    assert time.perf_counter() - start < 300
    without = fitted_scores(data, dataclasses.replace(config, avatar=dataclasses.replace(config.avatar, net=None)))
    assert scores["held_views"]["psnr"] >= 28
    assert scores["held_views"]["ssim"] >= 0.93
    assert scores["held_times_expressive"]["psnr"] - without["held_times_expressive"]["psnr"] >= 0.5


@pytest.mark.slow
def test_deformation_net_learns_what_the_rig_plays_too_weakly(tmp_path):
    """A rig with 30 % of the true expressions: the net is worth half a decibel on expressive frames it never saw."""
    path = write_capture(tmp_path / "capture", frames=12, strength=1.8, rig_share=0.3)
    data = Dataset.load(Capture.open(path), hold_times=3)
    scores = {}
    for net in (small_config().avatar.net, None):
        config = small_config(steps=160)
        config = dataclasses.replace(config, avatar=dataclasses.replace(config.avatar, net=net))
        scores[net] = fitted_scores(data, config)["held_times_expressive"]["psnr"]
    with_net, without = scores.values()
    assert with_net - without >= 0.5, scores


@pytest.mark.gpu
@pytest.mark.timeout(3000)
def test_default_preset_and_real_time_on_a_gpu(tmp_path):
    """12 views x 48 frames of 512 x 512 within ten minutes; 300 whole frames a second with 100 k Gaussians."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: the default preset and the real-time loop need one")
    from mvp4d.core.capture.motion_file import read_motion
    from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
    from mvp4d_export.cameras import camera_path
    from mvp4d_export.realtime import RealtimeRenderer
    from mvp4d_export.rig import Pose

    capture = film(tmp_path / "person", "11001", frames=48, size=512)
    start = time.perf_counter()
    fit = Distiller(Dataset.load(Capture.open(capture), hold_views=2, hold_times=4, device="cuda"), preset("default"))
    report = distill(fit, tmp_path / "avatar")
    assert time.perf_counter() - start < 600
    assert report["scores"]["held_views"]["psnr"] >= 28
    avatar = Avatar.load(tmp_path / "avatar", "cuda")
    index = torch.randint(avatar.gaussian_count, (100_000,), device="cuda")
    avatar.set_gaussians(avatar.binding[index], {name: getattr(avatar, name)[index] for name in GAUSSIAN_TENSORS})
    renderer = RealtimeRenderer(avatar, 512, 512)
    pose = Pose.of(read_motion(tmp_path / "avatar" / "motion.npz").motion, "cuda")
    path = camera_path("orbit:360x48", (512, 512), 48)
    viewmats, K = torch.from_numpy(path.viewmats).cuda(), torch.from_numpy(path.Ks[0]).cuda()

    def seconds(posing: bool, drawing: bool) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for frame in range(480):
            if posing:
                renderer.advance(pose[frame % 48 : frame % 48 + 1], viewmats[frame % 48])
            if drawing:
                renderer.draw(K)
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / 480

    seconds(True, True)
    assert 1 / seconds(True, True) >= 300
    assert seconds(True, False) <= seconds(False, True)


@pytest.mark.gpu
def test_recorded_graph_equals_the_plain_path(fitted):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: CUDA graphs cannot be recorded")
    check_realtime(fitted[0], "cuda")


def test_posing_runs_where_pytorch_cannot_compile(fitted, monkeypatch, caplog):
    from mvp4d_export.avatar import Avatar
    from mvp4d_export.realtime import RealtimeRenderer

    def no_compiler():
        raise RuntimeError("Triton is not there\nand more")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: no_compiler)
    renderer = RealtimeRenderer(Avatar.load(fitted[0], "cpu"), 56, 48)
    assert renderer._compiled() == renderer._compute
    assert [record.getMessage() for record in caplog.records] == [
        "posing is not compiled, it takes twice the time (RuntimeError: Triton is not there)"
    ]


def test_realtime_loop_renders_what_render_does(fitted):
    check_realtime(fitted[0], "cpu")


def check_realtime(folder, device):
    from mvp4d.core.capture.motion_file import read_motion
    from mvp4d_export.avatar import Avatar
    from mvp4d_export.cameras import camera_path
    from mvp4d_export.realtime import RealtimeRenderer
    from mvp4d_export.render import plan_frames, render_frames
    from mvp4d_export.rig import Pose

    avatar = Avatar.load(folder, device)
    pose = Pose.of(read_motion(folder / "motion.npz").motion, device)
    path = camera_path("orbit:360x6", (48, 56), 6)
    expected = [rgb for rgb, _ in render_frames(avatar, plan_frames(pose, path, (48, 56)))]
    renderer = RealtimeRenderer(avatar, 56, 48)
    for frame in range(6):
        renderer.advance(pose[frame : frame + 1], torch.from_numpy(path.viewmats[frame]).to(device))
        rgb, _ = renderer.draw(torch.from_numpy(path.Ks[frame]).to(device))
        torch.testing.assert_close(rgb.clamp(0, 1), expected[frame], rtol=0, atol=1e-3 if device == "cuda" else 1e-6)
