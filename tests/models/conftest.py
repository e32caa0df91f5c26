"""A small pipeline folder of diffusers, whole and to be damaged."""

import shutil
from pathlib import Path

import pytest

SMALL = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "time_embed_dim": 16,
    "text_embed_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "max_text_seq_length": 3,
}


def _randomised(model):
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A pipeline folder as diffusers writes it: transformer in shards of bfloat16, autoencoder in float16."""
    import torch  # here, because most tests of models do without
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    folder = tmp_path_factory.mktemp("pipeline")
    transformer = _randomised(CogVideoXTransformer3DModel(**SMALL)).to(torch.bfloat16)
    transformer.save_pretrained(folder / "transformer", max_shard_size="200KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    autoencoder = AutoencoderKLCogVideoX(block_out_channels=(8, 16, 16, 32), layers_per_block=1, norm_num_groups=4)
    _randomised(autoencoder).to(torch.float16).save_pretrained(folder / "vae")
    return folder


@pytest.fixture()
def copy(pipeline, tmp_path) -> Path:
    """A transformer folder of its own to damage."""
    return shutil.copytree(pipeline / "transformer", tmp_path / "transformer")
