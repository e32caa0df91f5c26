"""The distiller on a small capture: it learns, resumes, repeats itself, grows and shrinks."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_world import load, small_config, write_capture
from PIL import Image
from safetensors.torch import load_file, save_file

from mvp4d.core.capture import Capture
from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.errors import UserError
from mvp4d.core.stopping import Stopped, stoppable
from mvp4d_export import densify
from mvp4d_export.avatar import Avatar
from mvp4d_export.distill import Distiller
from mvp4d_export.fit_checkpoint import fingerprint, load_checkpoint, save_checkpoint
from mvp4d_export.fit_score import score
from mvp4d_export.fitting import distill
from mvp4d_export.losses import psnr
from mvp4d_export.presets import adapted, changed, preset, with_photos
from mvp4d_export.rig import Pose


def test_fit_beats_its_start_on_views_and_times_it_never_saw(egg, fitted):
    out, report = fitted
    start = score(Distiller(load(egg, hold_views=1, hold_times=1), small_config()))
    for group in ("fitted", "held_views", "held_times", "held_both"):
        assert report["scores"][group]["psnr"] > start[group]["psnr"] + 2.0, (start, report["scores"])
        assert report["scores"][group]["ssim"] > start[group]["ssim"] + 0.1
    assert json.loads((out / "report.json").read_text())["scores"] == report["scores"]
    assert "multi-scale" in report["perceptual"]
    events = list((out / "tensorboard").iterdir())
    assert events and all(path.name.endswith(".mvp4d") for path in events)  # TensorBoard names files after the host
    assert not [path for path in out.rglob("*") if path.name.endswith(os.uname().nodename)]
    assert not out.with_name(f"{out.name}.run").exists()


def test_groups_that_show_nobody_are_left_out_of_the_scores(egg):
    """The held-out frame is empty in all views: the fit, which is done, still gets its scores."""
    data = load(egg, hold_views=1, hold_times=1)
    data.usable[:, data.held_frames] = False
    scores = score(Distiller(data, small_config()))
    assert set(scores) == {"fitted", "held_views"}
    assert scores["held_views"]["pictures"] == len(data.train_frames)


def test_start_covers_what_the_rig_does_not(egg):
    """Before any step: the carved hull gives the wig, and no view has a hole in the head."""
    data = load(egg)
    fit = Distiller(data, small_config())
    assert fit.on_hull > 100
    pose = data.pose[:1]
    splats = fit.avatar.splats(fit.avatar.vertices(pose))
    views = list(range(6))
    alpha = fit.avatar.render(splats, pose, data.viewmats[views, 0], data.Ks[views, 0], 48, 48).alpha.detach()
    inside = data.masks[:, 0].float() / 255 > 0.95
    assert float((alpha[inside] > 0.7).float().mean()) > 0.98
    # Beyond the rig: the wig's crown stands two centimetres over the egg.
    assert float((splats.means[:, 1] > 0.112).sum()) > 10


def test_resumed_fit_equals_an_uninterrupted_one(egg, tmp_path, capsys):
    schedule = densify.DensifyConfig(rounds=2, start=0.2, stop=0.8)
    config = small_config(steps=12, frames_per_step=2, views=1, densify=schedule)
    whole = Distiller(load(egg), config)
    for _ in range(12):
        whole.train_step()
    first = Distiller(load(egg), config)
    for _ in range(7):
        first.train_step()
    save_checkpoint(first, tmp_path)
    second = Distiller(load(egg), config)
    assert load_checkpoint(second, tmp_path)
    assert second.step_done == 7 and "going on from step 7\n" in capsys.readouterr().err
    for _ in range(5):
        second.train_step()
    for name, value in whole.parameters().items():
        torch.testing.assert_close(second.parameters()[name], value, rtol=0, atol=0)
    other = Distiller(load(egg), config, seed=1)
    assert not load_checkpoint(other, tmp_path)
    assert "had other settings or pictures: this one begins anew" in capsys.readouterr().err
    tensors, path = load_file(tmp_path / "checkpoint.safetensors"), tmp_path / "damaged" / "checkpoint.safetensors"
    path.parent.mkdir()
    facts = {"fingerprint": fingerprint(first), "step": "7", "best": "0.0", "finished": "0", "average": "None"}
    for change in ({"start": None}, {"binding": tensors["binding"][:3]}, {}):
        changed = {name: value for name, value in (tensors | change).items() if value is not None}
        save_file(changed, path, facts if change else {"fingerprint": facts["fingerprint"]})
        with pytest.raises(UserError, match=r"is damaged .*delete it to start over"):
            load_checkpoint(Distiller(load(egg), config), path.parent)
    data = load(egg)
    data.pictures[1, 2, 3, 4] ^= 255  # the same folder, sampled again: one pixel differs
    assert not load_checkpoint(Distiller(data, config), tmp_path)


def test_a_fit_leaves_the_callers_random_numbers_alone(egg):
    """Its own are those of its seed, whatever the caller drew before."""
    config, data = small_config(steps=2, densify=densify.DensifyConfig(strategy="mcmc", rounds=2, start=0.0)), load(egg)
    fits = []
    for others in (3, 4):
        torch.manual_seed(others)
        before = torch.get_rng_state()
        fits.append(Distiller(data, config, seed=1))
        assert torch.equal(torch.get_rng_state(), before)
        for _ in range(2):
            fits[-1].train_step()
        assert torch.equal(torch.get_rng_state(), before)
    for name, value in fits[0].parameters().items():
        torch.testing.assert_close(fits[1].parameters()[name], value, rtol=0, atol=0)
    torch.manual_seed(1)
    seeded = Avatar(config.avatar, data.capture.head, frames=data.capture.frame_count)
    torch.testing.assert_close(
        Distiller(data, config, seed=1).avatar.net.state_dict(), seeded.net.state_dict(), rtol=0, atol=0
    )


def test_a_signal_in_the_middle_of_a_step_leaves_whole_steps(egg, tmp_path, monkeypatch):
    """It comes while the set of Gaussians changes; the run that goes on ends as an undisturbed one."""
    schedule = densify.DensifyConfig(rounds=2, start=0.2, stop=0.8)
    config = small_config(steps=10, frames_per_step=1, views=1, densify=schedule)
    whole, stopped, again = (Distiller(load(egg), config) for _ in range(3))
    for _ in range(10):
        whole.train_step()
    reindex = stopped.optimiser.reindex

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        reindex(*arguments)

    monkeypatch.setattr(stopped.optimiser, "reindex", interrupted)
    with pytest.raises(Stopped), stoppable():
        distill(stopped, tmp_path / "avatar")
    assert load_checkpoint(again, tmp_path / "avatar.run") and 0 < again.step_done < 10
    while again.step_done < 10:
        again.train_step()
    for name, value in whole.parameters().items():
        torch.testing.assert_close(again.parameters()[name], value, rtol=0, atol=0)


def test_a_step_takes_the_mean_gradient_of_its_samples(egg):
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    fit = Distiller(load(egg), small_config(frames_per_step=2, views=2))
    parts = [fit.sample(*fit.choose(index), fit.backdrop(index), 0.0, False) for index in range(2)]
    names = list(fit.parameters())
    fit.train_step()
    for name in ("position", "harmonics", "net.head.bias"):
        first, second = (part.gradients[names.index(name)] for part in parts)
        torch.testing.assert_close(fit.optimiser.first[name], 0.1 * (first + second) / 2, rtol=1e-5, atol=1e-9)


def test_pictures_are_laid_on_another_background_by_their_masks(egg):
    data = load(egg)
    white, masks, _, _ = data.batch([0, 3], 1)
    colour = torch.tensor([0.9, 0.1, 0.4])
    other = data.batch([0, 3], 1, background=colour)[0]
    head, outside = masks == 1, masks == 0
    assert head.sum() > 500 and outside.sum() > 500
    torch.testing.assert_close(other[head], white[head])
    torch.testing.assert_close(other[outside], colour.expand(int(outside.sum()), 3), atol=0.01, rtol=0)
    rim = ~head & ~outside  # by the definition of "over": what the head adds there stays the same
    added = white[rim] - (1 - masks[rim])[:, None]
    torch.testing.assert_close(other[rim], added + (1 - masks[rim])[:, None] * colour, atol=1e-6, rtol=0)
    small = data.batch([0, 3], 1, 1, colour)[0]
    torch.testing.assert_close(small, other.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).mean((2, 4)))
    data.masks = None
    assert Distiller(data, small_config()).backdrop(0) is None


def test_every_frame_comes_once_per_round_and_held_out_ones_never(egg):
    data = load(egg, hold_views=2, hold_times=2)
    fit = Distiller(data, small_config())
    chosen = [fit.choose(step) for step in range(8)]
    assert sorted(frame for frame, _ in chosen[:4]) == data.train_frames == sorted(m for m, _ in chosen[4:])
    assert all(set(views) <= set(data.train_views) and len(set(views)) == 3 for _, views in chosen)


def test_default_densification_grows_where_gradients_are(egg):
    fit = Distiller(load(egg), small_config())
    avatar, count = fit.avatar, fit.avatar.gaussian_count
    splats = avatar.splats(avatar.vertices(fit.data.pose[:1]))
    statistics = densify.Statistics(count, avatar.device)
    statistics.seen += 1
    statistics.gradient += 1e-6
    statistics.gradient[:40] = 1.0
    statistics.gradient[110:115] = 0.0  # always behind others
    config = densify.DensifyConfig(split_size=float(splats.scales.detach().amax(1)[:40].median()), max_size=1.0)
    avatar.logit_opacity.data[100:110] = -10
    splats = avatar.splats(avatar.vertices(fit.data.pose[:1]))
    change = densify.default_round(avatar, splats, statistics, config, 10**6, torch.Generator().manual_seed(0))
    split = int((splats.scales.amax(1)[:40] > config.split_size).sum())
    assert 0 < split < 40
    assert len(change.keep) == count - 15 - split
    assert len(change.binding) == (40 - split) + 2 * split
    assert set(range(100, 115)).isdisjoint(change.keep.tolist())
    torch.testing.assert_close(
        change.binding[-split:], avatar.binding[:40][splats.scales.amax(1)[:40] > config.split_size]
    )


def test_mcmc_relocation_keeps_the_picture():
    """n Gaussians of the new opacity, stacked, let as much light through at the centre as the one they replace."""
    opacity, copies = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([2, 3, 5])
    new, shrink = densify.relocated(opacity, copies)
    torch.testing.assert_close(1 - (1 - new) ** copies, opacity)
    assert (shrink < 1).all()
    # Along a line through the centre, the summed alpha is kept (equation 9 of the paper): integrate numerically.
    x = torch.linspace(-8, 8, 20001)
    for o, n, count, s in zip(opacity, new, copies, shrink):
        old = o * torch.exp(-x.square() / 2)
        stacked = 1 - (1 - n * torch.exp(-x.square() / (2 * s * s))) ** count
        assert abs(float(stacked.mean() / old.mean()) - 1) < 2e-3


def test_mcmc_run(egg):
    config = small_config(steps=20, densify=densify.DensifyConfig(strategy="mcmc", rounds=3, start=0.1, stop=0.9))
    fit = Distiller(load(egg), config)
    before = fit.avatar.gaussian_count
    losses = [fit.train_step()["loss"] for _ in range(20)]
    assert before < fit.avatar.gaussian_count <= config.max_gaussians
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("with_fixed", [False, True])
@pytest.mark.parametrize("over", [-200, -10, 0, 10, 40])
def test_mcmc_round_at_its_limit(egg, over, with_fixed):
    """30 are dead, `over` is how many there are above the limit. None of the fixed goes, moves or is drawn."""
    fit = Distiller(load(egg), small_config())
    avatar, count = fit.avatar, fit.avatar.gaussian_count
    config, limit = densify.DensifyConfig(strategy="mcmc"), count - over
    avatar.logit_opacity.data[:] = 2.0
    avatar.logit_opacity.data[:30] = -10.0
    fixed = torch.zeros(count, dtype=torch.bool)
    fixed[20:60] = with_fixed  # ten of them are faint
    before = {name: getattr(avatar, name).detach()[fixed].clone() for name in densify.GAUSSIAN_TENSORS}
    splats = avatar.splats(avatar.vertices(fit.data.pose[:1]))
    change = densify.mcmc_round(
        avatar, splats, config, limit, torch.Generator().manual_seed(0), fixed if with_fixed else None
    )
    dead = 20 if with_fixed else 30
    assert change.keep.tolist() == list(range(dead, count))
    assert len(change.binding) == max(0, min(limit, int(1.05 * count) + 1) - (count - dead))
    assert all(len(value) == len(change.binding) for value in change.tensors.values())
    for name, value in before.items():
        assert torch.equal(getattr(avatar, name).detach()[fixed], value)
    if len(change.binding):
        assert float(change.tensors["logit_opacity"].min()) > -4.0  # none of a fixed, faint one


def test_mcmc_leaves_a_set_alone_that_is_all_fixed(egg):
    fit = Distiller(load(egg), small_config())
    avatar, config = fit.avatar, densify.DensifyConfig(strategy="mcmc")
    everyone, position = torch.ones(avatar.gaussian_count, dtype=torch.bool), fit.avatar.position.detach().clone()
    avatar.logit_opacity.data[:] = -10.0
    splats, generator = avatar.splats(avatar.vertices(fit.data.pose[:1])), torch.Generator().manual_seed(0)
    change = densify.mcmc_round(avatar, splats, config, 10**6, generator, everyone)
    densify.mcmc_noise(avatar, splats, 1e-2, config, generator, everyone)
    assert len(change.keep) == len(everyone) and not len(change.binding)
    assert torch.equal(avatar.position.detach(), position)
    densify.mcmc_noise(avatar, splats, 1e-2, config, generator)
    assert not torch.equal(avatar.position.detach(), position)


def test_mcmc_run_of_a_fit_that_begins_above_its_limit(egg):
    schedule = densify.DensifyConfig(strategy="mcmc", rounds=3, start=0.1, stop=0.9)
    fit = Distiller(load(egg), small_config(steps=8, densify=schedule, max_gaussians=100))
    begun = fit.avatar.gaussian_count
    for _ in range(8):
        fit.train_step()
    assert 100 < fit.avatar.gaussian_count <= begun


def test_colour_correction_takes_up_a_tint(egg, tmp_path):
    """One view is darkened; with the correction its colour transform learns that, and the avatar stays as it was."""
    tinted = tmp_path / "tinted"
    shutil.copytree(egg, tinted)
    for path in (tinted / "images" / "cam02").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) * 0.8).astype(np.uint8)).save(path)
    config = small_config(steps=40, rates=dataclasses.replace(small_config().rates, colour=1e-2))
    fit = Distiller(load(tinted), config, colour_correction=True)
    for _ in range(40):
        fit.train_step()
    gain = fit.colour.detach()[..., :3].diagonal(dim1=1, dim2=2).mean(1) + fit.colour.detach()[..., 3].mean(1)
    assert gain[2] < gain[[0, 1, 3, 4, 5]].min() - 0.03


def test_avatar_survives_saving_and_loads_without_jax(fitted, egg):
    out, _ = fitted
    avatar = Avatar.load(out)
    data = load(egg)
    code = (
        "import sys, importlib.abc\n"
        "class Wall(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('jax', 'flax', 'optax', 'orbax', 'grain'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from mvp4d.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    frames = out.parent / "frames"
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "render",
            str(out),
            "--motion",
            str(egg),
            "--cameras",
            f"file:{egg / 'cameras.npz'}",
            "--size",
            "48",
            "--out",
            str(frames),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "rendered 6 frames" in run.stdout
    for view in range(6):
        pose = Pose.of(data.capture.motion)[view : view + 1]
        with torch.no_grad():
            expected = avatar.render(
                avatar.splats(avatar.vertices(pose)),
                pose,
                data.viewmats[view : view + 1, 0],
                data.Ks[view : view + 1, 0],
                48,
                48,
                torch.ones(3),
            ).rgb[0]
        picture = np.asarray(Image.open(frames / f"{view:05d}.png")) / 255
        assert np.abs(picture - expected.clamp(0, 1).numpy()).max() < 0.5 / 255 + 1e-6
    # and it is a picture of the capture
    assert float(psnr(torch.from_numpy(picture)[None].float(), data.batch([5], 5)[0])) > 20


def test_a_transparent_picture_is_left_out(egg, tmp_path, capsys):
    target = tmp_path / "capture"
    shutil.copytree(egg, target)
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(target / "masks" / "cam01" / "00003.png")
    data = load(target)
    assert "1 pictures are all transparent" in capsys.readouterr().err
    fit = Distiller(data, small_config(views=0))
    views = dict(fit.choose(step) for step in range(6))
    assert sorted(views[3]) == [0, 2, 3, 4, 5]
    assert sorted(views[2]) == list(range(6))


def test_video_captures_are_read(tmp_path):
    """The same frames as an mp4 come back within what the codec loses."""
    from mvp4d.core.video import VideoWriter

    path = write_capture(tmp_path / "capture", views=2, frames=3, gaussians=3000)
    capture = Capture.open(path)
    truth = np.stack([capture.frames(view) for view in range(2)])
    (path / "videos").mkdir()
    for view, name in enumerate(capture.names):
        writer = VideoWriter(path / "videos" / f"{name}.mp4", (48, 48), 24)
        for frame in truth[view]:
            writer.add(frame)
        writer.close()
    shutil.rmtree(path / "images")
    (path / "capture.json").write_text((path / "capture.json").read_text().replace('"png"', '"video"'))
    video = Capture.open(path)
    assert np.abs(video.frames(1).astype(int) - truth[1]).mean() < 4


def test_a_fit_has_no_spikes(fitted):
    avatar = Avatar.load(fitted[0])
    with torch.no_grad():
        splats = avatar.splats(avatar.vertices(Pose.of(read_motion(fitted[0] / "motion.npz").motion)[:1]))
    assert float(splats.scales.max()) < 0.03


def test_presets_shrink_for_small_pictures():
    """At half the side a fit takes half the Gaussians and fewer steps; at full size nothing changes."""
    config = preset("cpu")
    assert adapted(config, (128, 128)) == config == adapted(config, (512, 256))
    small = adapted(config, (64, 64))
    assert small.max_gaussians == config.max_gaussians // 2 == adapted(config, (16, 16)).max_gaussians
    assert small.steps < config.steps
    assert small.avatar.uv_resolution < config.avatar.uv_resolution
    assert adapted(preset("default"), (64, 64)) == preset("default")
    with pytest.raises(UserError, match="turbo"):
        preset("turbo")


def test_photos_need_fewer_steps_on_a_cpu_and_the_flag_overrides():
    plain, photos = preset("cpu"), with_photos(preset("cpu"))
    assert photos.steps < plain.steps / 3 and changed(photos, steps=7).steps == 7
    for name in ("low", "default", "high"):
        assert with_photos(preset(name)).steps == preset(name).steps
