"""Files that version 0.1 wrote are read still: a capture, shards, an avatar and a release's facts, zipped here.

The pictures in it are 0.1's own rendering of that avatar.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp4d import open_avatar
from mvp4d.core.capture.format import Capture
from mvp4d.validation import validate
from mvp4d_jax.data.shards import Shards, check_same
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.release import read_facts
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.launch import expected_facts
from mvp4d_jax.training.plan import resolve

FILES = Path(__file__).with_name("formats_0_1.zip")


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("0_1")
    with zipfile.ZipFile(FILES) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", ["capture", "shards", "avatar"])
def test_validates(old, name):
    assert name in validate(old / name)


def test_capture(old):
    capture = Capture.open(old / "capture")
    assert (capture.view_count, capture.frame_count, capture.head.name, capture.motion.fps) == (2, 2, "ball", 25)
    for kind, read in (("images", capture.frame), ("masks", capture.mask)):
        file = old / "capture" / kind / "cam01" / "00001.png"
        np.testing.assert_array_equal(read(1, 1), np.asarray(Image.open(file)))


def test_shards_fit_the_config_they_were_made_for(old):
    config = load_config("tiny", ["--config.autoencoder=none"])
    shards = Shards.open(old / "shards")
    facts = expected_facts(config, resolve(config)) | {"image_size": shards.manifest["image_size"]}
    check_same([shards], {name: value for name, value in facts.items() if name != "autoencoder"})
    (scene,) = shards.scenes
    record = shards.read(scene.shard, int(scene.window_records[0, 0, 0]))
    assert record["latents"].shape == (2, 4, 4, 24) and np.isfinite(record["conditioning"]).all()


def test_release(old):
    facts = read_facts(old / "release")
    assert (facts.head, facts.image_size, facts.views, facts.frames) == ("builtin", 128, 4, 9)
    expected = ConditioningConfig(image_to_latent=4, temporal_stride=2, supersampling=4, painted=24)
    assert facts.conditioning == expected and facts.dtype == "float32"


def test_avatar_renders_as_it_did(old):
    avatar = open_avatar(old / "avatar", device="cpu")
    frames = avatar.render(cameras="orbit:360x3", size=96).frames()
    pictures = sorted((old / "rendered").glob("*.png"))
    assert len(pictures) == len(frames) == 3
    for path, frame in zip(pictures, frames):
        assert np.abs(frame.astype(int) - np.asarray(Image.open(path))).max() <= 1
