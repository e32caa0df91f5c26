"""Launches that cannot work end in one line that says what to do, before a model is built or anything compiled."""

import fcntl
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from flax import nnx

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.data.shards import MANIFEST
from mvp4d_jax.devices import GIB
from mvp4d_jax.models.checkpoint import save_transformer
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.release import BUILT_IN
from mvp4d_jax.training import ground, loop, memory
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import resolve
from tests.data.synthetic import write_shards
from tests.small_world import quick_compilation, write_scene
from tests.training.tiny_run import overrides


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was built")

    monkeypatch.setattr(ground, "ModelTemplate", refuse)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def refused(workdir: Path, arguments: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        loop.train(load_config("tiny", arguments), workdir)
    assert "\n" not in str(caught.value) and not list(workdir.iterdir())
    return str(caught.value)


def test_weights_must_be_named(data, tmp_path):
    assert "config.initial: names no weights" in refused(tmp_path, overrides(data, initial=""))
    assert "config.autoencoder: names no folder" in refused(tmp_path, overrides(data, autoencoder=""))
    assert "no such folder" in refused(tmp_path, overrides(data, initial=tmp_path / "nowhere"))
    assert "holds no autoencoder" in refused(tmp_path, overrides(data, autoencoder=tmp_path / "nowhere"))


def test_a_release_that_says_other_maps_than_its_weights_have(data, tmp_path):
    release = shutil.copytree(BUILT_IN / "tiny", tmp_path / "release")
    facts = json.loads((release / "mvp4d.json").read_text())
    facts["conditioning"]["temporal_stride"] = 2
    (release / "mvp4d.json").write_text(json.dumps(facts))
    workdir = tmp_path / "run"
    workdir.mkdir()
    said = refused(workdir, overrides(data, initial=release / "transformer"))
    assert "mvp4d.json: describes 77 conditioning channels, the weights have 75; export the release again" in said


def test_initial_weights_of_another_model(data, tmp_path):
    other = resolve(load_config("tiny", overrides(data, transformer__num_heads=4))).transformer
    with quick_compilation():
        save_transformer(tmp_path / "weights", MultiViewTransformer(other, rngs=nnx.Rngs(0)), other)
    workdir = tmp_path / "run"
    workdir.mkdir()
    assert "has num_heads 4, the model 2" in refused(workdir, overrides(data, initial=tmp_path / "weights"))


def test_a_batch_that_the_mesh_does_not_divide(data, tmp_path):
    line = refused(tmp_path, overrides(data, mesh=(2, 4, 1)))
    assert "mixture.multiview.batch: 4 samples do not divide over 8 rows" in line and "multiple of 8" in line
    line = refused(tmp_path, overrides(data, mesh=(1, 4, 1), optimiser__accumulation=2))
    assert "config.optimiser.accumulation: 2 samples do not divide over 4 rows" in line


def test_a_stages_mesh_that_validation_does_not_divide_over(data, tmp_path, capsys):
    """Validation takes the last stage's batches on the mesh of the stage that runs."""
    arguments = overrides(
        data,
        curriculum="settle,all",
        stages__settle__image_size=32,
        stages__settle__mesh="1,8,1",
        stages__settle__mixture__multiview__batch=8,
        stages__settle__mixture__multiview__views=2,
        stages__settle__mixture__multiview__frames=3,
        stages__settle__mixture__monocular__weight=0.0,
        initial="random",
    )
    command = ["train", "--config", "tiny", "--workdir", str(tmp_path / "run"), *arguments]
    dry = [*command, "--dry-run", "--no-memory-check"]
    held_out = f"--config.data.validation_shards={data}"
    assert cli.main([*dry, held_out]) == 2
    line = capsys.readouterr().err
    assert "config.stages.all.mixture.multiview.batch, which validation takes in stage 'settle', too: 4 samples" in line
    assert "8 rows of devices" in line
    for fine in ([], [held_out, "--config.validation.batches=0"], [held_out, "--config.stages.settle.mesh=1,4,1"]):
        with pytest.raises(AssertionError, match="a model was built"):
            cli.main([*dry, *fine])


def test_a_mesh_that_the_devices_do_not_form(data, tmp_path):
    assert "config.mesh: (1, 8, 8) needs 64 devices or more, there are 8" in refused(
        tmp_path, overrides(data, mesh=(1, 8, 8))
    )
    own = overrides(data, stages__all__mesh="3,-1,1")
    assert "config.stages.all.mesh: (3, -1, 1): 3 does not divide the 8 devices" in refused(tmp_path, own)


def test_shards_of_another_size_head_or_length(data, tmp_path):
    line = refused(tmp_path, overrides(data, stages__all__image_size=64))
    assert "stage 'all'" in line and "image_size is 32, the config has 64" in line
    assert "--config.stages.all.shards=FOLDER" in line
    assert "head is builtin, the config has ict" in refused(tmp_path, overrides(data, head="ict"))
    line = refused(tmp_path, overrides(data, stages__all__mixture__multiview__views=5))
    assert "no scene in the shards has 5 views and 3 latent frames (the most are 4, windows have 3)" in line


def test_an_autoencoders_damaged_config(data, tmp_path):
    (tmp_path / "run").mkdir()
    for content in ("{", "{}", '{"_class_name": "AutoencoderKLCogVideoX", "scaling_factor": "wide"}'):
        (tmp_path / "config.json").write_text(content)
        line = refused(tmp_path / "run", overrides(data, autoencoder=tmp_path))
        assert str(tmp_path / "config.json") in line


def test_a_later_stages_data_is_looked_at_first(data, tmp_path):
    """The second stage asks for longer windows than its shards have."""
    other = write_shards(tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps({**manifest, "latents": 2}))
    arguments = overrides(
        data,
        curriculum="all,settle",
        stages__settle__image_size=32,
        stages__settle__shards=other,
        stages__settle__mixture__multiview__views=2,
        stages__settle__mixture__multiview__frames=3,
        stages__settle__mixture__monocular__weight=0.0,
    )
    workdir = tmp_path / "run"
    workdir.mkdir()
    assert "config.stages.settle.mixture.multiview: no scene" in refused(workdir, arguments)


def test_captures_of_another_head_or_size_are_not_prepared(tmp_path, capsys):
    scene = write_scene(tmp_path / "scene")
    common = ["prepare", str(scene), "--config", "tiny", "--out", str(tmp_path / "shards")]
    assert cli.main(common) == 2
    assert "head is 'ball', config.head is 'builtin'" in capsys.readouterr().err
    assert cli.main([*common, "--config.prepare.image_size=32"]) == 2
    assert "config.prepare.image_size: is 32, the stages take 64" in capsys.readouterr().err
    assert cli.main([*common, "--config.prepare.frames=5"]) == 2
    assert "config.prepare.frames: is 5, a stage takes windows of 9" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_a_preparation_is_dealt_out_in_one_way(tmp_path, monkeypatch, capsys):
    scene = write_scene(tmp_path / "scene", head="builtin")
    common = ["prepare", str(scene), "--config", "tiny", "--out", str(tmp_path / "shards"), "--distributed"]
    assert cli.main([*common, "--share", "0/4"]) == 2
    assert "--share: and --distributed both deal out the work" in capsys.readouterr().err

    waits = []

    def nobody(*_, initialization_timeout, **__):
        waits.append(initialization_timeout)
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nobody)
    assert cli.main(common) == 2
    assert "tells where the others are" in (said := capsys.readouterr().err) and "; give --share I/N" in said
    assert cli.main(["train", "--config", "tiny", "--workdir", str(tmp_path / "run"), "--distributed"]) == 2
    assert cli.main([*common, "--join-timeout", "7"]) == 2
    assert waits == [300, 300, 7], "seconds, as docs/launch.md says of both"


@pytest.mark.parametrize(
    "words, said",
    [
        ("--export x --dry-run", "--dry-run: is of no use to an export"),
        ("--step best", "--step: belongs to --export"),
        ("--overwrite", "--overwrite: belongs to --export"),
        ("--export x --step \u00b2", "--step: '\u00b2' is no step"),
        ("--processes 2 --process 1", "--coordinator, --processes, --process: go together"),
        ("--process 0", "--coordinator, --processes, --process: go together"),
    ],
)
def test_flags_that_mean_nothing_together(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--config", "tiny", "--workdir", "run", *words.split()]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_workdir_that_is_something_else(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir, said in ((data, "holds shards; give the run a folder of its own"), (tmp_path / "file", "is a file")):
        assert cli.main(["train", "--config", "tiny", "--workdir", str(workdir)]) == 2
        assert f"{workdir}: {said}" in capsys.readouterr().err
    assert cli.main(["train", "--config", "tiny_autoencoder", "--workdir", str(tmp_path / "run")]) == 2
    assert "config.data.captures: names no folder" in capsys.readouterr().err


def test_a_workdir_is_one_runs_alone(data, tmp_path, capsys):
    with open(tmp_path / ".run.mvp4d-lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        common = ["train", "--config", "tiny", "--workdir", str(tmp_path / "run"), *overrides(data, mesh=(1, 3, 1))]
        assert cli.main(common) == 2
        assert "run: is being written by another process" in capsys.readouterr().err
        assert cli.main([*common, "--dry-run"]) == 2  # it looks, and finds what is wrong with the batch
        assert "do not divide over 3 rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_configs_that_a_run_has_kept_and_notes_that_are_the_users(data, tmp_path, capsys):
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "config-notes.json").write_text("remember: {")
    command = ["train", "--config", "tiny", "--workdir", str(workdir), "--dry-run", *overrides(data, initial="random")]
    with pytest.raises(AssertionError, match="a model was built"):
        cli.main(command)
    (workdir / "config-1.json").write_text('{"seed": ')
    assert cli.main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"mvp4d train: {workdir}/config-1.json: not readable JSON")
    assert line.endswith("; move it away: the run goes on without it")


def test_shards_whose_painted_photos_are_not_listed(data, tmp_path):
    other = write_shards(tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["conditioning"]["painted"], manifest["scenes"][0]["painted"] = 24, []
    (other / MANIFEST).write_text(json.dumps(manifest))
    workdir = tmp_path / "run"
    workdir.mkdir()
    assert "'scenes[0].painted' is empty, but the maps hold painted photos" in refused(workdir, overrides(other))


def test_too_many_slices_for_the_data_axis():
    """Beside `tests/preflight`, where libtpu's own slices are used: without libtpu, too."""

    class Device:
        platform, process_index = "tpu", 0

        def __init__(self, number):
            self.id, self.slice_index = number, number // 4

    with pytest.raises(UserError, match=r"puts 1 along data, which 2 slices do not divide.*only data crosses slices"):
        parallel.make_mesh((1, 8, 1), [Device(number) for number in range(8)])


def test_resident_shards_count_among_a_steps_memory(monkeypatch):
    sizes = dict.fromkeys(("argument", "output", "alias", "temp"), GIB)
    step = SimpleNamespace(
        memory_analysis=lambda: SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    )
    mesh = parallel.make_mesh((1, 1, 1))
    monkeypatch.setattr(memory, "limit", lambda _: 3 * GIB)
    memory.check(step, mesh, "stage 'all'")
    with pytest.raises(
        UserError, match=r"and the resident shards need 3\.00 GiB .* has 3\.00; leave config\.data\.res"
    ):
        memory.check(step, mesh, "stage 'all'", resident=GIB + 1)
