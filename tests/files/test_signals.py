"""Signals: what is begun is cleaned up or ended, children go with their parent, a command says whether it goes on."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvp4d.cli import VERBS, main
from mvp4d.core.files import atomic_folder
from mvp4d.core.stopping import Stopped, stoppable, tied, unbroken
from tests.files.process import python


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_clean_up(tmp_path, number):
    with (
        pytest.raises(Stopped, match=signal.Signals(number).name),
        stoppable(),
        atomic_folder(tmp_path / "c", kind="capture") as folder,
    ):
        (folder / "x").touch()
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN)


@pytest.mark.parametrize(
    "words, goes_on",
    [
        ("preflight --config tiny --topology h100:1", False),
        ("validate x", False),
        ("studio --out x", False),
        ("studio --out x --identities 0:2", True),
        ("track clips --out x --share 0/1", True),
        ("track photo.jpg --out x", False),
        ("train --config tiny --workdir x", True),
        ("train --config tiny --workdir x --dry-run", False),
        ("train --config tiny --workdir x --export y", False),
        ("prepare x --config tiny --out y", True),
        ("sample --weights tiny --reference x --motion x --cameras x --out y", True),
        ("sample --weights tiny --reference x --motion x --cameras x --out y --plan", False),
        ("distill x --out y", True),
        ("demo --out x", True),
    ],
)
def test_a_stopped_command_says_whether_it_goes_on(words, goes_on, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(VERBS[words.split()[0]][0])
    monkeypatch.setattr(module, "run", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert main(words.split()) == 128 + signal.SIGTERM
    said = "run the same command again to go on" if goes_on else "the same command starts over"
    assert f"stopped by SIGTERM; {said}" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_python_swallows_comes_again(number, capsys):
    """Exceptions in finalisers, and in callbacks of the garbage collector, are printed and lost."""

    class Dropped:
        def __del__(self):
            signal.raise_signal(number)
            time.sleep(0)

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), stoppable():
        assert sys.unraisablehook is not hook
        del (dropped := [Dropped()])[0]
        time.sleep(5)
        pytest.fail(f"the signal was lost; {dropped}")
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook is hook


def test_further_signals_do_not_interrupt_the_clean_up():
    done = []
    with pytest.raises(Stopped, match="SIGHUP"), stoppable():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            done.append(1)
    assert done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_an_import(tmp_path, monkeypatch, number):
    """Compiled modules (jaxlib, numpy) crash, or print tracebacks, where it raises while they are initialised."""
    (tmp_path / "slow_module.py").write_text(
        f"import signal, time\nsignal.raise_signal({int(number)})\ntime.sleep(0.2)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), stoppable():
        importlib.import_module("slow_module")
        time.sleep(5)
        pytest.fail("the signal was lost")
    assert sys.modules.pop("slow_module").whole


def test_an_import_that_does_not_end_is_stopped_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("mvp4d.core.stopping.IMPORT_SECONDS", 0.2)
    (tmp_path / "endless_module.py").write_text("import signal\nsignal.raise_signal(15)\nwhile True: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()
    with pytest.raises(Stopped), stoppable():
        importlib.import_module("endless_module")
    assert time.monotonic() - began < 5


def test_a_second_ctrl_c_at_once_is_the_same_one():
    done = []
    with pytest.raises(KeyboardInterrupt), stoppable():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            done.append("cleaned up")
    assert done


@pytest.mark.parametrize("name, kind", [("SIGTERM", Stopped), ("SIGHUP", Stopped), ("SIGINT", KeyboardInterrupt)])
def test_a_signal_waits_for_the_end_of_what_must_be_whole(name, kind):
    done = []
    with pytest.raises(kind), stoppable():
        with unbroken():
            os.kill(os.getpid(), getattr(signal, name))
            done.append("the rest of the step")
        done.append("never")
    assert done == ["the rest of the step"]
    with pytest.raises(kind), stoppable():  # and outside it comes at once, as before
        os.kill(os.getpid(), getattr(signal, name))
        done.append("never")


def test_children_die_with_their_parent(tmp_path):
    program = """
import subprocess, sys
from mvp4d.core.stopping import tied
child = subprocess.Popen(tied(["sleep", "60"]))
print(child.pid, flush=True)
sys.stdin.read()
"""
    parent = python(program, stdin=subprocess.PIPE)
    child = int(parent.stdout.readline())
    for _ in range(100):
        if b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
            break
        time.sleep(0.05)
    parent.kill()
    parent.communicate()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child outlives its parent")


def test_tied_hands_the_command_on():
    done = subprocess.run(
        tied([sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(3)", "a b", ""]),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, "['a b', '']\n")


def test_a_stop_that_an_import_takes_for_its_own_failure(monkeypatch, capsys):
    """Compiled modules raise ImportError where a signal comes while they are initialised."""

    def run(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("Encountered an error while initializing the extension.") from None

    monkeypatch.setattr("mvp4d.commands.validate.run", run)
    assert main(["validate", "x"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "mvp4d validate: stopped by SIGTERM; the same command starts over\n"

    def fails(args):
        raise ImportError("no such module")

    monkeypatch.setattr("mvp4d.commands.validate.run", fails)
    with pytest.raises(ImportError, match="no such module"):
        main(["validate", "x"])
