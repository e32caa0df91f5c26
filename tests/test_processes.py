"""Processes of one run that meet, and that fail to."""

import socket
import struct
import subprocess
import sys
import textwrap
import time

import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax import processes, slurm


def _run(code: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


JOIN = """
    from mvp4d_jax import processes
    from mvp4d.core.errors import UserError
    try:
        processes.initialise_processes("127.0.0.1:{port}", {count}, {index}, timeout={timeout})
    except UserError as error:
        print("REFUSED", error)
        raise SystemExit(2)
    import jax
    print("JOINED", jax.process_index(), jax.device_count())
    """


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_come_are_named_fast(index):
    began = time.monotonic()
    process = _run(JOIN.format(port=_free_port(), count=2, index=index, timeout=3))
    out, err = process.communicate(timeout=90)
    assert process.returncode == 2, err
    assert out.startswith("REFUSED processes: ") and "within 3 s" in out and out.count("\n") == 1
    assert index == 1 or "missing: 1" in out
    assert time.monotonic() - began < 60


def test_two_processes_meet():
    port = _free_port()
    both = [_run(JOIN.format(port=port, count=2, index=index, timeout=60)) for index in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [out.split()[:2] for out, _ in outputs] == [["JOINED", "0"], ["JOINED", "1"]]


def test_strangers_on_the_port_end_no_launch():
    """One resets its connection as a port scanner does, one says what is no number, one is a host that is not asked
    for; then the other process comes."""
    port = _free_port()
    first = _run(JOIN.format(port=port, count=2, index=0, timeout=60))
    for words in (b"", b"mvp4d-process one 2", b"mvp4d-process 7 2"):
        for _ in range(600):
            try:
                stranger = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.1)
        with stranger:
            stranger.sendall(words)
            if not words:  # closed with a reset
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    both = [first, _run(JOIN.format(port=port, count=2, index=1, timeout=60))]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [out.split()[:2] for out, _ in outputs] == [["JOINED", "0"], ["JOINED", "1"]]


def test_half_an_address_is_refused():
    with pytest.raises(UserError, match="together"):
        processes.initialise_processes("127.0.0.1:1")
    with pytest.raises(UserError, match="not below"):
        processes.initialise_processes("127.0.0.1:1", 2, 2)
    with pytest.raises(UserError, match="`processes`: is 0"):
        processes.initialise_processes("127.0.0.1:1", 0, 0)
    with pytest.raises(UserError, match="`join_timeout`: is -3"):
        processes.initialise_processes("127.0.0.1:1", 2, 1, timeout=-3)


@pytest.mark.parametrize(
    "address", ["nowhere", "localhost:99999", "localhost:0", "localhost:\u00b2", "\u00fc" * 80 + ":1", ":1", "a b:1"]
)
def test_what_is_no_address_is_refused_at_once(address):
    for index in (0, 1):
        with pytest.raises(UserError, match="is not host:port; for example"):
            processes.initialise_processes(address, 2, index)


# ---- SLURM

SLURM_JOIN = """
    from jax._src import xla_bridge
    from mvp4d_jax import processes
    processes.initialise_processes(timeout=60)
    print(xla_bridge.CUDA_VISIBLE_DEVICES.value)
    """


def _slurm(tasks: int, index: int, gpus: int, seen: str | None) -> dict[str, str]:
    """What srun sets in process `index` of a step on one node."""
    variables = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_TASKS_PER_NODE": str(tasks),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "SLURM_NODEID": "0",
        "SLURM_GPUS_ON_NODE": str(gpus),
    }
    return variables if seen is None else {**variables, "CUDA_VISIBLE_DEVICES": seen}


@pytest.mark.parametrize(
    "tasks, seen, used",
    [
        (1, ["0,1,2,3"], ["all"]),  # launch/slurm.sh: one process, all of the node's GPUs
        (2, ["0,1,2,3"] * 2, ["0,1", "2,3"]),  # nothing bound: JAX numbers what is seen
        (2, ["0,1", "2,3"], ["all", "all"]),  # --gpus-per-task=2
    ],
)
def test_gpus_of_a_slurm_step(monkeypatch, tasks, seen, used):
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(_free_port()))
    started = []
    for index in range(tasks):
        with monkeypatch.context() as environment:
            for name, value in _slurm(tasks, index, 4, seen[index]).items():
                environment.setenv(name, value)
            started.append(_run(SLURM_JOIN))
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * tasks, outputs
    assert [out.strip() for out, _ in outputs] == used


@pytest.mark.parametrize(
    "tasks, index, gpus, changes, expected",
    [
        (1, 0, 8, {}, []),
        (8, 5, 8, {}, [5]),  # one process per GPU
        (8, 5, 8, {"CUDA_VISIBLE_DEVICES": None}, [5]),
        (8, 5, 8, {"CUDA_VISIBLE_DEVICES": "0"}, []),  # the same, bound
        (8, 5, 8, {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": ""}, []),
        (1, 0, 1, {"CUDA_VISIBLE_DEVICES": "GPU-2c4f"}, []),
        (3, 2, 8, {}, [4, 5]),
        (2, 1, 1, {}, []),  # bound to one each, or one for both: no second one to take
        (4, 3, 8, {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"}, []),
        (2, 1, 0, {"CUDA_VISIBLE_DEVICES": None}, None),  # nothing tells of GPUs
        (1, 0, 8, {"JAX_LOCAL_DEVICE_IDS": "2,3"}, None),
        (1, 0, 8, {"SLURM_LOCALID": None}, None),  # the batch script itself, no step
        (1, 0, 8, {"SLURM_STEP_NODELIST": None}, None),
        (1, 0, 8, {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}, None),
        (8, 5, 8, {"SLURM_STEP_TASKS_PER_NODE": "8(x2),4", "SLURM_NODEID": "1"}, [5]),
        (8, 3, 8, {"SLURM_STEP_TASKS_PER_NODE": "8(x2),4", "SLURM_NODEID": "2"}, [6, 7]),
        (1, 0, 8, {"SLURM_STEP_TASKS_PER_NODE": "1(x16)", "SLURM_NODEID": "9"}, []),
    ],
)
def test_gpus_of_slurm_processes(monkeypatch, tasks, index, gpus, changes, expected):
    seen = ",".join(map(str, range(gpus)))
    for name, value in {**_slurm(tasks, index, gpus, seen), **changes}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert slurm.local_device_ids() == expected


@pytest.mark.parametrize("index, local, said", [(0, 1, "use 2 of its 8 GPUs"), (0, 4, ""), (1, 1, "")])
def test_idle_gpus_of_a_node_are_told_once(monkeypatch, capsys, index, local, said):
    for name, value in _slurm(2, index, 8, None).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr("jax.local_device_count", lambda: local)
    slurm.note_idle_gpus()
    told = capsys.readouterr().err
    assert said in told and bool(told) == bool(said) and told.count("\n") <= 1
