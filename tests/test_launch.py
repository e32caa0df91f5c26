"""The launch scripts, as far as they go without a cluster: what a dry run prints, how the SLURM job ends."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
ARGUMENTS = ["--config", "mvp4d_2b", "--config.data.shards=/data/my shards"]


def dry_run(script: str, *arguments: str, **settings: str) -> str:
    environment = {**os.environ, "DRY_RUN": "1", **settings}
    done = subprocess.run([LAUNCH / script, *arguments], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def slurm(tmp_path: Path) -> str:
    return dry_run("slurm.sh", *ARGUMENTS, NODES="2", GPUS="8", WORKDIR=str(tmp_path), VENV="/venv")


@pytest.mark.parametrize("code, requeued", [(0, False), (2, False), (143, True)])
def test_slurm_job_requeues_itself_when_it_was_stopped(tmp_path, code, requeued):
    """The printed batch script, run with an srun that notes its arguments and ends with `code`."""
    for name, body in (("srun", f"exit {code}"), ("scontrol", "exit 0")):
        tool = tmp_path / name
        tool.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" {name} "$@" >> {tmp_path}/calls\n{body}\n')
        tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash"], input=slurm(tmp_path), env=environment, text=True, timeout=60)
    assert done.returncode == code
    calls = (tmp_path / "calls").read_text().split("\n")
    command = ["srun", "/venv/bin/mvp4d", "train", "--distributed", "--workdir", str(tmp_path), *ARGUMENTS]
    assert calls[: len(command)] == command
    assert (calls[len(command):-1] == ["scontrol", "requeue", "77"]) == requeued


def test_slurm_asks_for_one_process_a_node_and_a_signal(tmp_path):
    header = [line for line in slurm(tmp_path).splitlines() if line.startswith("#SBATCH")]
    assert "--nodes=2 --ntasks-per-node=1 --gpus-per-node=8" in header[0]
    assert "--signal=TERM@300" in header[1] and "--requeue" in header[1]


def test_gke_manifest():
    text = dry_run("gke_jobset.sh", *ARGUMENTS, NAME="run", IMAGE="registry/image:1", ACCELERATOR="tpu-v5p-slice",
                   TOPOLOGY="4x4x4", HOSTS="16", CHIPS_PER_HOST="4", BUCKET="bucket")
    job = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert (job["parallelism"], job["completions"]) == (16, 16)
    assert container["command"] == ["mvp4d", "train", "--distributed"]
    assert container["args"] == ["--workdir", "/bucket/run", *ARGUMENTS]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_tpu_vm_commands():
    settings = {"NAME": "run", "ZONE": "zone", "TYPE": "v5p-128", "BUCKET": "bucket"}
    assert "queued-resources create run" in dry_run("tpu_vm.sh", "up", **settings)
    for verb, words in (("install", ".\\[tpu\\]"), ("train", "--distributed"), ("log", "train.log"), ("stop", "TERM"),
                        ("down", "delete")):
        assert words in dry_run("tpu_vm.sh", verb, *(ARGUMENTS if verb == "train" else ()), **settings)
