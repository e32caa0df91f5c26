"""Killed, stopped, moved to another mesh, run as two processes: the parameters come out as if nothing had happened."""

import json
import random
import re
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mvp4d_jax import parallel
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.metrics import read_metrics
from mvp4d_jax.training.plan import resolve
from mvp4d_jax.training.state import ModelTemplate, abstract_state, make_optimiser
from tests.training.tiny_run import overrides, run, start, write_shards

pytestmark = pytest.mark.slow  # minutes each: `make test-slow`

STEPS = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", scenes=4)


def final_state(workdir: Path, arguments: list[str], step: int | None = None):
    """A run's checkpoint as numpy, read on one device."""
    plan, mesh = resolve(load_config("tiny", arguments)), parallel.make_mesh((1, 1, 1))
    template = ModelTemplate(lambda rngs: MultiViewTransformer(plan.transformer, rngs=rngs), mesh)
    like = abstract_state(template, make_optimiser(plan.optimiser, template.shapes), mesh)
    state, position = Checkpoints(workdir / "checkpoints", read_only=True).restore(like, step)
    return jax.tree.map(np.asarray, state), position


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """Final state and losses of a run that nothing happened to."""
    workdir, arguments = tmp_path_factory.mktemp("runs") / "undisturbed", overrides(shards, steps=STEPS)
    run(workdir, arguments)
    return final_state(workdir, arguments)[0], [line["loss"] for line in read_metrics(workdir)]


def kill_until_done(workdir: Path, arguments: list[str], kills: int, seed: int) -> None:
    """Kills -9 a run at random moments, `kills` times, then lets it end."""
    choose = random.Random(seed)
    for _ in range(kills):
        process = start(workdir, arguments)
        began = read_position(workdir)
        deadline, wait = time.monotonic() + 300, choose.random() * 3
        while read_position(workdir) == began and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)  # until it has begun to train, then a random moment
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(workdir, arguments)


def read_position(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def test_kill_and_resume_is_bit_identical(shards, undisturbed, tmp_path):
    arguments = overrides(shards, steps=STEPS)
    kill_until_done(tmp_path, arguments, kills=1, seed=3)
    state, position = final_state(tmp_path, arguments)
    assert_same(state, undisturbed[0])
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1)), "each step's batch counts once"
    np.testing.assert_array_equal([line["loss"] for line in lines], undisturbed[1])
    assert position["step"] == STEPS


@pytest.mark.slow
def test_ten_kills_in_one_run(shards, tmp_path):
    """Long enough that ten kills all land inside it."""
    arguments = overrides(shards, steps=400, checkpoint__every=10)
    run(tmp_path / "undisturbed", arguments)
    kill_until_done(tmp_path / "killed", arguments, kills=10, seed=11)
    assert_same(final_state(tmp_path / "killed", arguments)[0], final_state(tmp_path / "undisturbed", arguments)[0])
    lines = [read_metrics(tmp_path / name) for name in ("killed", "undisturbed")]
    assert [line["step"] for line in lines[0]] == list(range(1, 401))
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_sigterm_saves_and_the_run_goes_on(shards, undisturbed, tmp_path):
    arguments = overrides(shards, steps=STEPS, checkpoint__every=1000)
    process = start(tmp_path, arguments)
    deadline = time.monotonic() + 300
    while read_position(tmp_path) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    if process.returncode != 0:  # else it was done before the signal came
        assert process.returncode == 143, output[-2000:]
        assert re.search(r"stopped at step \d+ and saved", output)
        saved = Checkpoints(tmp_path / "checkpoints", read_only=True).latest()
        assert saved == int(re.search(r"stopped at step (\d+)", output).group(1))
        run(tmp_path, arguments)
    assert_same(final_state(tmp_path, arguments)[0], undisturbed[0])


def test_resume_on_another_mesh(shards, tmp_path):
    """From (2,2,2) to (1,1,4): the loss curve is that of the run that stayed."""
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    run(stayed, overrides(shards, steps=8, mesh=(2, 2, 2)), devices=8)
    run(moved, overrides(shards, steps=4, mesh=(2, 2, 2)), devices=8)
    run(moved, overrides(shards, steps=8, mesh=(1, 1, 4)), devices=4)
    ours, theirs = read_metrics(moved), read_metrics(stayed)
    assert [line["step"] for line in ours] == list(range(1, 9))
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-4)


def test_two_processes_train_and_resume(shards, undisturbed, tmp_path):
    """Two processes of four devices each, over gloo; stopped half way; then one process goes on."""
    half, whole = overrides(shards, steps=6, mesh=(2, 2, 2)), overrides(shards, steps=STEPS, mesh=(2, 2, 2))
    for arguments in (half, overrides(shards, steps=9, mesh=(2, 2, 2))):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = [start(tmp_path, arguments, devices=4, extra=[
            "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(index)]) for index in range(2)]
        for process in both:
            output, _ = process.communicate(timeout=400)
            assert process.returncode == 0, output[-3000:]
    run(tmp_path, whole, devices=8)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([line["loss"] for line in lines], undisturbed[1], rtol=1e-4)
    _, position = final_state(tmp_path, whole, step=9)
    assert position["processes"] == 2


def test_process_that_never_joins(shards, tmp_path):
    began = time.monotonic()
    process = start(tmp_path, overrides(shards), extra=[
        "--coordinator", "127.0.0.1:9", "--processes", "2", "--process", "1", "--join-timeout", "4"])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "no answer from the coordinator" in output
    assert time.monotonic() - began < 100


def test_full_disk_leaves_earlier_checkpoints(shards, tmp_path):
    """A limit on file sizes stands in for a full disk: the next checkpoint cannot be written."""
    run(tmp_path, overrides(shards, steps=4))
    process = start(tmp_path, overrides(shards, steps=8), limits="trap '' XFSZ; ulimit -f 16")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output[-3000:]
    assert "could not be written" in output and "earlier checkpoints are intact" in output
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).latest() == 4
    state, _ = final_state(tmp_path, overrides(shards, steps=4))
    assert int(state.step) == 4


def test_non_finite_loss_stops_with_a_dump(shards, tmp_path):
    process = start(tmp_path, overrides(shards, steps=STEPS, stages__all__learning_rate=1e30, optimiser__clip=1e30))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output[-3000:]
    assert "are not finite" in output
    folder = next(tmp_path.glob("dump-step-*"))
    with np.load(folder / "batch-0.npz") as batch:
        assert batch["latents"].ndim == 6
    assert json.loads((folder / "metrics.json").read_text())["step"] >= 2
    assert (folder / "state").is_dir()


def test_missing_checkpoint(tmp_path):
    from mvp4d_jax.errors import UserError
    with pytest.raises(UserError, match="has no checkpoints"):
        Checkpoints(tmp_path / "none", read_only=True)
