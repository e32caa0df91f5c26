"""Launch scripts refuse what cannot work in one line and with exit code 2, before any machine is asked for."""

import os
import subprocess

import pytest

from mvp4d_jax.training.config_file import packaged
from tests.test_launch import ARGUMENTS, GKE, LAUNCH, TPU, XPK, dry_run, launch

SLURM = {"NODES": "2", "GPUS": "8", "WORKDIR": "/scratch/run"}
SCRIPTS = {"tpu_vm.sh": (TPU, ["train"]), "gke_jobset.sh": (GKE, []), "xpk.sh": (XPK, []), "slurm.sh": (SLURM, [])}


def refused(script: str, *arguments: str, **settings: str) -> str:
    """The one line of a launch that cannot work."""
    own = {name: value for name, value in os.environ.items() if name not in {*TPU, *GKE, *XPK, *SLURM}}
    command = [LAUNCH / script, *arguments]
    done = subprocess.run(
        command, env={**own, **settings, "DRY_RUN": "1"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and not done.stdout, (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    return line


@pytest.mark.parametrize("script", SCRIPTS)
def test_variables_that_are_missing_are_all_named(script):
    settings, verb = SCRIPTS[script]
    needed = [name for name in settings if name != "POLL"]
    line = refused(script, *verb, *ARGUMENTS)
    assert [name for name in needed if f"{name} (" in line] == needed
    for name in needed:
        left = {other: value for other, value in settings.items() if other != name}
        assert f"{script}: set {name} (" in refused(script, *verb, *ARGUMENTS, **left)
        assert f"{script}: set {name} (" in refused(script, *verb, *ARGUMENTS, **{**settings, name: ""})


@pytest.mark.parametrize("script", SCRIPTS)
def test_arguments_that_every_host_would_refuse(script):
    settings, verb = SCRIPTS[script]
    for workdir in (["--workdir", "x"], ["--workdir=x"], ["--work", "x"]):
        assert "sets --workdir itself" in refused(script, *verb, *ARGUMENTS, *workdir, **settings)
    assert "name no --config" in refused(script, *verb, "--config.mesh=1,8,8", **settings)
    assert "give the arguments of `mvp4d train` alone" in refused(script, *verb, "train", *ARGUMENTS, **settings)


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke_jobset.sh", "xpk.sh"])
def test_paths_that_are_on_no_host(script):
    settings, verb = SCRIPTS[script]
    for word in ("initial=weights/2b", "data.shards=/mnt/bucket/a,shards/512", "stages.images.shards=shards/256"):
        line = refused(script, *verb, *ARGUMENTS, f"--config.{word}", **settings)
        assert f"--config.{word.partition('=')[0]}: '" in line and "on no host" in line
    tracked = "--config.initial=mvp4d_jax/weights/tiny_128/transformer"
    for word in (tracked, "--config.initial=random", "--config.autoencoder=builtin:tiny_128", "--config.mesh=1,8,8"):
        dry_run(script, *verb, *ARGUMENTS, word, **settings)


def test_a_preparations_paths_are_in_the_bucket():
    whole = ["prepare", "/mnt/bucket/captures", *ARGUMENTS, "--out", "/mnt/bucket/shards"]
    dry_run("tpu_vm.sh", *whole, **TPU)
    assert "captures: 'captures'" in refused("tpu_vm.sh", "prepare", "captures", *whole[2:], **TPU)
    assert "--out: 'shards'" in refused("tpu_vm.sh", *whole[:-1], "shards", **TPU)
    assert "--out: 'shards'" in refused("tpu_vm.sh", *whole[:-2], "--out=shards", **TPU)


def test_a_preparation_names_its_output():
    assert "name no --out" in refused("tpu_vm.sh", "prepare", "/mnt/captures", *ARGUMENTS, **TPU)


@pytest.mark.parametrize("words", [["--config", "mvp4d_2c"], ["--config=mvp4d_2c"], ["--config", "base"]])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_config_that_is_none(script, words):
    """The names are those that `mvp4d train` would offer on the hosts."""
    settings, verb = SCRIPTS[script]
    said = refused(script, *verb, *words, *ARGUMENTS[2:], **settings)
    assert f"no such config; packaged configs are {', '.join(packaged())}" in said


def test_a_config_without_a_name():
    assert "--config names no config" in refused("tpu_vm.sh", "train", *ARGUMENTS, "--config", **TPU)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_variables(script):
    own = {name: value for name, value in os.environ.items() if name not in {*TPU, *GKE, *XPK, *SLURM}}
    for flag in ("--help", "-h"):
        done = subprocess.run([LAUNCH / script, flag], env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "DRY_RUN=1 prints" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"TOPOLOGY": "4x4", "HOSTS": "16"}, "4x4 has 16 chips, HOSTS x CHIPS_PER_HOST asks for 16 x 4 = 64"),
        ({"TOPOLOGY": "4x4x4"}, "tpu-v6e-slice has 2 sides, for example 4x4"),
        ({"ACCELERATOR": "tpu-v5p-slice"}, "tpu-v5p-slice has 3 sides, for example 4x4x4"),
        ({"TOPOLOGY": "16"}, "TOPOLOGY is '16'"),
        ({"TOPOLOGY": "4x0"}, "TOPOLOGY is '4x0'"),
        ({"ACCELERATOR": "v6e-16"}, "ACCELERATOR is 'v6e-16': tpu-v5-lite-podslice, tpu-v5p-slice"),
        ({"HOSTS": "four"}, "HOSTS is 'four': a whole number"),
        ({"CHIPS_PER_HOST": "0"}, "CHIPS_PER_HOST is '0': a whole number"),
        ({"SLICES": "0"}, "SLICES is '0': a whole number"),
        ({"NAME": "My run"}, "NAME is 'My run': at most 40 lowercase letters"),
        ({"BUCKET": "gs://bucket"}, "BUCKET is 'gs://bucket': the name alone"),
    ],
)
def test_gke_settings_that_contradict_each_other(changes, said):
    assert said in refused("gke_jobset.sh", *ARGUMENTS, **{**GKE, **changes})


@pytest.mark.parametrize("script", ["tpu_vm.sh", "xpk.sh"])
@pytest.mark.parametrize(
    "type_, said",
    [
        ("v2-8", "no TPU kind is known by that"),
        ("v5p", "no TPU kind is known by that"),
        ("v5p-abc", "a kind and a number, for example v5p-128"),
        ("v5p-0", "a kind and a number"),
        ("v5p-1x", "a kind and a number"),
        ("v5p:4x4x4", "that is preflight's spelling, Google's is for example v5p-128"),
        ("v5e-16", "Google's name is v5litepod-16"),
    ],
)
def test_types_that_google_does_not_know(script, type_, said):
    settings, verb = SCRIPTS[script]
    assert said in refused(script, *verb, *ARGUMENTS, **{**settings, "TYPE": type_})


def test_numbers_of_the_watcher():
    assert "RESTARTS is 'foo'" in refused("tpu_vm.sh", "train", *ARGUMENTS, **{**TPU, "RESTARTS": "foo"})
    assert "POLL is 'foo'" in refused("tpu_vm.sh", "train", *ARGUMENTS, **{**TPU, "POLL": "foo"})


def test_an_image_has_a_name():
    assert "the image's name is empty" in refused("image.sh", "cpu", "")
    assert "name the image" in refused("image.sh", "cpu")
    assert "no Dockerfile is called 'tpuu': tpu, cuda, cpu" in refused("image.sh", "tpuu", "image")
    assert "'--psh' behind the image" in refused("image.sh", "cpu", "image", "--psh")


def test_a_command_of_the_watcher_that_is_none():
    assert "no such command 'trian'; '" in refused("tpu_vm.sh", "trian", *ARGUMENTS, **TPU)


def test_nothing_is_stopped_where_nothing_was_installed(tmp_path):
    settings = {**os.environ, "MVP4D_HOME": str(tmp_path / "nothing")}
    done = subprocess.run([LAUNCH / "on_host.sh", "stop"], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "absent\n" and not done.stderr


def test_a_kind_without_queued_resources():
    assert "has no queued resources: launch/gke_jobset.sh" in refused(
        "tpu_vm.sh", "train", *ARGUMENTS, **{**TPU, "TYPE": "tpu7x-128"}
    )


def test_slurm_settings():
    for workdir in ("run", "gs://bucket/run", '/scratch/"x"', "/scratch/$x"):
        assert f"WORKDIR is '{workdir}'" in refused("slurm.sh", *ARGUMENTS, **{**SLURM, "WORKDIR": workdir})
    assert "NODES is 'all'" in refused("slurm.sh", *ARGUMENTS, **{**SLURM, "NODES": "all"})
    done = launch("slurm.sh", *ARGUMENTS, **SLURM, VENV="/nowhere")
    assert done.returncode == 2 and "no mvp4d in it; an environment that all nodes see" in done.stderr
