"""Processes of one run that meet, and that fail to."""

import socket
import struct
import subprocess
import sys
import textwrap
import time

import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax import processes


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
