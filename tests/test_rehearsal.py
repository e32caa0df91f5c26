"""From CogVideoX's weights to an avatar: README's commands word for word, but for sizes, the head, two interruptions.

A random CogVideoX in diffusers' layout -> convert -> captures -> prepare -> train in bfloat16 through a change of stage
with validation -> kill -9 -> resume on another mesh and number of processes -> export -> sample on two meshes, more
views than trained, two windows -> evaluate -> distill. Eight host devices, at most ten minutes on two cores.
"""

import json
import os
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
from mvp4d_jax.training.metrics import read_metrics
from tests.docs_check import ROOT, blocks
from tests.small_inputs import furnish, shrink, write_cogvideox

HEAD = "--config.head=builtin"  # FLAME's files are nobody's to give away
# Two of three stages, one or two kinds of data each: every one is a compilation.
FEWER = ["--config.curriculum=images,full", "--config.stages.images.mixture.static.weight=0.0",
         "--config.stages.full.mixture.static.weight=0.0", "--config.stages.images.steps=4",
         "--config.stages.full.steps=60", "--config.metrics.every=1", "--config.checkpoint.every=2",
         "--config.validation.every=8", "--config.data.workers=0", "--config.data.threads=1"]
TRAINED_VIEWS, TRAINED_FRAMES = 3, 9
VIEWS, SAMPLED_FRAMES = 4, 13


def readme(start: str, nth: int = 0) -> list[str]:
    """The words of README's nth command that begins so."""
    lines = [line for _, lines in blocks(ROOT / "README.md") for line in lines if line.startswith(start)]
    return shlex.split(lines[nth])


class World:
    """A folder in which commands run, with eight host devices."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, words: list[str], devices: int = 8) -> subprocess.Popen:
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        print("$", shlex.join(words), flush=True)
        return subprocess.Popen([sys.executable, "-m", "mvp4d.cli", *words[1:]], cwd=self.folder, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *words: str, devices: int = 8) -> str:
        began = time.monotonic()
        process = self.start(list(words), devices)
        output, _ = process.communicate(timeout=600)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
        assert process.returncode == 0, output[-4000:]
        return output

    def lines(self) -> list[dict]:
        file = self.folder / "runs" / "mvp4d_2b" / "metrics.jsonl"
        return read_metrics(file.parent) if file.is_file() else []


def small(words: list[str]) -> list[str]:
    return [words[0], *shrink(words[1:])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_cogvideox_to_an_avatar(tmp_path):
    world = World(tmp_path)
    began = time.monotonic()
    write_cogvideox(tmp_path / "CogVideoX-2b")

    # ---- Weights
    world.run(*readme("mvp4d convert"))
    assert "weights" in world.run(*readme("mvp4d validate weights"))

    # ---- Data: two people of the studio to train on, one held out
    for number, name in ((11, "captures/one"), (12, "captures/two"), (11004, "held_out/truth")):
        world.run("mvp4d", "studio", "--identity", str(number), "--cameras", f"orbit:360x{VIEWS}", "--frames",
                  str(SAMPLED_FRAMES), "--size", "64", "--out", name)
    for nth in (0, 1):
        world.run(*small(readme("mvp4d prepare", nth)), HEAD)
    words = small(readme("mvp4d prepare", 0))
    words[words.index("captures")], words[words.index("--out") + 1] = "held_out", "shards/held_out"
    world.run(*words, HEAD)

    # ---- Training: what would be done; then two stages, killed in the second
    extra = [HEAD, *FEWER, "--config.data.validation_shards=shards/held_out"]
    said = world.run(*_with(small(readme("mvp4d train", 0)), extra))
    assert "dropped: its text stream" in said and "mesh: data 1, fsdp 8, context 1" in said
    words = _with(small(readme("mvp4d train", 1)), extra)
    process = world.start(words)
    _wait_for(world, process, step=14)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = world.lines()
    assert {line["stage"] for line in lines if "loss" in line} == {"images", "full"}
    assert any("validation_loss" in line for line in lines)

    # ---- The same command on two processes of four devices, another mesh
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [world.start([*words, "--config.mesh=2,2,2", "--coordinator", address, "--processes", "2", "--process",
                         str(index)], devices=4) for index in range(2)]
    outputs = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs[0][-4000:]
    assert "weights: the checkpoint of step" in outputs[0]
    losses = [line for line in world.lines() if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, 65)), "no step is missing, none is there twice"
    assert all(np.isfinite(line["loss"]) for line in losses)
    resolved = json.loads((tmp_path / "runs/mvp4d_2b/config.json").read_text())
    assert resolved["transformer"]["dtype"] == "bfloat16"

    # ---- A release
    world.run(*readme("mvp4d train", 2))
    assert "transformer" in world.run("mvp4d", "validate", "weights/mvp4d")

    # ---- Sampling: a photo on (1,1,8), then the held-out person on (2,1,4); more views than trained, two windows
    words = shrink(readme("mvp4d sample", 1)[1:])
    furnish(tmp_path, words)
    words[words.index("--cameras") + 1] = f"orbit:360x{VIEWS}"
    world.run("mvp4d", *words, "--frames", str(SAMPLED_FRAMES), "--steps", "2")
    made = Capture.open(tmp_path / "out" / "me")
    assert (made.view_count, made.frame_count) == (VIEWS, SAMPLED_FRAMES)
    assert VIEWS > TRAINED_VIEWS and SAMPLED_FRAMES > TRAINED_FRAMES
    words = [word.replace("out/truth", "held_out/truth") for word in readme("mvp4d sample", 0)]
    words[words.index("--weights") + 1] = "weights/mvp4d"
    world.run(*words, "--mesh", "2,1,4", "--steps", "2")
    assert Capture.open(tmp_path / "out" / "generated").view_count == VIEWS

    # ---- Measures, and the avatar
    world.run(*[word.replace("out/truth", "held_out/truth") for word in readme("mvp4d evaluate")])
    assert np.isfinite(json.loads((tmp_path / "out/generated/evaluation.json").read_text())["mean"]["psnr"])
    world.run(*readme("mvp4d distill", 0), "--steps", "20")
    assert (tmp_path / "out" / "avatar" / "avatar.safetensors").is_file()
    print(f"rehearsal: {time.monotonic() - began:.0f} s")


def _with(words: list[str], extra: list[str]) -> list[str]:
    """A command with overrides, which take the place of those of the same name."""
    names = {word.split("=")[0] for word in extra}
    return [*(word for word in words if word.split("=")[0] not in names), *extra]


def _wait_for(world: World, process: subprocess.Popen, step: int) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline and process.poll() is None:
        if any(line["step"] >= step for line in world.lines() if "loss" in line):
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[0][-4000:])
