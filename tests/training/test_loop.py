"""A whole job: two stages of other sizes, data and meshes, validation with its sample, a resume in the second."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Batches
from mvp4d_jax.data.prepare import autoencoder_identity
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.diffusion.denoising import Conditions
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.checkpoint import load_autoencoder
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.metrics import read_metrics
from mvp4d_jax.training.plan import resolve
from mvp4d_jax.training.release import export_release
from mvp4d_jax.training.state import ModelTemplate, abstract_state, make_optimiser
from mvp4d_jax.training.step import MODEL_INPUTS, loss_of, noisy_batch
from mvp4d_jax.training.validation import make_sample
from tests.training.tiny_run import run, write_autoencoder, write_shards

SMALL, LARGE = 32, 48  # pixels of the two stages


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    write_autoencoder(folder, "small")
    return folder


@pytest.fixture(scope="module")
def arguments(autoencoder, tmp_path_factory) -> list[str]:
    """`small` made minute: 4 steps of single views and single frames at 32 pixels, then 4 of multi-view video at 48."""
    folder = tmp_path_factory.mktemp("data")
    identity = autoencoder_identity(autoencoder)
    write_shards(folder / "small", config="small", image_size=SMALL, autoencoder=identity)
    for index, name in enumerate(("large", "held_out")):
        write_shards(folder / name, config="small", image_size=LARGE, autoencoder=identity, seed=1 + index)
    settings = {
        "autoencoder": autoencoder,
        "data.shards": folder / "small",
        "stages.video.shards": folder / "large",
        "data.validation_shards": folder / "held_out",
        "mesh": "1,1,1",
        "transformer.dtype": "float32",
        "stages.video.mesh": "1,2,1",
        "stages.video.remat": "attention",
        "stages.video.snr_shift": "tokens",
        "transformer.num_layers": 1,
        "transformer.num_heads": 2,
        "transformer.head_dim": 16,
        "transformer.time_embed_dim": 16,
        "metrics.every": 1,
        "checkpoint.every": 3,
        "checkpoint.keep_last": 10,
        "validation.every": 2,
        "validation.batches": 2,
        "validation.sample_steps": 2,
    }
    for stage, size in (("views", SMALL), ("video", LARGE)):
        settings |= {
            f"stages.{stage}.steps": 4,
            f"stages.{stage}.warmup": 1,
            f"stages.{stage}.image_size": size,
            f"stages.{stage}.learning_rate": 1e-3,
        }
        for kind in ("monocular", "static", "multiview"):
            settings[f"stages.{stage}.mixture.{kind}.batch"] = 2
            settings[f"stages.{stage}.mixture.{kind}.weight"] = float((kind == "multiview") == (stage == "video"))
        settings |= {
            f"stages.{stage}.mixture.monocular.frames": 9,
            f"stages.{stage}.mixture.multiview.frames": 9,
            f"stages.{stage}.mixture.static.views": 3,
            f"stages.{stage}.mixture.multiview.views": 2,
        }
    return [f"--config.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def job(arguments, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "job"
    run(workdir, arguments, config="small", devices=2)
    return workdir


def restored(workdir: Path, arguments: list[str], step: int | None = None):
    plan, mesh = resolve(load_config("small", arguments)), parallel.make_mesh((1, 1, 1))
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    like = abstract_state(template, make_optimiser(plan.optimiser, template.shapes), mesh)
    return plan, template, Checkpoints(workdir / "checkpoints", read_only=True).restore(like, step)[0]


def test_stages_run_one_after_another(job):
    lines = [line for line in read_metrics(job) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["stage"] for line in lines] == ["views"] * 4 + ["video"] * 4
    kinds = [next(name for name in line if name.startswith("loss_")).removeprefix("loss_") for line in lines]
    assert sorted(kinds[:4]) == ["monocular", "monocular", "static", "static"] and kinds[4:] == ["multiview"] * 4
    np.testing.assert_allclose([line["learning_rate"] for line in lines[:6]], [1e-3] * 6, rtol=1e-4)
    assert lines[7]["learning_rate"] < 5e-4, "the second stage ends in a cosine"
    for line in lines:
        assert line["tokens_per_second"] > 0 and 0 < line["model_flops_utilisation"] < 1 and 0 <= line["data_wait"] < 1
    assert any((job / "tensorboard").iterdir())
    assert json.loads((job / "config.json").read_text())["curriculum"] == ["views", "video"]


def test_validation_measures_the_moving_average(job, arguments):
    """The last line again, from the checkpoint and the held-out shards, with the noise that belongs to each batch."""
    lines = [line for line in read_metrics(job) if "validation_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    plan, template, state = restored(job, arguments, 8)
    plan = plan.for_stage(plan.stages[-1])
    assert plan.loss.snr_shift == pytest.approx(1.5 * np.sqrt((1 + 2 * 3) * 3 * 3 / 17_776))  # 1 + V L frames of 9
    held_out = Shards.open(next(text for text in arguments if "validation_shards" in text).partition("=")[2])
    batches = Batches([held_out], plan.stages[-1].modalities, plan.sampling, plan.conditioning, steps=2, seed=0)
    schedule = NoiseSchedule.cogvideox(snr_shift=plan.loss.snr_shift)
    expected = []
    for index in range(2):
        batch = {name: jnp.asarray(batches[index][name]) for name in MODEL_INPUTS}
        noisy = noisy_batch(jax.random.key(index), batch, plan.loss, schedule)
        expected.append(float(loss_of(template.model(state.ema), noisy)))
    assert lines[-1]["validation_loss"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert lines[-1]["validation_loss_multiview"] == lines[-1]["validation_loss"]
    assert lines[-1]["validation_latent_error"] > 0


def test_validation_draws_truth_above_sample(job, arguments):
    """Of each of the two views: four of the held-out frames, decoded by hand, above what was sampled."""
    with Image.open(job / "samples" / "step-0000008.png") as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (2 * 2 * LARGE, 4 * LARGE, 3)  # truth and sample of V = 2
    folders = {text.partition("=")[0]: text.partition("=")[2] for text in arguments}
    plan = resolve(load_config("small", arguments))
    whole = dataclasses.replace(plan.sampling, condition_dropout=0.0, clean_prefix=0.0, clean_views=0.0)
    shown = dataclasses.replace(next(m for m in plan.stages[-1].modalities if m.kind == "multiview"), batch=1)
    batch = Batches(
        [Shards.open(folders["--config.data.validation_shards"])], [shown], whole, plan.conditioning, steps=1, seed=0
    )[0]
    model, _ = load_autoencoder(Path(folders["--config.autoencoder"]))
    video = np.asarray(model.decode_latents(jnp.asarray(batch["latents"][0], jnp.float32)))[:, [0, 3, 5, 8]]
    expected = np.clip((video + 1) * 127.5, 0, 255)  # [V, 4, H, W, 3]
    for view in range(2):
        truth, made = np.split(pixels[2 * view * LARGE : 2 * (view + 1) * LARGE], 2)  # [H, 4 W, 3] each
        frames = truth.reshape(LARGE, 4, LARGE, 3).swapaxes(0, 1)
        assert np.abs(frames - expected[view]).max() < 1.01
        assert np.abs(made - truth).max() > 2


def test_resume_in_the_second_stage(job, arguments, tmp_path):
    """From step 6 on: the lines and the parameters of the run that was not stopped, bit for bit."""
    again = Path(shutil.copytree(job, tmp_path / "again"))
    shutil.rmtree(again / "checkpoints" / "8")
    run(again, arguments, config="small", devices=2)
    for name in ("loss", "validation_loss", "validation_latent_error"):
        ours, theirs = (
            [(line["step"], line[name]) for line in read_metrics(folder) if name in line] for folder in (again, job)
        )
        assert ours == theirs
    for ours, theirs in zip(*(jax.tree.leaves(restored(folder, arguments, 8)[2]) for folder in (again, job))):
        np.testing.assert_array_equal(ours, theirs)
    assert not (again / "config-1.json").exists()


def test_shards_in_the_devices_memory_train_alike(job, arguments, tmp_path):
    """The same job from step 3 on, over both stages: losses but for the last bit of turned rays."""
    again = Path(shutil.copytree(job, tmp_path / "resident"))
    for step in {int(path.name) for path in (again / "checkpoints").iterdir() if path.name.isdigit()} - {2}:
        shutil.rmtree(again / "checkpoints" / str(step))
    run(again, [*arguments, "--config.data.resident=true"], config="small", devices=2)
    for name in ("loss", "validation_loss"):
        ours, theirs = (
            {line["step"]: line[name] for line in read_metrics(folder) if name in line} for folder in (again, job)
        )
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_export_of_the_best(job, arguments, tmp_path):
    losses = {line["step"]: line["validation_loss"] for line in read_metrics(job) if "validation_loss" in line}
    best = min(losses, key=losses.get)
    assert f"step {best} " in export_release(load_config("small", arguments), job, tmp_path / "out", step="best")
    facts = json.loads((tmp_path / "out" / "mvp4d.json").read_text())
    assert (facts["image_size"], facts["views"], facts["frames"]) == (LARGE, 2, 9)
    assert facts["training"]["step"] == best
    assert (tmp_path / "out" / "transformer" / "config.json").is_file() and (tmp_path / "out" / "vae").is_dir()


def test_a_perfect_model_samples_the_truth():
    """With the v that leads to the truth, from pure noise, the sampler arrives there; clean frames stay untouched."""
    random = np.random.default_rng(0)
    truth = jnp.asarray(random.normal(size=(2, 3, 4, 4, 16)), jnp.float32)  # [V, L, h, w, C]
    clean = jnp.zeros(truth.shape[:2], bool).at[0, 0].set(True)
    config = ConditioningConfig()
    conditions = Conditions(
        jnp.zeros((*truth.shape[:4], config.channels)),
        clean,
        truth,
        jnp.zeros((4, 4, 16)),
        jnp.zeros((4, 4, config.channels)),
    )
    alphas = jnp.asarray(NoiseSchedule.cogvideox(snr_shift=1.0).alphas_cumprod, jnp.float32)

    def oracle(latents, timesteps, **_):  # rows of both views
        alpha = alphas[timesteps][..., None, None, None]
        noise = (latents - jnp.sqrt(alpha) * truth) / jnp.sqrt(jnp.maximum(1 - alpha, 1e-6))
        return jnp.sqrt(alpha) * noise - jnp.sqrt(1 - alpha) * truth

    mesh = parallel.make_mesh((1, 1, 1), jax.devices()[:1])
    plan = SimpleNamespace(loss=SimpleNamespace(snr_shift=1.0), conditioning=config, distill=SimpleNamespace(steps=0))
    draw = make_sample(plan, SimpleNamespace(mesh=mesh, model=lambda params: oracle), 8, 2.0)
    with parallel.use_mesh(mesh):
        made = draw((), jax.random.key(0), conditions)
    np.testing.assert_array_equal(made[0, 0], truth[0, 0])
    np.testing.assert_allclose(made, truth, atol=1e-3)
