"""What goes wrong on a machine: one clear line, no hang, and the checkpoints that were there stay as they were."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d.core.files import checksum
from mvp4d_jax.data.shards import MANIFEST
from mvp4d_jax.training.checkpoints import Checkpoints
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.loop import train
from mvp4d_jax.training.release import export_release
from tests.training.tiny_run import STEPS, TIMEOUT, final_state, overrides, run, start, write_shards


@pytest.fixture()
def workdir(undisturbed, tmp_path) -> Path:
    """A run that stands at step 10."""
    copy = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    for folder in (copy / "checkpoints").iterdir():
        if folder.name != "10":
            shutil.rmtree(folder)
    return copy


def fails(workdir: Path, arguments: list[str], **options) -> str:
    """A run that must end with exit code 2 and one line; returns that line."""
    process = start(workdir, arguments, **options)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2, output[-3000:]
    assert "Traceback" not in output, output[-3000:]
    said = [line for line in output.splitlines() if line.startswith("mvp4d train: ")]
    assert len(said) == 1, output[-3000:]
    return said[0]


def assert_intact(workdir: Path, shards: Path, expected: list[int]) -> None:
    assert Checkpoints(workdir / "checkpoints", read_only=True).steps() == expected
    state, _ = final_state(workdir, overrides(shards), 10)
    assert int(state.step) == 10 and np.isfinite(state.params["blocks"]["ff"]["up"]["kernel"]).all()


def test_full_disk(shards, workdir):
    """A limit on file sizes stands in for a full disk: the next checkpoint cannot be written."""
    line = fails(workdir, overrides(shards), limits="trap '' XFSZ; ulimit -f 16")
    assert "could not be written" in line and "earlier checkpoints are intact" in line
    assert_intact(workdir, shards, [10])
    run(workdir, overrides(shards, checkpoint__every=50))
    assert_intact(workdir, shards, [10, 50, STEPS])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_record(shards, workdir, tmp_path, workers):
    """Every byte of a shard's second half is gone, its checksum agrees: found in the middle of a run."""
    damaged = Path(shutil.copytree(shards, tmp_path / "damaged"))
    file = damaged / "shard-00001.array_record"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    manifest = json.loads((damaged / MANIFEST).read_text())
    manifest["files"][1]["sha256"] = checksum(file)
    (damaged / MANIFEST).write_text(json.dumps(manifest))
    line = fails(workdir, overrides(damaged, data__workers=workers))
    assert str(file) in line and "cannot be read" in line and "mvp4d prepare" in line
    assert_intact(workdir, shards, Checkpoints(workdir / "checkpoints", read_only=True).steps())


def test_non_finite_loss_stops_with_a_dump(shards, workdir):
    line = fails(workdir, overrides(shards, stages__all__learning_rate=1e30, optimiser__clip=1e30))
    assert "are not finite" in line and "dump-step-" in line
    folder = next(workdir.glob("dump-step-*"))
    with np.load(folder / "batch-0.npz") as batch:
        assert batch["latents"].ndim == 6
    assert json.loads((folder / "metrics.json").read_text())["step"] > 10
    assert (folder / "state").is_dir()
    assert_intact(workdir, shards, Checkpoints(workdir / "checkpoints", read_only=True).steps())


def test_a_process_that_never_joins(shards, tmp_path):
    """The time-out that was asked for, and the seconds a process takes to start."""
    began = time.monotonic()
    line = fails(
        tmp_path,
        overrides(shards),
        extra=["--coordinator", "127.0.0.1:9", "--processes", "2", "--process", "1", "--join-timeout", "3"],
    )
    assert "process 1 of 2 met nobody at 127.0.0.1:9 within 3 s" in line
    assert time.monotonic() - began < 60
    assert not list(tmp_path.iterdir())


# What is found before anything is compiled, in this process.


def refused(workdir: Path, arguments: list[str], message: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        train(load_config("tiny", arguments), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_changed_shard(shards, workdir, tmp_path):
    damaged = Path(shutil.copytree(shards, tmp_path / "damaged"))
    file = damaged / "shard-00000.array_record"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(workdir, overrides(damaged), r"shard-00000\.array_record: checksum differs")


def test_wrong_head(shards, workdir):
    refused(workdir, overrides(shards, head="flame2023"), "head is builtin, the config has flame2023")


def test_wrong_latent_scale(workdir, tmp_path):
    """Latents that were scaled by another number than the config's autoencoder has."""
    scaled = write_shards(tmp_path / "scaled")
    manifest = json.loads((scaled / MANIFEST).read_text())
    (scaled / MANIFEST).write_text(json.dumps({**manifest, "latent_scale": 1.15258426}))
    refused(workdir, overrides(scaled), "latent_scale is 1.15258426, the config has 1.0.*scaled exactly once")


def test_latents_of_another_autoencoder(autoencoder, workdir, tmp_path):
    other = write_shards(tmp_path / "other", autoencoder="0123456789abcdef")
    refused(workdir, overrides(other, autoencoder=autoencoder), "autoencoder is 0123456789abcdef, the config has")


def test_validation_shards_are_held_to_the_config_too(shards, workdir, tmp_path):
    other = write_shards(tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps({**manifest, "head": "flame2020"}))
    refused(workdir, overrides(shards, data__validation_shards=other), "head is flame2020")


def test_other_model_or_seed_than_the_checkpoint(shards, workdir):
    with pytest.raises(UserError, match="checkpoints/10: does not fit the model"):
        train(load_config("tiny", overrides(shards, transformer__num_heads=4)), workdir)
    with pytest.raises(UserError, match=r"config\.seed: is 5, the checkpoint was trained with 0"):
        train(load_config("tiny", overrides(shards, seed=5)), workdir)
    assert_intact(workdir, shards, [10])


def test_another_model_is_told_before_any_array_is_read(shards, workdir, monkeypatch):
    """A dry run, too, holds the checkpoint to the config: kernels of four heads of 16 channels, not of two."""
    monkeypatch.setattr(Checkpoints, "restore", lambda *_: pytest.fail("a state was read"))
    for dry in (True, False):
        with pytest.raises(UserError, match=r"10: does not fit the model: \S+ is \(.*32.*\) there and \(.*64.*\) in"):
            train(load_config("tiny", overrides(shards, transformer__num_heads=4)), workdir, dry_run=dry)
        with pytest.raises(UserError, match=r"is \(1, .*\) there and \(2, .*\) in the model"):
            train(load_config("tiny", overrides(shards, transformer__num_layers=2)), workdir, dry_run=dry)
        with pytest.raises(UserError, match=r"config\.seed: is 5"):
            train(load_config("tiny", overrides(shards, seed=5)), workdir, dry_run=dry)


def test_the_best_of_what_was_never_measured(shards, autoencoder, workdir, tmp_path):
    said = export_release(
        load_config("tiny", overrides(shards, autoencoder=autoencoder)), workdir, tmp_path / "o", "best"
    )
    assert said.startswith("step 10, the newest: no validation loss was measured")
    facts = json.loads((tmp_path / "o" / "mvp4d.json").read_text())
    # Two views of three frames are all that was seen: single views of nine frames have weight 0.
    assert (facts["views"], facts["frames"]) == (2, 3)


def test_export_of_what_is_not_there(shards, autoencoder, workdir, tmp_path):
    config = load_config("tiny", overrides(shards, autoencoder=autoencoder))
    with pytest.raises(UserError, match="no checkpoint of step 77; there are: 10"):
        export_release(config, workdir, tmp_path / "out", step=77)
    with pytest.raises(UserError, match="has no checkpoints"):
        export_release(config, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
