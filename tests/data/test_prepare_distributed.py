"""`mvp4d prepare --distributed`: the processes of a SLURM job share the shards, byte for byte those of one process."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from mvp4d.core.files import read_json
from mvp4d_jax.data.shards import MANIFEST
from tests import host_processes
from tests.host_processes import finish
from tests.small_world import write_scene
from tests.training.tiny_run import write_autoencoder

SETTINGS = {
    "head": "ball",
    "curriculum": "all",
    "stages.all.image_size": 32,
    "stages.all.mixture.monocular.frames": 3,
    "stages.all.mixture.multiview.frames": 3,
    "prepare.image_size": 32,
    "prepare.frames": 3,
    "prepare.stride": 2,
    "prepare.images": 1,
    "prepare.captures_per_shard": 1,
}
FIRST_PORT = 65535 - 2**12 + 1  # JAX's coordinator in a SLURM job listens at this plus the job's number modulo 2^12


def free_job_number() -> int:
    """A job number whose port nobody listens at."""
    for job in range(os.getpid() % 2**12, 2**12):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", FIRST_PORT + job)):
                return job
    raise AssertionError("no free port")


def start(root: Path, out: str, *extra: str, devices: int = 1, **environment: object) -> subprocess.Popen:
    words = ["prepare", "captures", "--config", "tiny", "--config.autoencoder=vae", "--out", out, *extra]
    words += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    return host_processes.start(root, words, devices, ("SLURM_",), **environment)


@pytest.mark.slow  # three processes that compile an autoencoder, about a minute
@pytest.mark.timeout(600)
def test_processes_of_a_job_share_the_shards(tmp_path):
    write_autoencoder(tmp_path / "vae")
    for index in range(3):
        write_scene(tmp_path / "captures" / f"scene{index}", views=2, frames=4, size=32, seed=index)
    finish(start(tmp_path, "alone"))
    job = {"SLURM_JOB_ID": free_job_number(), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": 2}
    outputs = finish(
        *(
            start(tmp_path, "shared", "--distributed", devices=2, SLURM_PROCID=index, SLURM_LOCALID=0, **job)
            for index in range(2)
        )
    )
    assert "0/2" in outputs[0] and "0/1" in outputs[1]  # captures of the first process, and of the second
    assert any("6 scenes in 3 shards" in output for output in outputs)
    alone, shared = (read_json(tmp_path / folder / MANIFEST) for folder in ("alone", "shared"))
    assert len(alone["files"]) == 3 and shared == alone  # with the checksum of every shard
    for file in alone["files"]:
        assert (tmp_path / "shared" / file["name"]).read_bytes() == (tmp_path / "alone" / file["name"]).read_bytes()
