"""Killed, stopped, moved to another mesh, run as two processes: the parameters come out as if nothing had happened."""

import collections
import json
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mvp4d_jax.data.pipeline import Batches
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.metrics import read_metrics
from mvp4d_jax.training.plan import resolve
from tests.training.tiny_run import RECORDED, STEPS, TIMEOUT, final_state, overrides, run, start


def samples_of(workdir: Path) -> list[dict]:
    """What `recorded_train` has noted so far, replayed steps included."""
    file = workdir / "samples.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_steps(workdir: Path, process: subprocess.Popen, count: int) -> None:
    """Until `process` has done `count` steps more."""
    began, deadline = len(samples_of(workdir)), time.monotonic() + TIMEOUT
    while len(samples_of(workdir)) < began + count:
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_until_done(workdir: Path, arguments: list[str], kills: int, seed: int) -> None:
    """Kills -9 a run `kills` times, each time at a random moment of its start or its first steps; then lets it end."""
    choose = random.Random(seed)
    for number in range(kills):
        process = start(workdir, arguments, module=RECORDED)
        if number % 5 == 4:
            time.sleep(choose.uniform(0, 4))  # on its way to the first step
        else:
            wait_for_steps(workdir, process, choose.randint(1, 16))
            time.sleep(choose.uniform(0, 0.1))
        assert process.poll() is None, "the run was over before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(workdir, arguments, module=RECORDED)


def assert_as_undisturbed(workdir: Path, other: Path, arguments: list[str], steps: int) -> None:
    """Bit-identical state, the same losses, every step's samples read once (a replayed step reads the same again)."""
    state, position = final_state(workdir, arguments)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(final_state(other, arguments)[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert position["step"] == steps
    lines, expected = ([line for line in read_metrics(folder) if "loss" in line] for folder in (workdir, other))
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]

    trained = {}
    for line in samples_of(workdir):
        assert trained.setdefault(line["step"], line["samples"]) == line["samples"]
    assert sorted(trained) == list(range(1, steps + 1))
    plan = resolve(load_config("tiny", arguments))
    folder = Path(load_config("tiny", arguments).data.shards[0])
    batches = Batches(
        [Shards.open(folder)], plan.stages[0].modalities, plan.sampling, plan.conditioning, steps=steps, seed=0
    )
    count = collections.Counter(batches.item(0, number) for samples in trained.values() for number in samples)
    assert count.total() == 4 * steps and len(count) == 10
    assert max(count.values()) - min(count.values()) <= 1, "every window is read equally often"


def test_two_kills_leave_no_trace(shards, undisturbed, tmp_path):
    arguments = overrides(shards)
    kill_until_done(tmp_path, arguments, kills=2, seed=3)
    assert_as_undisturbed(tmp_path, undisturbed, arguments, STEPS)


@pytest.mark.slow  # twelve processes, about a minute: the two kills above take the same road
def test_ten_kills_leave_no_trace(shards, tmp_path):
    arguments = overrides(shards, steps=400)
    run(tmp_path / "undisturbed", arguments, module=RECORDED)
    kill_until_done(tmp_path / "killed", arguments, kills=10, seed=11)
    assert_as_undisturbed(tmp_path / "killed", tmp_path / "undisturbed", arguments, 400)


def test_sigterm_saves_and_the_run_goes_on(shards, undisturbed, tmp_path):
    arguments = overrides(shards, checkpoint__every=1000)
    process = start(tmp_path, arguments, module=RECORDED)
    wait_for_steps(tmp_path, process, 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143, output[-3000:]
    stopped = int(re.search(r"stopped at step (\d+) and saved", output).group(1))
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps() == [stopped]
    run(tmp_path, arguments, module=RECORDED)
    assert len(samples_of(tmp_path)) == STEPS, "no step was done twice"
    assert_as_undisturbed(tmp_path, undisturbed, arguments, STEPS)


def start_two(workdir: Path, arguments: list[str]) -> list[subprocess.Popen]:
    """Two processes of four devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(
            workdir,
            arguments,
            devices=4,
            extra=["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(index)],
        )
        for index in range(2)
    ]


def lines_of(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def stop_after(workdir: Path, both: list[subprocess.Popen], steps: int) -> int:
    """SIGTERM to both once the run stands at `steps`, as a scheduler sends it; returns the step that was saved."""
    deadline = time.monotonic() + TIMEOUT
    while lines_of(workdir) < steps and time.monotonic() < deadline and all(process.poll() is None for process in both):
        time.sleep(0.01)
    for process in both:
        process.send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=TIMEOUT)[0] for process in both]
    assert [process.returncode for process in both] == [143, 143], outputs
    stops = [int(re.search(r"stopped at step (\d+) and saved", output).group(1)) for output in outputs]
    assert stops[0] == stops[1] == Checkpoints(workdir / "checkpoints", read_only=True).latest()
    return stops[0]


@pytest.mark.slow  # five processes, three of them compile; the rehearsal resumes on two processes too
def test_two_processes_stop_resume_and_move_to_another_mesh(shards, autoencoder, undisturbed, tmp_path):
    """Two processes on (2,2,2), with validation and its sample; again; then one on (1,1,4): one device's loss curve."""
    arguments = overrides(shards, mesh=(2, 2, 2))
    validating = overrides(
        shards,
        mesh=(2, 2, 2),
        autoencoder=autoencoder,
        data__validation_shards=shards,
        validation__every=3,
        validation__batches=1,
        validation__sample_steps=2,
    )
    first = stop_after(tmp_path, start_two(tmp_path, validating), 5)
    assert (tmp_path / "samples" / "step-0000003.png").is_file()
    second = stop_after(tmp_path, start_two(tmp_path, arguments), lines_of(tmp_path) + 1)
    assert first < second < STEPS
    assert final_state(tmp_path, arguments)[1]["processes"] == 2
    run(tmp_path, overrides(shards, mesh=(1, 1, 4)), devices=4)

    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    expected = [line["loss"] for line in read_metrics(undisturbed) if "loss" in line]
    np.testing.assert_allclose([line["loss"] for line in lines], expected, rtol=1e-4)


@pytest.mark.slow  # may wait for JAX's heartbeat, 100 s
def test_a_process_that_dies_takes_the_others_along(shards, tmp_path):
    """Nobody waits for it longer than the heartbeat; the run goes on from its last checkpoint."""
    both, deadline = start_two(tmp_path, overrides(shards, mesh=(2, 2, 2))), time.monotonic() + TIMEOUT
    while lines_of(tmp_path) < 25 and time.monotonic() < deadline and all(process.poll() is None for process in both):
        time.sleep(0.01)
    both[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    outputs = [process.communicate(timeout=TIMEOUT)[0] for process in both]
    assert both[0].returncode not in (0, 143), outputs[0][-3000:]
    assert time.monotonic() - killed < 130
    stopped = Checkpoints(tmp_path / "checkpoints", read_only=True).latest()
    assert stopped >= 10
    run(tmp_path, overrides(shards, mesh=(1, 1, 4)), devices=4)
    assert [line["step"] for line in read_metrics(tmp_path) if "loss" in line] == list(range(1, STEPS + 1))
