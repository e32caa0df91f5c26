"""Checkpoints that are damaged, or of something else, are refused in one line that names the fault."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d_jax.models import checkpoint, convert
from mvp4d_jax.models.checkpoint_config import read_config, to_json
from mvp4d_jax.models.config import AutoencoderConfig
from tests.models.test_checkpoint import tensors_of


def _write(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """A float32 safetensors file, written here by hand."""
    header, body = {}, b""
    for name, array in tensors.items():
        place = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        body += array.astype("<f4").tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_one_error_lists_missing_left_over_and_misshapen(copy):
    tensors = {name: tensor.float().numpy() for name, tensor in tensors_of(copy).items()}
    for file in copy.glob("*.safetensors*"):
        file.unlink()
    tensors["surplus.weight"] = tensors.pop("norm_final.weight")
    tensors["proj_out.bias"] = np.zeros(7, np.float32)
    _write(copy / "diffusion_pytorch_model.safetensors", tensors)
    with pytest.raises(UserError) as caught:
        checkpoint.load_transformer(copy)
    message = str(caught.value)
    assert "1 missing: norm_final.weight" in message and "1 left over: surplus.weight" in message
    assert "1 misshapen: proj_out.bias (7,) instead of (16,)" in message


def damage_missing_shard(folder: Path) -> str:
    sorted(folder.glob("*.safetensors"))[0].unlink()
    return "is missing"


def damage_truncation(folder: Path) -> str:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-100])
    return "truncated"


def damage_header(folder: Path) -> str:
    sorted(folder.glob("*.safetensors"))[0].write_bytes(b"\x40\0\0\0\0\0\0\0{not json" + b" " * 80)
    return "damaged header"


def damage_empty_file(folder: Path) -> str:
    sorted(folder.glob("*.safetensors"))[0].write_bytes(b"")
    return "truncated"


def damage_nan(folder: Path) -> str:
    file = sorted(folder.glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-2:] = b"\xc0\x7f"  # a bfloat16 NaN
    file.write_bytes(content)
    return "NaN"


def damage_architecture(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text()) | {"_class_name": "FluxTransformer2DModel"}
    (folder / "config.json").write_text(json.dumps(config))
    return "architecture 'FluxTransformer2DModel'"


def damage_unsupported_field(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text()) | {"patch_size_t": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return "patch_size_t is 2"


def damage_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"_class_name": ')
    return "not readable JSON"


def damage_field_of_wrong_kind(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text()) | {"num_layers": "two"}
    (folder / "config.json").write_text(json.dumps(config))
    return "num_layers"


def damage_index(folder: Path) -> str:
    file = next(folder.glob("*.index.json"))
    index = json.loads(file.read_text())
    del index["weight_map"]["norm_final.bias"]
    file.write_text(json.dumps(index))
    return "norm_final.bias"


def damage_pickle(folder: Path) -> str:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    return "pickled weights are not read"


def damage_everything(folder: Path) -> str:
    shutil.rmtree(folder)
    return "no such folder; give a diffusers folder"


@pytest.mark.parametrize("damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")])
def test_bad_input_is_one_line_and_exit_code_2(copy, damage, capsys):
    expected = damage(copy)
    assert cli.main(["convert", str(copy), str(copy.parent / "out")]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1 and "Traceback" not in message
    assert not (copy.parent / "out").exists()


def test_convert_does_not_overwrite(pipeline, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for more, message in ((), "already there"), (["--overwrite"], "not overwritten"):
        assert cli.main(["convert", str(pipeline / "vae"), str(tmp_path / "out"), *more]) == 2
        assert message in capsys.readouterr().err


def test_a_release_whose_scale_disagrees_is_refused(pipeline, tmp_path):
    release = shutil.copytree(pipeline, tmp_path / "release")
    (release / "transformer" / "config.json").write_text(
        json.dumps(json.loads((release / "transformer" / "config.json").read_text()))
    )
    with pytest.raises(UserError, match="latent channels"):  # 16 of the autoencoder, 4 of the transformer
        convert.validate_weights(release)
    shutil.rmtree(release / "transformer")
    (release / "mvp4d.json").write_text('{"latent_scale": 0.5}')
    with pytest.raises(UserError, match="latent_scale"):
        convert.validate_weights(release)


@pytest.mark.parametrize(
    "change", [{"block_out_channels": [16, False, 64]}, {"layers_per_block": 0}, {"scaling_factor": -1.0}]
)
def test_a_config_of_nothing_is_refused_by_field(tmp_path, change):
    value = to_json(AutoencoderConfig.named("tiny")) | change
    (tmp_path / "config.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=next(iter(change))):
        read_config(tmp_path)
