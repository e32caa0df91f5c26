"""Training of the autoencoder: what a batch holds, what a loss is, a resumed run, an export that diffusers loads."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from flax import nnx
from safetensors.torch import load_file
from small_world import quick_compilation, write_scene

from mvp4d import cli
from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import load_autoencoder, save_autoencoder
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.training import autoencoder
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.state import abstract_state
from mvp4d_jax.training.stop import Interrupted

NARROW = AutoencoderConfig(block_out_channels=(4, 8, 8), layers_per_block=1, norm_num_groups=4)


def smooth_clips(count: int, frames: int, size: int) -> np.ndarray:
    """Random low-frequency clips, uint8 [N, F, S, S, 3]."""
    coarse = np.random.default_rng(0).uniform(0, 255, (count, frames, 3, 3, 3))
    return np.asarray(jax.image.resize(coarse, (count, frames, size, size, 3), "cubic")).clip(0, 255).astype(np.uint8)


def settings(*overrides: str):
    return load_config(
        "tiny_autoencoder",
        [
            "--config.image_batch=2",
            "--config.clip_every=1000",
            "--config.warmup=1",
            "--config.every.metrics=1",
            "--config.every.validation=1000",
            "--config.every.checkpoint=2",
            "--config.data.held_out=2",
            *overrides,
        ],
    )


@dataclasses.dataclass
class Clip:
    """A capture of one view, [F, H, W, 3] uint8, that tells whether it was read."""

    video: np.ndarray
    was_read: bool = False
    view_count: int = 1

    @property
    def frame_count(self) -> int:
        return len(self.video)

    def frames(self, view: int, wanted: slice) -> np.ndarray:
        self.was_read = True
        return self.video[wanted]


@pytest.fixture()
def clips(monkeypatch):
    """Four to train on, two held out, and a narrow autoencoder on two devices, compiled quickly for its dozen steps."""
    made = smooth_clips(6, 1, 16)
    monkeypatch.setattr(AutoencoderConfig, "named", lambda name: NARROW)
    monkeypatch.setattr(autoencoder, "open_captures", lambda config: [Clip(clip) for clip in made])
    monkeypatch.setattr(autoencoder, "validate", lambda *_: {})
    pair = parallel.make_mesh((2, 1, 1), jax.devices()[:2])
    monkeypatch.setattr(autoencoder.parallel, "make_mesh", lambda *_: pair)
    with quick_compilation():
        yield made


def test_batches_depend_on_seed_and_step_alone():
    clips = smooth_clips(5, 9, 8)
    config = settings("--config.clip_every=4", "--config.clip_batch=3", "--config.recoloured=0.0")
    straight = [autoencoder.ClipBatches(clips, config)[step] for step in range(6)]
    resumed = [autoencoder.ClipBatches(clips, config)[step] for step in range(2, 6)]
    assert [batch.shape[:2] for batch in straight] == [(2, 1), (2, 1), (2, 1), (3, 9), (2, 1), (2, 1)]
    for one, other in zip(straight[2:], resumed):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(straight[0], straight[1])
    known = np.concatenate([clips, clips[:, :, :, ::-1]]) / 127.5 - 1
    for sample in straight[3]:  # a clip as it is, or its mirror image
        assert np.abs(known - sample).max((1, 2, 3, 4)).min() < 1e-5


def test_loss_by_hand():
    """A constant error has no gradient; a checkerboard's halves are flat."""
    target = jnp.zeros((1, 1, 8, 8, 3))
    assert abs(float(autoencoder.reconstruction_loss(target + 0.25, target, 1.0, 1.0, 4.0)) - 0.5) < 1e-6
    board = jnp.asarray((np.indices((8, 8)).sum(0) % 2) * 2.0 - 1)[None, None, :, :, None] * jnp.ones(3)
    assert abs(float(autoencoder.reconstruction_loss(board, target, 0.6, 9.0, 0.0)) - (1 + 0.2 * (2 + 2))) < 1e-5
    # A flat picture that goes from 0 to 0.5 and stays: two frames of three are off, and one step of two, at each scale.
    turned = jnp.zeros((1, 3, 8, 8, 3)).at[:, 1:].set(0.5)
    still = jnp.zeros((1, 3, 8, 8, 3))
    assert abs(float(autoencoder.reconstruction_loss(turned, still, 9.0, 0.6, 0.0)) - (1 / 3 + 0.6 * 0.25)) < 1e-6


def stopped_before(step: int):
    """`iterate` of a run that is sent SIGTERM while it waits for the batch of `step`."""
    iterate = autoencoder.iterate

    def iterate_and_signal(batches, first, **options):
        for index, batch in enumerate(iterate(batches, first, **options), first + 1):
            if index == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    return iterate_and_signal


@pytest.mark.slow  # three trainings
def test_resume_and_export(clips, tmp_path):
    """A run that was stopped ends with the same weights, bit for bit; diffusers reads them and computes the same."""
    config = settings("--config.steps=4", "--config.every.checkpoint=1000")
    autoencoder.train_autoencoder(config, tmp_path / "straight")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "iterate", stopped_before(3))
        with pytest.raises(Interrupted, match="stopped at step 3 and saved"):
            autoencoder.train_autoencoder(config, tmp_path / "resumed")
    assert signal.getsignal(signal.SIGTERM) is before
    assert Checkpoints(tmp_path / "resumed" / "checkpoints", read_only=True).steps() == [3]
    autoencoder.train_autoencoder(config, tmp_path / "resumed")
    lines = [json.loads(line) for line in (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "validate", lambda *_: {"validation_psnr_image": 0.0, "validation_psnr_clip": 0.0})
        read = [Clip(clip) for clip in clips]
        patch.setattr(autoencoder, "open_captures", lambda config: read)
        for name in ("straight", "resumed"):
            said = autoencoder.export_autoencoder(config, tmp_path / name, tmp_path / name / "vae")
            assert said.startswith("step 4: ")
        said = autoencoder.export_autoencoder(config, tmp_path / "resumed", tmp_path / "third", 3)
        assert said.startswith("step 3: ") and [clip.was_read for clip in read] == [True] * 2 + [False] * 4
        with pytest.raises(UserError, match=r"no checkpoint of step 2; there are: 3, 4"):
            autoencoder.export_autoencoder(config, tmp_path / "resumed", tmp_path / "second", 2)
    one, other = (
        load_file(tmp_path / name / "vae" / "diffusion_pytorch_model.safetensors") for name in ("straight", "resumed")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    model, sizes = load_autoencoder(tmp_path / "resumed" / "vae")
    oracle = AutoencoderKLCogVideoX.from_pretrained(tmp_path / "resumed" / "vae").eval()
    held_out = clips[:2].astype(np.float32) / 127.5 - 1
    latents = model.encode_latents(jnp.asarray(held_out))
    with torch.no_grad():
        theirs = oracle.encode(torch.from_numpy(held_out).permute(0, 4, 1, 2, 3)).latent_dist.mean
    np.testing.assert_allclose(latents, theirs.permute(0, 2, 3, 4, 1) * sizes.scaling_factor, atol=1e-4)
    assert abs(float(latents.std()) - 1) < 0.01  # the scale was measured on the held-out clips


def test_starts_from_given_weights(clips, tmp_path, monkeypatch):
    """Steps that learn nothing leave the given weights as they are; weights of another size are refused."""

    def idle(*_):
        return lambda state, video: (dataclasses.replace(state, step=state.step + 1), {"loss": jnp.zeros(())})

    monkeypatch.setattr(autoencoder, "make_step", idle)
    given = VideoAutoencoder(NARROW, rngs=nnx.Rngs(7))
    save_autoencoder(tmp_path / "given", given, NARROW)
    config = settings("--config.steps=2", f"--config.initial={tmp_path / 'given'}")
    autoencoder.train_autoencoder(config, tmp_path / "run")
    template = autoencoder._template(config, parallel.make_mesh((-1, 1, 1)))
    state, _ = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).restore(
        abstract_state(template, autoencoder._optimiser(config), template.mesh)
    )
    assert int(state.step) == 2
    for tree in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, template.params_of(given))

    autoencoder.train_autoencoder(settings("--config.steps=3"), tmp_path / "run")  # goes on, with other settings
    kept = {name: json.loads((tmp_path / "run" / name).read_text()) for name in ("config.json", "config-1.json")}
    assert [(value["steps"], value["initial"]) for value in kept.values()] == [(2, str(tmp_path / "given")), (3, "")]

    monkeypatch.setattr(AutoencoderConfig, "named", lambda name: dataclasses.replace(NARROW, latent_channels=20))
    with pytest.raises(UserError, match=r"config\.initial: its parameters are not those of the model"):
        autoencoder.train_autoencoder(config, tmp_path / "other")


def test_no_captures_is_the_users_mistake(tmp_path):
    for folder, said in (("", "names no folder"), (str(tmp_path), "holds 0 captures")):
        with pytest.raises(UserError, match=said):
            autoencoder.train_autoencoder(settings(f"--config.data.captures={folder}"), tmp_path / "run")


@pytest.mark.parametrize(
    "frames, size, said",
    [
        (5, 32, "has 5 frames, config.clip_frames is 9; leave it out of the folder, or give a smaller --config"),
        (9, 36, "pictures are 36 x 36; take captures whose sides are multiples of 8"),
    ],
)
def test_captures_that_do_not_fit_are_named_before_one_is_read(frames, size, said, tmp_path, monkeypatch, capsys):
    for index in range(5):
        write_scene(tmp_path / "captures" / f"{index}", frames=frames, size=size)
    monkeypatch.setattr(Capture, "frames", lambda *_: pytest.fail("pictures were read"))
    words = ["train", "--config", "tiny_autoencoder", f"--config.data.captures={tmp_path / 'captures'}"]
    assert cli.main([*words, "--workdir", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"mvp4d train: {tmp_path / 'captures' / '0'}: {said}") and "\n" not in line
    halves_time = ["--config.size=small", "--config.clip_frames=8"]
    assert cli.main([*words, "--workdir", str(tmp_path / "run"), *halves_time]) == 2
    assert "config.clip_frames: 8 frames do not fill whole latent frames; use 1 + 4k" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_best_autoencoder_is_not_known(tmp_path, capsys):
    words = ["train", "--config", "tiny_autoencoder", "--workdir", str(tmp_path / "run"), "--step", "best"]
    assert cli.main([*words, "--export", str(tmp_path / "vae")]) == 2
    assert "mvp4d train: --step: 'best' is not known of an autoencoder" in capsys.readouterr().err
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "mine").touch()
    assert cli.main([*words[:-2], "--export", str(tmp_path / "vae")]) == 2  # told before a checkpoint is looked for
    assert f"{tmp_path / 'vae'}: is already there" in capsys.readouterr().err


def test_nothing_but_warm_up_is_the_users_mistake(clips, tmp_path):
    with pytest.raises(UserError, match="the warm-up takes 9"):
        autoencoder.train_autoencoder(settings("--config.steps=9", "--config.warmup=9"), tmp_path / "run")
