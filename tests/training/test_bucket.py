"""A run whose workdir lies in a bucket: an emulator of Google Cloud Storage stands in for the real one."""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, write_json
from mvp4d.core.places import is_remote, place, reach, require_local
from mvp4d_jax.models.checkpoint import save_transformer
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.metrics import MetricsLog, read_metrics
from mvp4d_jax.training.plan import resolve
from tests.small_world import quick_compilation
from tests.training.tiny_run import final_state, overrides, run, write_autoencoder

MISSING = [name for name in ("gcsfs", "gcp_storage_emulator") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def bucket():
    """`gs://bucket`, empty."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, Path(__file__).parents[1] / "gcs_server.py", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://localhost:{port}"
    settings = {
        "STORAGE_EMULATOR_HOST": url,
        "FSSPEC_GS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.1)
        yield "gs://bucket"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.terminate()
        server.wait()


def test_files_and_folders(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(f"{bucket}/a/b.json", {"x": 1})
    assert place(f"{bucket}/a/b.json").read_text() == '{\n  "x": 1\n}\n'
    with atomic_folder(f"{bucket}/made", kind="release") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "one.bin").write_bytes(b"1" * 1000)
    assert place(f"{bucket}/made/inner/one.bin").read_bytes() == b"1" * 1000
    with pytest.raises(UserError, match="is already there"), atomic_folder(f"{bucket}/made", overwrite=True):
        pass
    assert not list(tmp_path.iterdir()), "nothing is written into a local folder 'gs:'"


def test_metrics_can_be_read_while_the_run_goes_on(bucket, monkeypatch):
    monkeypatch.setattr("mvp4d_jax.training.metrics.UPLOAD_EVERY", 0)
    monkeypatch.setattr("mvp4d_jax.training.metrics.ROTATE_EVERY", 0)
    folder = place(f"{bucket}/metrics")
    log = MetricsLog(folder, 0)
    for step in range(1, 4):
        log.write(step, {"loss": 1 / step})
        assert [line["step"] for line in read_metrics(folder)] == list(range(1, step + 1))
    assert len(list((folder / "tensorboard").iterdir())) == 2, "a file of events is there when the next is begun"
    log.close()
    assert len(list((folder / "tensorboard").iterdir())) == 3
    again = MetricsLog(folder, 2)
    again.write(3, {"loss": 7.0})
    again.close()
    assert [line["loss"] for line in read_metrics(folder)] == [1.0, 0.5, 7.0]


def test_training_in_a_bucket(bucket, shards, tmp_path):
    """The same run as on a local disk, resumed half-way, to the same parameters bit by bit."""
    workdir = f"{bucket}/run"
    half = overrides(shards, steps=20)
    run(workdir, [*half, "--config.stages.all.steps=10"])
    assert place(workdir).joinpath("config.json").is_file()
    assert Checkpoints(place(workdir) / "checkpoints", read_only=True).latest() == 10
    output = run(workdir, half)
    assert "trained to step 20: gs://bucket/run" in output
    losses = [line["step"] for line in read_metrics(place(workdir)) if "loss" in line]
    assert losses == list(range(1, 21))
    state, position = final_state(place(workdir), half)
    run(tmp_path, half)
    expected, _ = final_state(tmp_path, half)
    assert position["step"] == 20
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_preemption_within_the_first_checkpoint(bucket, shards, tmp_path, capsys):
    """The folder has its name and no `commit_success.txt`: the run begins with its weights, not with random ones."""
    workdir = place(f"{bucket}/preempted")
    for file in ("10/state/d/0", "10/data/data"):
        (workdir / "checkpoints" / file).parent.mkdir(parents=True, exist_ok=True)
        (workdir / "checkpoints" / file).write_text("{}")
    weights = tmp_path / "weights"
    model = resolve(load_config("tiny", overrides(shards))).transformer
    with quick_compilation():
        save_transformer(weights, MultiViewTransformer(model, rngs=nnx.Rngs(0)), model)
    command = ["train", "--config", "tiny", "--workdir", f"{bucket}/preempted", "--dry-run", "--no-memory-check"]
    assert cli.main([*command, *overrides(shards, initial=weights)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"weights: {weights}, " in said and "steps: 100 to go from 0;" in said
    assert cli.main([*command, *overrides(shards, initial="")]) == 2
    assert "config.initial: names no weights to start from" in capsys.readouterr().err


def test_export_of_a_run_in_a_bucket(bucket, shards, tmp_path, capsys):
    """Config, checkpoint and release in the bucket: the same bytes as an export to a folder."""
    workdir = f"{bucket}/exported"
    run(workdir, overrides(shards, steps=2))
    write_autoencoder(tmp_path / "vae")
    command = ["train", "--config", f"{workdir}/config.json", f"--config.autoencoder={tmp_path / 'vae'}"]
    for out in (f"{bucket}/weights", str(tmp_path / "weights")):
        assert cli.main([*command, "--workdir", workdir, "--export", out]) == 0, capsys.readouterr().err
    for file in ("mvp4d.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"):
        assert place(f"{bucket}/weights/{file}").read_bytes() == (tmp_path / "weights" / file).read_bytes()
    assert cli.main(["train", "--config", f"{workdir}/none.json", "--workdir", workdir, "--export", "x"]) == 2
    assert "gs://bucket/exported/none.json: no such config" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path, remote",
    [
        ("gs://b/x", True),
        ("gs:/b/x", True),
        ("s3://b", True),
        ("/gs/x", False),
        ("file:/x", False),
        ("x:1", False),
        ("C:/x", False),
    ],
)
def test_what_is_a_bucket(path, remote):
    assert is_remote(path) == remote


def test_a_bucket_that_does_not_answer(monkeypatch):
    class Silent:
        def exists(self):
            raise OSError("Cannot connect to host storage.googleapis.com")

    monkeypatch.setattr("mvp4d.core.places.place", lambda _: Silent())
    with pytest.raises(UserError, match=r"^gs://b/run: cannot be reached \(Cannot connect.*check the network"):
        reach("gs://b/run")
    reach("/a/local/folder")


def test_a_bucket_is_not_waited_for_until_its_client_gives_up(monkeypatch):
    """The client logs every try, and would go on for half a minute; it ends with the test at the latest."""
    done = threading.Event()

    class Slow:
        def exists(self):
            while not done.wait(0.01):
                logging.getLogger("gcsfs").debug("_request retrying after exception: Name or service not known")

    monkeypatch.setattr("mvp4d.core.places.place", lambda _: Slow())
    with pytest.raises(UserError, match=r"gs://b/run: cannot be reached \(Name or service not known\)"):
        reach("gs://b/run")
    done.set()


def test_other_stores_are_refused():
    with pytest.raises(UserError, match="gs://: names no bucket"):
        place("gs://")
    with pytest.raises(UserError, match="only gs:// buckets are read and written; mount the bucket"):
        place("s3://bucket/x")
    with pytest.raises(UserError, match=r"^--out: 'gs://bucket/x' lies in a bucket, which nobody reads; mount"):
        require_local("gs:/bucket/x", "--out", "which nobody reads")
