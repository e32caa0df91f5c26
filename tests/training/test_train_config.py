"""Overrides: what is taken, and what every mistake says."""

import json

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.training.config import load_config, record_config, save_config, saved_configs
from mvp4d_jax.training.config_file import packaged
from mvp4d_jax.training.plan import resolve


def test_packaged_configs_resolve():
    assert {"tiny", "tiny_128", "small", "mvp4d_2b"} <= set(packaged())
    for name in ("tiny", "tiny_128", "small", "mvp4d_2b"):
        plan = resolve(load_config(name))
        assert plan.steps == sum(stage.steps for stage in plan.stages)
    full = resolve(load_config("mvp4d_2b")).stages[-1]
    video = next(modality for modality in full.modalities if modality.kind == "multiview")
    assert (video.views, video.latents, video.batch, full.image_size) == (8, 13, 8, 512)


def test_overrides_are_taken():
    config = load_config(
        "tiny",
        [
            "--config.optimiser.clip=0.5",
            "--config.stages.all.mixture.static.batch",
            "12",
            "--config.mesh=2,2,2",
            "--config.optimiser.freeze=('^blocks',)",
            "--config.data.verify=false",
            "--config.stages.all.learning_rate=1",
        ],
    )
    assert config.optimiser.clip == 0.5 and config.stages["all"].mixture.static.batch == 12
    assert config.optimiser.freeze == ("^blocks",) and config.data.verify is False
    assert config.stages["all"].learning_rate == 1.0 and len(config.mesh) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.optimiser.clp=1"], r"no 'optimiser.clp'; did you mean '--config.optimiser.clip'\?"),
        (["--config.train.snr_shift=1"], r"did you mean '--config.loss.snr_shift'\?"),
        (["config.optimiser.clip=1"], r"not an argument.*did you mean '--config.optimiser.clip=1'\?"),
        (["optimiser.clip=1"], r"did you mean '--config.optimiser.clip=1'\?"),
        (["--optimiser.clip=1"], r"did you mean '--config.optimiser.clip=1'\?"),
        (["stray"], "not an argument"),
        (["--config.optimiser.clip=high"], "'high' is not of type float"),
        (["--config.checkpoint.every=1.5"], "'1.5' is not of type int"),
        (["--config.data.verify=7"], "not of type bool"),
        (["--config.optimiser=3"], "a group of settings"),
        (["--config.optimiser.clip"], "has no value"),
        (["--config.zebra=3"], "has no 'zebra'"),
    ],
)
def test_mistakes_say_what_was_meant(arguments, message):
    with pytest.raises(UserError, match=message):
        load_config("tiny", arguments)


def test_unknown_configs():
    with pytest.raises(UserError, match=r"did you mean 'tiny'\?"):
        load_config("tinny")
    with pytest.raises(UserError, match="no such config file"):
        load_config("nowhere/at_all.py")


def test_resolved_config_comes_back(tmp_path):
    config = load_config("tiny", ["--config.optimiser.clip=0.25"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(save_config(config)))
    assert resolve(load_config(str(file))) == resolve(config)
    assert load_config(str(file)).optimiser.clip == 0.25


@pytest.mark.parametrize("form", [None, "gather"])
def test_a_stored_config_may_name_the_only_way_to_attend_over_a_mesh(form):
    config = load_config("tiny")
    with config.unlocked():
        config.transformer.context_form = form
    assert resolve(config) == resolve(load_config("tiny"))


def test_a_stored_config_with_another_way_is_refused():
    config = load_config("tiny")
    with config.unlocked():
        config.transformer.context_form = "ring"
    with pytest.raises(UserError, match="context_form"):
        resolve(config)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["--config.autoencoder_size=tiny_128", "--config.stages.all.mixture.multiview.frames=8"],
            "use 1 \\+ 2k, such as 7 or 9",
        ),
        (["--config.stages.all.image_size=60"], "multiple of 16"),
        (["--config.stages.all.decay=linear"], "constant"),
        (["--config.loss.timesteps=random"], "loss.timesteps"),
        (["--config.optimiser.accumulation=5"], "do not divide into 5"),
        (["--config.stages.all.mixture.static.frames=5"], "static views have one frame"),
        (["--config.transformer.dtype=float8"], "dtype"),
        (["--config.transformer.size=huge"], "no transformer is called"),
        (["--config.autoencoder_size=small"], "'small' makes 16 latent channels, the transformer takes 24"),
    ],
)
def test_settings_that_cannot_be(overrides, message):
    with pytest.raises(UserError, match=message):
        resolve(load_config("tiny", overrides))


def test_learning_rate_over_stages():
    """Warm-up, constant, then a second stage with a cosine, by the formula."""
    plan = resolve(load_config("small"))
    rate, (first, second) = plan.learning_rate(), plan.stages
    steps = np.array(
        [0, 499, 999, 5000, second.start, second.start + 499, second.start + second.steps // 2, second.stop - 1]
    )
    ours = [float(rate(np.int32(step))) for step in steps]
    part = (second.steps // 2 - second.warmup) / (second.steps - second.warmup)
    cosine = second.learning_rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * part)))
    expected = [
        first.learning_rate / 1000,
        first.learning_rate / 2,
        first.learning_rate,
        first.learning_rate,
        second.learning_rate / 500,
        second.learning_rate,
        cosine,
        second.learning_rate * 0.01,
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-3)


def test_maps_are_as_fine_as_the_autoencoders_latents():
    plans = [resolve(load_config(name)) for name in ("tiny", "tiny_128", "small", "mvp4d_2b")]
    assert [plan.conditioning.image_to_latent for plan in plans] == [4, 4, 8, 8]
    assert [plan.conditioning.temporal_stride for plan in plans] == [1, 2, 4, 4]
    config = load_config("tiny")
    with config.unlocked():
        config.conditioning.image_to_latent = 8
    with pytest.raises(UserError, match="leave it out: the tiny autoencoder makes it 4"):
        resolve(config)


def test_every_config_of_a_run_is_kept_once(tmp_path):
    """The user's own notes, though named alike, are neither read nor counted."""
    (tmp_path / "config-notes.json").write_text("remember: {")
    for seed in (1, 2, 1, 3, 2):
        record_config(load_config("tiny", [f"--config.seed={seed}"]), tmp_path, saved_configs(tmp_path))
    kept = {name: value["seed"] for name, value in saved_configs(tmp_path).items()}
    assert kept == {"config.json": 1, "config-1.json": 2, "config-2.json": 3}
    (tmp_path / "config-1.json").unlink()
    record_config(load_config("tiny", ["--config.seed=4"]), tmp_path, saved_configs(tmp_path))
    assert load_config(str(tmp_path / "config-3.json")).seed == 4
