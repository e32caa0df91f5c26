"""Shards: round trip, and every way they can be wrong."""

import json

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d.core.files import checksum
from mvp4d_jax.data import shards as shards_module
from mvp4d_jax.data.shards import MANIFEST, Shards, check_same, pack, unpack
from tests.data.synthetic import write_shards


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", scenes=2, views=2, windows=1, images=1)


def test_records_round_trip():
    arrays = {"latents": np.arange(24, dtype=np.float16).reshape(2, 3, 4), "conditioning": np.ones((1, 2), np.float32)}
    back = unpack(pack(arrays))
    assert set(back) == set(arrays)
    for name in arrays:
        np.testing.assert_array_equal(back[name], arrays[name])
        assert back[name].dtype == arrays[name].dtype


def test_changed_byte(folder):
    file = folder / "shard-00000.array_record"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-00000.*checksum differs"):
        Shards.open(folder)


def test_bytes_are_looked_at_once(folder, monkeypatch):
    """A note beside the files spares the second look, until a file is written again; without trust none is spared."""
    Shards.open(folder, trust_note=True)
    looked = []
    monkeypatch.setattr(shards_module, "checksum", lambda path: looked.append(path.name) or checksum(path))
    Shards.open(folder, trust_note=True)
    assert looked == []
    file = folder / "shard-00001.array_record"
    file.write_bytes(file.read_bytes())
    Shards.open(folder, trust_note=True)
    assert looked == [file.name]
    Shards.open(folder)
    assert sorted(looked) == ["shard-00000.array_record", file.name, file.name]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-00001.*checksum differs"):
        Shards.open(folder, trust_note=True)


def test_cut_and_missing_file(folder):
    file = folder / "shard-00001.array_record"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"shard-00001.*the manifest says"):
        Shards.open(folder, verify=False)
    file.unlink()
    with pytest.raises(UserError, match=r"shard-00001.*missing"):
        Shards.open(folder)


def test_unreadable_record(folder):
    shards = Shards.open(folder)
    file = folder / "shard-00000.array_record"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(UserError, match="cannot be read"):
        shards.read("shard-00000.array_record", 0)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("head", "flame2023", "head is builtin, the config has flame2023"),
        ("latent_scale", 1.15258426, "latent_scale is 1.0.*scaled exactly once"),
        ("autoencoder", "0123", "autoencoder is none"),
        ("image_size", 512, "image_size is 32, the config has 512"),
    ],
)
def test_mismatch_with_the_config(folder, field, value, message):
    with pytest.raises(UserError, match=message):
        check_same([Shards.open(folder)], {field: value})


def test_manifest_absent_or_foreign(folder, tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json"):
        Shards.open(tmp_path / "nothing")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(UserError, match="version 99"):
        Shards.open(folder)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        Shards.open(folder)
    (folder / MANIFEST).unlink()
    (folder / "shard-00000.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        Shards.open(folder)
