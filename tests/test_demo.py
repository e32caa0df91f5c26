"""`mvp4d demo`: what was done is kept, what was stopped is done again, what is out of date is made anew."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from mvp4d import cli
from mvp4d.cli import main
from mvp4d.commands.demo import _devices
from mvp4d.core.capture import Capture, validate
from mvp4d.core.errors import UserError
from mvp4d_jax import demo


class Programs:
    """Stands in for `demo.run_command`: makes each command's output, or fails at the command named `dies_in`."""

    def __init__(self):
        self.ran, self.dies_in = [], None

    def run(self, words):
        self.ran.append(words)
        if words[0] == self.dies_in:
            return 130
        out = Path(words[words.index("--out") + 1])
        for path in (out, out.with_name(f"{out.name}_07")):
            if not out.suffix:
                path.mkdir(parents=True, exist_ok=True)
        if out.suffix:
            out.touch()
        elif words[0] == "evaluate":
            (out / "evaluation.html").touch()
        return 0


@pytest.fixture
def programs(monkeypatch):
    programs = Programs()
    monkeypatch.setattr(demo, "run_command", programs.run)
    return programs


def _stages(out, **changes):
    return demo.plan_stages(out, **{"weights": "tiny", "size": 64, "identity": 11_004, **changes})


@pytest.mark.parametrize("photos", [(), ("me.jpg", "side.jpg")])
def test_a_stopped_demo_goes_on_with_the_stage_it_was_in(programs, tmp_path, tmp_path_factory, photos):
    photos = tuple(tmp_path_factory.mktemp("photos") / name for name in photos)
    for path in photos:
        path.touch()
    stages = _stages(tmp_path, photos=photos)
    verbs = [stage.command[0] for stage in stages]
    for stage in stages:
        programs.dies_in, programs.ran = stage.command[0], []
        if programs.dies_in in verbs[: stages.index(stage)]:  # `studio` and `render` run twice
            continue
        with pytest.raises(UserError, match="run the same command again"):
            demo.run_stages(stages, tmp_path)
        assert programs.ran[-1][0] == stage.command[0]
    programs.dies_in, programs.ran = None, []
    seconds = demo.run_stages(stages, tmp_path)
    assert set(seconds) == {stage.name for stage in stages}
    programs.ran = []
    assert demo.run_stages(stages, tmp_path) == seconds and programs.ran == []
    elsewhere = tmp_path / "." / ".." / tmp_path.name  # the same folder by another name
    assert demo.run_stages(_stages(elsewhere, photos=photos), elsewhere) == seconds and programs.ran == []


@pytest.mark.parametrize("named", ["a", ".", "1"])
def test_the_folders_name_is_no_part_of_the_record(programs, tmp_path, monkeypatch, named):
    """A short name, or the folder that one is in: other words that hold it are recorded as they are, and the demo is
    known by its absolute name."""
    inside = tmp_path / named
    inside.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    demo.run_stages(_stages(Path(named)), Path(named))
    record = json.loads((inside / "demo.json").read_text())
    drive = ["studio", "--identity", "11004", "--frames", "100", "--seed", "1", "--motion-only", "--from-rest", "--out"]
    assert record["drive"]["command"] == [*drive, "OUT/drive.npz"]
    assert "file:OUT/truth/cameras.npz" in record["compare"]["command"]
    programs.ran = []
    demo.run_stages(_stages(inside), inside)
    assert programs.ran == []


@pytest.mark.parametrize("name", ["truth", "generated", "avatar"])
def test_what_no_demo_made_is_in_the_way(programs, tmp_path, name):
    """A capture or avatar of the user's own in the folder that the demo is given: refused before anything runs."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    with pytest.raises(UserError, match="no demo made it"):
        demo.run_stages(_stages(tmp_path), tmp_path)
    assert not programs.ran and (tmp_path / name / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_follows_a_changed_stage_is_made_anew(programs, tmp_path):
    demo.run_stages(_stages(tmp_path), tmp_path)
    programs.ran = []
    stages = _stages(tmp_path, weights="other")
    demo.run_stages(stages, tmp_path)
    first = [stage.name for stage in stages].index("sample")
    assert [words[0] for words in programs.ran] == [stage.command[0] for stage in stages[first:]]
    assert all("--overwrite" in words for words in programs.ran)


def test_a_photo_that_was_replaced_is_tracked_anew(programs, tmp_path):
    photo, out = tmp_path / "me.jpg", tmp_path / "me"
    photo.write_bytes(b"a photo")
    out.mkdir()
    stages = _stages(out, photos=[photo])
    demo.run_stages(stages, out)
    programs.ran = []
    photo.write_bytes(b"another")
    demo.run_stages(stages, out)
    assert [words[0] for words in programs.ran] == [stage.command[0] for stage in stages[1:]]


@pytest.mark.parametrize(("names", "told"), [(["voice.wav"], "neither a picture"), (["a.png"], "png")])
def test_what_is_no_photo_is_told_before_the_first_stage(programs, tmp_path, capsys, names, told):
    for name in names:
        (tmp_path / name).write_bytes(b"RIFF")
    words = ["demo", "--photo", *(str(tmp_path / name) for name in names), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said
    assert not programs.ran and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "holds", "told"),
    [
        (["--frames", "0"], None, "--frames: is 0; use 1 to 100,000"),
        (["--face", "2"], None, "--face: is for photos and videos; give --photo or --video, too"),
        (["--identity=-1"], None, "--identity: -1 is negative; identities count from 0"),
        ([], "capture.json", "holds a capture; give the demo a folder of its own"),
        ([], "avatar.json", "holds an avatar; give the demo a folder of its own"),
        ([], "portrait/portrait.json", "holds a person; give the demo a folder of its own"),
        ([], "notes.md", "out: is already there, and no demo made it; choose another name"),
        ([], "avatar/mine.txt", "out: is already there, and no demo made it; choose another name"),
    ],
)
def test_a_demo_that_cannot_be_runs_no_stage(programs, tmp_path, capsys, words, holds, told):
    out = tmp_path / "out"
    if holds:
        (out / holds).parent.mkdir(parents=True)
        (out / holds).touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["demo", "--weights", "tiny", "--out", str(out), *words]) == 2
    assert told in capsys.readouterr().err and programs.ran == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("holds", [(), (".DS_Store",), ("demo.json", "notes.md")])
def test_a_demo_takes_an_empty_folder_and_its_own(programs, tmp_path, holds):
    for name in holds:
        (tmp_path / name).write_text("{}")
    programs.dies_in = "distill"
    assert main(["demo", "--weights", "tiny", "--out", str(tmp_path)]) == 2
    assert programs.ran[-1][0] == "distill"


def test_a_done_demo_says_what_this_run_took(programs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mvp4d_jax.evaluation.demo_report.write_demo_report", lambda *given: None)
    monkeypatch.setattr("mvp4d.commands.demo._devices", lambda out: "without a GPU")
    words = ["demo", "--weights", "tiny", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    record = tmp_path / "out" / "demo.json"
    earlier = {name: {**entry, "seconds": 100.0} for name, entry in json.loads(record.read_text()).items()}
    record.write_text(json.dumps(earlier))
    programs.ran = []
    capsys.readouterr()
    assert main(words) == 0 and not programs.ran
    assert int(re.search(r"^done in (\d+) s: open", capsys.readouterr().out, re.MULTILINE)[1]) < 100


@pytest.mark.parametrize(("words", "told"), [
    (["me.jpg"], "unrecognized arguments: me.jpg; give --photo me.jpg"),
    (["my face.HEIC", "side.png"], "give --photo 'my face.HEIC' side.png"),
    (["me.mov"], "give --video me.mov"),
    (["me.txt"], "see 'mvp4d demo --help'"),
    (["--fase", "2"], "did you mean --face?"),
])  # fmt: skip
def test_a_photo_without_its_flag_is_told_it(programs, capsys, words, told):
    with pytest.raises(SystemExit, match="2"):
        main(["demo", *words])
    assert capsys.readouterr().err.endswith(f"{told}\n")


def test_the_face_is_handed_on_to_track(tmp_path):
    (stage,) = (stage for stage in _stages(tmp_path, photos=[tmp_path / "a.jpg"], face=2) if stage.name == "track")
    assert stage.command[stage.command.index("--face") + 1] == "2"
    assert not any("--face" in stage.command for stage in _stages(tmp_path, photos=[tmp_path / "a.jpg"]))


def test_a_file_is_no_folder_for_a_demo(programs, tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main(["demo", "--weights", "tiny", "--out", str(tmp_path / "README.md")]) == 2
    assert "README.md: is already there, and is no folder; choose another name" in capsys.readouterr().err
    assert not programs.ran and (tmp_path / "README.md").read_text() == "mine"


def test_a_folder_that_is_called_as_home_is_written_is_another_place(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("~").mkdir()
    programs.dies_in = "distill"
    assert main(["demo", "--weights", "tiny", "--out", "./~/demo"]) == 2
    assert programs.ran[-1][0] == "distill" and not (tmp_path / "home").exists()
    assert [word for words in programs.ran for word in words if cli._at_home(word) != word] == []
    assert (tmp_path / "~" / "demo" / "demo.json").is_file()


@pytest.mark.parametrize(("views", "fit", "told"), [
    (("cpu", "cpu"), "cpu", "without a GPU"),
    (("gpu", "NVIDIA H200"), "cuda:0", "views on NVIDIA H200, avatar on cuda:0"),
    (("cpu", "cpu"), "cuda:0", "views on cpu, avatar on cuda:0"),
])  # fmt: skip
def test_the_report_says_what_was_worked_on(tmp_path, monkeypatch, views, fit, told):
    (tmp_path / "avatar").mkdir()
    (tmp_path / "avatar" / "report.json").write_text(json.dumps({"device": fit}))
    device = types.SimpleNamespace(platform=views[0], device_kind=views[1])
    monkeypatch.setattr("jax.devices", lambda: [device])
    assert _devices(tmp_path) == told


@pytest.mark.slow
def test_killed_in_every_stage_and_run_again(tmp_path):
    """SIGKILL two seconds into each stage in turn; the last run ends with the report."""
    out = tmp_path / "demo"
    words = [sys.executable, "-u", "-m", "mvp4d.cli", "demo", "--frames", "5", "--out", str(out)]
    count = len(_stages(out))
    for number in range(1, count + 1):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        ) as run:
            kept = 0
            for line in run.stdout:
                kept += line.rstrip().endswith("already done")
                if re.match(rf"\[{number}/", line):
                    break
            time.sleep(2)
            os.killpg(run.pid, signal.SIGKILL)
        assert kept == max(0, number - 2)  # the stage that was killed before runs again
    last = subprocess.run(words, capture_output=True, text=True, check=True)
    assert last.stdout.count("already done") == count - 1
    assert (out / "report.html").stat().st_size > 100_000
    validate(out / "generated")
    assert Capture.open(out / "generated").frame_count == 5
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") or path.suffix in (".work", ".run")]
