"""`mvp4d train --dry-run`: what a run would do, said and not done."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.training import loop
from mvp4d_jax.training.announce import dropped_parameters
from mvp4d_jax.training.config import load_config
from tests.small_inputs import furnish, shrink, write_cogvideox

COMMAND = [
    "train",
    "--config",
    "mvp4d_2b",
    "--config.initial=CogVideoX-2b/transformer",
    "--config.autoencoder=CogVideoX-2b/vae",
    "--config.data.shards=shards/512",
    "--config.stages.images.shards=shards/256",
    "--workdir",
    "run",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_cogvideox(folder / "CogVideoX-2b")
    return folder


def test_the_plan_of_a_launch(world, monkeypatch):
    """Weights against the files' own counts, tokens against the sizes, memory against 16 bytes a parameter."""
    monkeypatch.chdir(world)
    words = shrink(COMMAND)
    furnish(world, words)
    before = sorted(world.rglob("*"))
    config = load_config("mvp4d_2b", [word for word in words if word.startswith("--config.")])
    said = loop.train(config, world / "run", check_memory=False, dry_run=True)
    new = {path.name for path in world.rglob("*") if path not in before}
    assert new <= {"verified.json"}, "a dry run writes nothing but that the shards are sound"

    count = dict.fromkeys(("all", "text", "whole"), 0)
    files = list((world / "CogVideoX-2b" / "transformer").glob("*.safetensors"))
    assert len(files) > 1, "a checkpoint in several files"
    for file in files:
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                shape = tensors.get_slice(name).get_shape()
                size = int(np.prod(shape))
                text = size if "text_proj" in name else 0
                text += size // 2 if re.search(r"norm[12]\.linear", name) else 0  # video by one half, text by the other
                small = len(shape) == 1 or "time_embedding.linear_2" in name
                for key, more in (("all", size), ("text", text), ("whole", (size - text) * small)):
                    count[key] += more
    assert f"CogVideoX-2b/transformer, {count['all']:,} parameters; dropped: its text stream, {count['text']:,}" in said
    width, maps = 32, 56
    assert f"new, from zero: conditioning, {4 * maps * width + width:,}" in said  # patches of 2 x 2, and a bias
    parameters = count["all"] - count["text"] + 4 * maps * width + width
    assert f"parameters: {parameters:,};" in said
    split, whole = re.search(r"of the parameters ([\d.]+) MiB in 8 parts, ([\d.]+) MiB whole on every", said).groups()
    assert float(whole) == pytest.approx(4 * (count["whole"] + width) / 2**20, abs=0.006)
    assert float(split) + float(whole) == pytest.approx(4 * parameters / 2**20, abs=0.011)
    assert "mesh: data 1, fsdp 8, context 1: 8 devices; cpu, 1 process" in said
    # 3 views x 9 frames (3 latent frames) at 64 pixels: 8 x 8 latents, 4 x 4 patches, and those of the reference.
    tokens = (3 * 3 + 1) * 16
    assert f"70 % multiview: 8 x 3 views x 9 frames = 8 x {tokens} tokens, {tokens} a device" in said
    assert "steps: 12 to go from 0" in said and "host devices do not tell it" in said
    assert said.endswith("leave --dry-run out to train")


def test_what_2b_loses_without_text():
    """CogVideoX-2B has 1,694 M parameters, 185 M of which only text passes through."""
    whole = TransformerConfig.named("2b", conditioning_channels=0)
    dropped, total, new = dropped_parameters(whole, TransformerConfig.named("2b", text_dim=0))
    assert total == pytest.approx(1694e6, abs=0.5e6) and dropped == pytest.approx(185e6, abs=0.5e6)
    assert new == 4 * 56 * 1920 + 1920


def test_what_a_model_with_other_maps_loses_and_gains():
    """Columns of one tensor: those of maps that are gone are dropped, those of new ones start from zero."""
    few, more = (TransformerConfig.named("2b", conditioning_channels=channels) for channels in (54, 56))
    columns = 4 * 2 * 1920  # patches of 2 x 2
    assert dropped_parameters(few, more)[::2] == (0, columns)
    assert dropped_parameters(more, few)[::2] == (columns, 0)
