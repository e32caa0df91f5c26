"""The launch scripts without a cluster: dry runs, and runs against stand-ins for gcloud, docker, kubectl, xpk, srun."""

import json
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
FLAGS = json.loads((ROOT / "mvp4d_jax" / "preflight" / "flags.json").read_text())
ARGUMENTS = ["--config", "mvp4d_2b", "--config.data.shards=/data/my shards"]
GKE = {
    "NAME": "run",
    "IMAGE": "image",
    "ACCELERATOR": "tpu-v6e-slice",
    "TOPOLOGY": "4x4",
    "HOSTS": "4",
    "CHIPS_PER_HOST": "4",
    "BUCKET": "bucket",
}
XPK = {"NAME": "run", "CLUSTER": "cluster", "ZONE": "zone", "TYPE": "v5p-128", "IMAGE": "image", "BUCKET": "bucket"}
TPU = {"NAME": "run", "ZONE": "zone", "TYPE": "v5p-128", "BUCKET": "bucket", "POLL": "0"}


def launch(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [LAUNCH / script, *arguments], env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )


def dry_run(script: str, *arguments: str, **settings: str) -> str:
    done = launch(script, *arguments, DRY_RUN="1", **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stand_in(folder: Path, name: str, body: str) -> None:
    """A program on PATH that notes its arguments in `calls`, one call a line, and does `body`."""
    tool = folder / name
    record = f'printf "%s " {name} "${{@@Q}}" >>{folder}/calls; echo >>{folder}/calls'
    tool.write_text(f"#!/usr/bin/env bash\n{record}\n{body}\n")
    tool.chmod(0o755)


def calls(folder: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck():
    subprocess.run(["shellcheck", "-x", *sorted(LAUNCH.glob("*.sh"))], cwd=ROOT, check=True)


# ---- SLURM


def slurm(tmp_path: Path) -> str:
    return dry_run("slurm.sh", *ARGUMENTS, NODES="2", GPUS="8", WORKDIR=str(tmp_path), VENV="/venv")


@pytest.mark.parametrize("code, requeued", [(0, False), (2, False), (143, True)])
def test_slurm_job_requeues_itself_when_it_was_stopped(tmp_path, code, requeued):
    """The printed batch script, run with an srun that ends with `code`."""
    stand_in(tmp_path, "srun", f'echo "$XLA_FLAGS" >{tmp_path}/flags; exit {code}')
    stand_in(tmp_path, "scontrol", "exit 0")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash"], input=slurm(tmp_path), env=environment, text=True, timeout=60)
    assert done.returncode == code
    command = ["srun", "/venv/bin/mvp4d", "train", "--distributed", "--workdir", str(tmp_path), *ARGUMENTS]
    assert calls(tmp_path) == [command] + [["scontrol", "requeue", "77"]] * requeued
    assert (tmp_path / "flags").read_text().split() == FLAGS["gpu"]["XLA_FLAGS"]


def test_slurm_asks_for_one_process_a_node_and_a_signal(tmp_path):
    header = [line for line in slurm(tmp_path).splitlines() if line.startswith("#SBATCH")]
    assert "--nodes=2 --ntasks-per-node=1 --gpus-per-node=8" in header[0]
    assert "--signal=TERM@300" in header[1] and "--requeue" in header[1]


# ---- GKE


@pytest.mark.parametrize(
    "accelerator, kind, topology",
    [
        ("tpu-v5p-slice", "v5p", "4x4x4"),
        ("tpu-v5-lite-podslice", "v5e", "8x8"),
        ("tpu-v6e-slice", "v6e", "8x8"),
        ("tpu7x", "tpu7x", "4x4x4"),
    ],
)
def test_gke_manifest(accelerator, kind, topology):
    text = dry_run(
        "gke_jobset.sh",
        *ARGUMENTS,
        NAME="run",
        IMAGE="registry/image:1",
        ACCELERATOR=accelerator,
        TOPOLOGY=topology,
        HOSTS="16",
        CHIPS_PER_HOST="4",
        BUCKET="bucket",
        SLICES="2",
    )
    job = yaml.safe_load(text)
    slice_ = job["spec"]["replicatedJobs"][0]
    spec = slice_["template"]["spec"]
    assert (slice_["replicas"], spec["parallelism"], spec["completions"]) == (2, 16, 16)
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] == ["mvp4d", "train", "--distributed"]
    assert container["args"] == ["--workdir", "gs://bucket/run", *ARGUMENTS]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["env"] == [{"name": "LIBTPU_INIT_ARGS", "value": " ".join(FLAGS[kind]["LIBTPU_INIT_ARGS"])}]
    assert container["volumeMounts"] == [{"name": "bucket", "mountPath": "/mnt/bucket"}]
    assert "rename-dir-limit" in pod["volumes"][0]["csi"]["volumeAttributes"]["mountOptions"]
    # A mistake ends the job, anything else starts the slice again.
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    assert job["spec"]["failurePolicy"]["maxRestarts"] == 100


def test_gke_applies_the_manifest_that_it_prints(tmp_path):
    stand_in(tmp_path, "kubectl", f"cat >{tmp_path}/manifest")
    done = launch("gke_jobset.sh", *ARGUMENTS, PATH=f"{tmp_path}:{os.environ['PATH']}", **GKE)
    assert done.returncode == 0 and calls(tmp_path) == [["kubectl", "apply", "-f", "-"]]
    assert (tmp_path / "manifest").read_text() == dry_run("gke_jobset.sh", *ARGUMENTS, **GKE)


def test_xpk_command():
    words = shlex.split(
        dry_run(
            "xpk.sh",
            *ARGUMENTS,
            **XPK,
        )
    )
    assert words[:3] == ["xpk", "workload", "create"]
    given = dict(zip(words[3::2], words[4::2]))
    assert given["--tpu-type"] == "v5p-128" and given["--docker-image"] == "image" and given["--max-restarts"] == "100"
    assert given["--env"] == "LIBTPU_INIT_ARGS=" + " ".join(FLAGS["v5p"]["LIBTPU_INIT_ARGS"])
    assert shlex.split(given["--command"]) == [
        "mvp4d",
        "train",
        "--distributed",
        "--workdir",
        "gs://bucket/run",
        *ARGUMENTS,
    ]


# ---- Images


@pytest.mark.parametrize("target", ["cpu", "cuda", "tpu"])
def test_image_is_built_from_tracked_files(tmp_path, target):
    """The build's context: the Dockerfile and what it copies is inside, what git does not track is not."""
    stand_in(tmp_path, "docker", f"if [[ $1 == build ]]; then cat >{tmp_path}/context.tar.gz; fi")
    os.utime(ROOT / "LICENSE")  # touched, not changed
    done = launch("image.sh", target, "registry/image:1", "--push", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    build, push = calls(tmp_path)
    assert build[1] == "build" and build[-1] == "-" and push == ["docker", "push", "registry/image:1"]
    dockerfile = build[build.index("--file") + 1]
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n"))
    with tarfile.open(tmp_path / "context.tar.gz") as context:
        names = {member.name for member in context if not member.isdir()}
        assert names <= tracked and {dockerfile, "pyproject.toml", "constraints.txt", "mvp4d/cli.py"} <= names
        text = context.extractfile(dockerfile).read().decode()
    assert (
        "python:3.11" in text
        and "-c constraints.txt" in text
        and {"cpu": "export", "cuda": "cuda", "tpu": "tpu"}[target] in text.split("'.[")[1]
    )


# ---- TPU VMs: a gcloud that keeps a slice's state in a folder, its two hosts being this machine

GCLOUD = r"""
world=$(dirname "$0")
[[ $1 == compute && $2 == tpus ]] || exit 9
if [[ -s $world/outages ]] && [[ $4 == $(head -n 1 "$world/outages") ]]; then
  sed -i 1d "$world/outages"; echo "ERROR: (gcloud) 503 The service is currently unavailable." >&2; exit 1
fi
case "$3 $4" in
"queued-resources create") echo WAITING_FOR_RESOURCES >"$world/queue" ;;
"queued-resources delete") rm -rf "$world/queue" "$world"/host* ;;
"queued-resources describe")
  [[ -f $world/queue ]] || { echo "ERROR: NOT_FOUND: Resource 'run' was not found" >&2; exit 1; }
  cat "$world/queue"
  case $(cat "$world/queue") in  # the next look finds it one state on
  WAITING_FOR_RESOURCES) echo PROVISIONING >"$world/queue" ;;
  PROVISIONING) echo ACTIVE >"$world/queue"; mkdir -p "$world/host0" "$world/host1" ;;
  ACTIVE) if [[ -f $world/preempt ]]; then
    rm "$world/preempt"; rm -rf "$world"/host*; echo SUSPENDED >"$world/queue"; fi ;;
  esac ;;
"tpu-vm scp") for host in "$world"/host*; do cp "$5" "$host/${6#*:}"; done ;;
"tpu-vm ssh")
  [[ -d $world/host0 ]] || exit 255
  while [[ $1 != --command ]]; do case $1 in --worker=*) worker=${1#*=} ;; esac; shift; done
  for host in "$world"/host*; do
    [[ $worker == all || $host == *host$worker ]] || continue
    (cd "$host" && HOME=$host MVP4D_HOME=$host/mvp4d MVP4D_MOUNTS=$host/mnt bash -c "$2")
  done ;;
*) exit 9 ;;
esac
"""
UV = """
if [[ $1 == venv ]]; then
  folder=${@: -1}; mkdir -p "$folder/bin"; cp "$(dirname "$0")/mvp4d" "$folder/bin/mvp4d"
fi
"""
# Host 0 ends with the next of the codes in `plan`, or is preempted; the other host ends well.
TRAIN = """
[[ $HOME == *host0 ]] || exit 0
world=$(dirname "$(command -v uv)")
echo "$LIBTPU_INIT_ARGS" >"$world/flags"
code=$(head -n 1 "$world/plan"); sed -i 1d "$world/plan"
if [[ $code == preempt ]]; then touch "$world/preempt"; sleep 10; fi
exit "$code"
"""


@pytest.fixture
def world(tmp_path):
    """The folder of stand-ins; `plan` says how each start of the training ends."""
    for name, body in (
        ("gcloud", GCLOUD),
        ("uv", UV),
        ("mvp4d", TRAIN),
        ("gcsfuse", ""),
        ("sudo", '"$@"'),
        ("mountpoint", "exit 1"),
    ):
        stand_in(tmp_path, name, body)
    return tmp_path


def train(world: Path, *plan: object, **settings: str) -> subprocess.CompletedProcess:
    (world / "plan").write_text("".join(f"{code}\n" for code in plan))
    return launch(
        "tpu_vm.sh", "train", *ARGUMENTS, PATH=f"{world}:{os.environ['PATH']}", **{**TPU, "POLL": "0.2", **settings}
    )


def starts(world: Path) -> list[list[str]]:
    return [call for call in calls(world) if call[0] == "mvp4d"]


def test_tpu_run_asks_installs_starts_and_ends(world):
    done = train(world, 0)
    assert done.returncode == 0, done.stderr
    assert "run: done" in done.stderr
    command = ["mvp4d", "train", "--distributed", "--workdir", "gs://bucket/run", *ARGUMENTS]
    assert starts(world) == [command] * 2  # on both hosts
    assert (world / "flags").read_text().split() == FLAGS["v5p"]["LIBTPU_INIT_ARGS"]
    assert sum(call[3:5] == ["queued-resources", "create"] for call in calls(world)) == 1
    # On the host: Python 3.11 by uv, the tracked files only, the bucket with folders that can be renamed.
    uv = next(call for call in calls(world) if call[:2] == ["uv", "venv"])
    assert uv[uv.index("--python") + 1] == "3.11"
    mount = next(call for call in calls(world) if call[0] == "gcsfuse")
    assert mount[-2:] == ["bucket", str(world / "host0/mnt/bucket")]
    assert "--rename-dir-limit=200000" in mount and "--implicit-dirs" in mount
    code = world / "host0/mvp4d/code"
    assert (code / "mvp4d/cli.py").is_file() and not (code / ".git").exists()
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n"))
    assert {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()} <= tracked


def test_tpu_run_survives_a_preemption(world):
    """SUSPENDED: the hosts are gone. The request is deleted, made again, and the training started on the new hosts."""
    done = train(world, "preempt", 0, SPOT="1")
    assert done.returncode == 0, done.stderr
    queue = [call[4] for call in calls(world) if call[3:4] == ["queued-resources"] and call[4] != "describe"]
    assert queue == ["create", "delete", "create"]
    assert all("--spot" in call for call in calls(world) if call[3:5] == ["queued-resources", "create"])
    assert len(starts(world)) == 4 and "done" in done.stderr


@pytest.mark.parametrize("outages", [["create"], ["create", "create", "delete", "delete", "create"]])
def test_tpu_run_survives_calls_that_fail(world, outages):
    """A request that fails is made again, at the first time and after a preemption; it is no restart."""
    (world / "outages").write_text("".join(f"{verb}\n" for verb in outages))
    done = train(world, "preempt", 0, RESTARTS="1")
    assert done.returncode == 0, done.stderr
    queue = [call[4] for call in calls(world) if call[3:4] == ["queued-resources"] and call[4] != "describe"]
    assert queue.count("create") == 2 + outages.count("create") and queue.count("delete") == 1 + outages.count("delete")
    assert done.stderr.count("the request failed: tries again") == outages.count("create")
    assert done.stderr.count("the slice was not given back: tries again") == outages.count("delete")
    assert len(starts(world)) == 4 and "run: done" in done.stderr


@pytest.mark.parametrize(
    "plan, code, count, said",
    [
        ((1, 143, 0), 0, 6, "starts again on all hosts (98 restarts left)"),  # a crash, a maintenance event
        ((2,), 2, 2, "a mistake in the arguments, the config or the data"),
        ((1, 1, 1), 1, 4, "no restarts left"),
    ],
)
def test_tpu_run_starts_again_after_a_crash_but_not_after_a_mistake(world, plan, code, count, said):
    done = train(world, *plan, RESTARTS="1" if code == 1 else "100")
    assert done.returncode == code, done.stderr
    assert len(starts(world)) == count and said in done.stderr


def test_tpu_single_steps():
    for verb, words in (
        ("up", "queued-resources create run"),
        ("install", "on_host.sh"),
        ("start", "on_host.sh"),
        ("train", "gs://bucket/run"),
        ("log", "train.log"),
        ("stop", "on_host.sh"),
        ("down", "queued-resources delete run"),
    ):
        printed = dry_run("tpu_vm.sh", verb, *(ARGUMENTS if verb in ("train", "start") else ()), **TPU)
        assert all(line.startswith("gcloud compute tpus ") for line in printed.splitlines())
        assert words in printed.replace("\\", "")
        if verb == "train":
            assert "queued-resources create run" in printed.splitlines()[0] and "--accelerator-type" in printed


def test_tpu_hosts_share_a_preparation():
    words = ["/mnt/bucket/captures", "--config", "mvp4d_2b", "--out", "/mnt/bucket/shards"]
    for verb in (["prepare"], ["start", "prepare"], ["watch", "prepare"]):
        printed = shlex.split(dry_run("tpu_vm.sh", *verb, *words, **TPU).splitlines()[-1])
        assert printed[-1].endswith("on_host.sh start " + shlex.join(["prepare", "--distributed", *words]) + " ")


@pytest.mark.parametrize(
    "type_, runtime",
    [("v5litepod-64", "v2-alpha-tpuv5-lite"), ("v5p-128", "v2-alpha-tpuv5"), ("v6e-256", "v2-alpha-tpuv6e")],
)
def test_machine_image_of_each_kind(type_, runtime):
    words = shlex.split(dry_run("tpu_vm.sh", "up", **{**TPU, "TYPE": type_}))
    assert words[words.index("--runtime-version") + 1] == runtime
