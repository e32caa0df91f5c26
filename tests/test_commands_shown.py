"""Commands that users are shown are commands that run: parsed here; `make docs-check` also runs them, small and dry."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import docs_check
import pytest
from small_world import write_scene

from mvp4d.cli import main
from mvp4d.core.capture import Capture
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.evaluation.demo_report import _sides, bearing, how_many, next_steps

SHOWN = docs_check.shown()


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_commands_are_understood(path):
    lines = [line for _, found in SHOWN[path] for line in found]
    assert [(line, problem) for line in lines if (problem := docs_check.check_line(line))] == []


def test_every_kind_of_page_is_read():
    """Three commands of the autoencoder's config; those that go on in a second line are one."""
    commands = {path.name: [line for _, found in pages for line in found] for path, pages in SHOWN.items()}
    assert [line.split()[1] for line in commands["tiny_autoencoder.py"]] == ["studio", "train", "train"]
    assert any(line.endswith("--out shards/256") and "\\" not in line for line in commands["mvp4d_2b.py"])
    assert commands["README.md"] and commands["tpu_vm.sh"] and commands["demo_report.py"]


@pytest.mark.parametrize(("line", "told"), [
    ("mvp4d train --config small --workdir runs/small", "config.autoencoder"),
    ("mvp4d train --config tiny --workdir runs/tiny", "config.data.shards"),
    ("mvp4d prepare captures --config small --out shards", "config.autoencoder"),
    ("mvp4d train --config tiny_autoencoder --workdir runs/vae --export vae", "config.data.captures"),
    ("mvp4d render out/avatar --out a.mp4 --frame 3", "unknown argument '--frame'"),
])  # fmt: skip
def test_what_a_command_lacks_is_told(line, told):
    assert told in docs_check.check_line(line)


@pytest.mark.parametrize("name", ["a demo", "o'clock", "$HOME", "plain"])
def test_the_reports_commands_name_the_avatar_as_a_shell_takes_it(name):
    words = [shlex.split(command) for command, _ in next_steps(Path(name), [Path("a.jpg"), Path("b.jpg")])]
    taken = [line[2] for line in words if line[1] in ("view", "render", "export")]
    assert taken == [f"{name}/avatar"] * 5
    assert not [line for line in words if line[1] in ("demo", "train")]  # the one has just been done


def test_views_are_named_by_side_in_every_table(tmp_path):
    """A rig's azimuth grows to the right of a frontal picture; so do the sides that cameras of a capture have."""
    words = ["0°", "45° right", "90° right", "135° right", "180°", "135° left", "90° left", "45° left"]
    assert [bearing(45 * eighth) for eighth in range(8)] == words
    capture = Capture.open(write_scene(tmp_path / "capture", views=8, frames=1))
    found = _sides(capture, capture.names)
    assert found[1:4].tolist() == [1, 1, 1] and found[5:].tolist() == [-1, -1, -1]  # of orbit:360x8


def test_who_gave_one_photo_is_told_to_give_more():
    words = [shlex.split(command) for command, _ in next_steps(Path("out/me"), [Path("my photo.jpg")])]
    assert words[-2:] == [
        ["mvp4d", "demo", "--photo", "my photo.jpg", "side.jpg", "--out", "out/me_more"],
        ["mvp4d", "demo", "--video", "clip.mp4", "--out", "out/me_more"],
    ]
    assert not [line for line in words if line[1] == "train"]
    assert [how_many([Path(name) for name in names]) for names in ((), "a", "ab", ["a.MP4"])] == [
        "one photo", "one photo", "2 photos", "a clip",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["distill", "views", "--out", "my avatar"], ["my avatar"]),
        (["speak", "o'hare.wav", "--out", "my talk.npz"], ["o'hare.wav", "my talk.npz"]),
    ],
)
def test_what_a_verb_says_to_do_next_is_a_command(words, names, monkeypatch, capsys):
    report = {"scores": {}, "gaussians": 1, "seconds": 1.0}
    monkeypatch.setattr("mvp4d.distill", lambda *_, **__: SimpleNamespace(report=report), raising=False)
    monkeypatch.setattr("mvp4d.speak", lambda *_, **__: Motion.still(3, 52), raising=False)
    assert main(words) == 0
    line = capsys.readouterr().out.strip().partition("; next: ")[2]
    assert docs_check.check_line(line) is None and set(names) <= set(shlex.split(line))
