"""One small world for all training tests, and one number of steps: it is a constant of the compiled program, so that
one compilation serves every run."""

from pathlib import Path

import pytest

from mvp4d_jax.data.prepare import autoencoder_identity
from tests.training.tiny_run import RECORDED, overrides, run, write_autoencoder, write_shards


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    write_autoencoder(folder)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory, autoencoder) -> Path:
    """Ten windows, so that an epoch takes two and a half steps."""
    return write_shards(
        tmp_path_factory.mktemp("data") / "shards", scenes=5, autoencoder=autoencoder_identity(autoencoder)
    )


@pytest.fixture(scope="session")
def undisturbed(shards, tmp_path_factory) -> Path:
    """The workdir of a run that nothing happened to, with all its checkpoints."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(workdir, overrides(shards, checkpoint__keep_last=100), module=RECORDED)
    return workdir
