"""A launch rehearsed from end to end with README's own commands, made small, on eight host devices.

Random CogVideoX in the diffusers layout -> convert -> captures -> prepare -> train in bfloat16 through three stages,
with validation -> killed -> resumed on another mesh, by two processes -> export -> sample on two meshes, more views
than trained, in two windows -> evaluate -> distill.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mvp4d.core.capture import Capture
from mvp4d_jax.release import read_facts
from mvp4d_jax.training.metrics import read_metrics
from tests import small_inputs

ROOT = Path(__file__).resolve().parent.parent
SMALLER = [
    f"--config.{name}={value}"
    for name, value in {
        "checkpoint.every": 2,
        "validation.every": 4,
        "metrics.every": 1,
        "data.validation_shards": "shards/512",
        "data.workers": 0,
        "data.threads": 1,
    }.items()
]


def readme(verb: str, *words: str) -> list[str]:
    """The first command of README that begins so and holds all of `words`."""
    for line in re.findall(r"^ *(mvp4d .*)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        found = shlex.split(line)[1:]
        if found[0] == verb and all(any(word in part for part in found) for word in words):
            return found
    raise AssertionError(f"README has no `mvp4d {verb}` with {words}")


class World:
    """A folder to run commands in, on so many host devices."""

    def __init__(self, root: Path):
        self.root = root

    def start(self, words: list[str], devices: int = 8) -> subprocess.Popen:
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "mvp4d.cli", *words],
            cwd=self.root,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, words: list[str], devices: int = 8) -> str:
        return self.finish(self.start(words, devices), words)

    @staticmethod
    def finish(process: subprocess.Popen, words: list[str]) -> str:
        output, _ = process.communicate(timeout=3000)
        print(f"$ mvp4d {shlex.join(words)[:160]}\n{output[-400:]}", flush=True)
        assert process.returncode == 0, output[-3000:]
        return output


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("rehearsal")
    small_inputs.write_cogvideox(root / "CogVideoX-2b")
    return World(root)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_documented_road(world, monkeypatch):
    monkeypatch.chdir(world.root)
    world.run(readme("convert"))
    for size in ("shards/512", "shards/256"):
        command = small_inputs.shrink(readme("prepare", size))
        small_inputs.furnish(world.root, command)
        world.run(command)

    documented = readme("train", "--workdir")
    documented = [word for word in documented if word != "--dry-run"]
    train = [*small_inputs.shrink(documented), *SMALLER]
    workdir = world.root / documented[documented.index("--workdir") + 1]
    killed = world.start(train)
    wait_for(workdir / "checkpoints" / "6", killed)  # in the second of three stages of four steps
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    resumed = [
        [
            *train,
            "--config.mesh=2,2,2",
            "--coordinator",
            f"127.0.0.1:{port}",
            "--processes",
            "2",
            "--process",
            str(index),
        ]
        for index in range(2)
    ]
    both = [world.start(words, devices=4) for words in resumed]
    for process, words in zip(both, resumed):
        world.finish(process, words)
    lines = [line for line in read_metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["stage"] for line in lines] == ["images"] * 4 + ["views"] * 4 + ["full"] * 4
    assert all(np.isfinite(line["loss"]) for line in lines)
    measured = [line for line in read_metrics(workdir) if "validation_loss" in line]
    assert measured[-1]["step"] == 12
    assert {"validation_loss_monocular", "validation_loss_static", "validation_loss_multiview"} <= measured[-1].keys()

    export = readme("train", "--export")
    world.run(export)
    weights = world.root / export[export.index("--export") + 1]
    facts = read_facts(weights)
    assert facts.dtype == "bfloat16" and facts.views == 3 and facts.frames == 9

    pictures = []
    for mesh in ("1,1,8", "2,1,4"):
        out = f"out/{mesh.replace(',', '-')}"
        world.run(
            [
                "sample",
                "--weights",
                str(weights),
                "--reference",
                "captures/one",
                "--motion",
                "captures/one",
                "--cameras",
                "captures/one",
                "--steps",
                "2",
                "--mesh",
                mesh,
                "--out",
                out,
            ]
        )
        capture = Capture.open(world.root / out)
        assert capture.view_count == 4 > facts.views and capture.frame_count == 13 > facts.frames
        pictures.append(np.stack([capture.frames(view) for view in range(4)]).astype(float))
    assert np.sqrt(np.mean(np.square(pictures[0] - pictures[1]))) < 8  # of 255: bfloat16's rounding
    world.run(["evaluate", "out/1-1-8", "--against", "captures/one"])
    world.run(["distill", "out/1-1-8", "--out", "out/avatar", "--preset", "cpu", "--steps", "3"])


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 2400
    while not path.is_dir():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()[-3000:]
        time.sleep(0.2)
