"""What a terminal is given: one line that shows what strange names and damaged files hold, and does not obey it."""

import numpy as np
import pytest

from mvp4d.cli import main
from mvp4d.core.errors import UserError, printable
from mvp4d.core.live_link import read_live_link
from mvp4d.core.progress import progress
from mvp4d.core.shares import write_table
from tests.files.test_meaning import recording


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),  # clears the screen
        ("a\u202egnp.b", r"a\u202egnp.b"),  # writes from right to left
        ("\udcff.png", r"\udcff.png"),  # a byte that is no UTF-8
        ("a\0b\x7f", r"a\x00b\x7f"),
        ("Grüße 😀 ü\t1", "Grüße 😀 ü\t1"),
    ],
)
def test_a_terminal_shows_and_does_not_obey(text, shown):
    assert printable(text) == shown
    assert str(UserError(text, "x")) == " ".join(f"{shown}: x".split())


@pytest.mark.parametrize(
    "words", [["no\nsuch\x1b[1m"], ["render", "x", "--out", "y", "--a\nb\x1b[1m"], ["render", "x", "--fps", "x" * 9999]]
)
def test_mistaken_flags_are_one_short_line(words, capsys):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1 and "\x1b" not in said and len(said) < 900


def test_the_closing_line_of_a_file_whose_name_is_no_utf8(tmp_path, capsys):
    out = tmp_path / "\udcff.npz"
    assert main(["studio", "--motion-only", "--frames", "2", "--out", str(out)]) == 0
    assert out.is_file() and r"\udcff.npz" in capsys.readouterr().out.encode().decode()


@pytest.mark.parametrize("name", ["x" * 256 + ".npz", "x" * 256 + "/y.npz"])
def test_a_name_that_no_disk_takes_is_told_before_the_work(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr("mvp4d.commands.studio.run", lambda args: pytest.fail("the work began"))
    assert main(["studio", "--motion-only", "--out", str(tmp_path / name)]) == 2
    assert "cannot be written: file name too long" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [".", "..", "/"])
@pytest.mark.parametrize(
    "words",
    [
        ["track", "x.png"],
        ["track", "x", "--cameras", "y"],
        ["render", "x", "--each-view"],
        ["distill", "x"],
        ["studio"],
        ["export", "x", "--format", "ply-sequence"],
    ],
)
def test_folders_that_nothing_can_be_written_beside(tmp_path, monkeypatch, capsys, words, out):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", out, "--overwrite"]) == 2
    assert capsys.readouterr().err.startswith(f"mvp4d {words[0]}: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["1e308", "1e39", "inf", "nan"])
def test_a_number_beyond_float32_in_a_recording(tmp_path, value, recwarn):
    path = tmp_path / "a.csv"
    recording(path)
    path.write_text(path.read_text().replace("61,0.25", f"61,{value}", 1))
    with pytest.raises(UserError, match="row 2, column 'JawOpen' is not finite, or too large"):
        read_live_link(path)
    assert not recwarn.list


def test_pictures_smaller_than_the_window_of_ssim(tmp_path):
    from mvp4d.core.capture import Capture
    from mvp4d_jax.evaluation.evaluate import evaluate
    from tests.capture.toy import write_capture

    write_capture(tmp_path / "capture")
    capture = Capture.open(tmp_path / "capture")
    assert min(capture.image_size) == 10 and np.prod(capture.image_size) == 120
    with pytest.raises(UserError, match="smaller than SSIM's window"):
        evaluate(capture, capture)


@pytest.mark.parametrize(
    "stop", [UserError("x", "is wrong"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_the_line_stands_below_a_bar_that_was_left_open(monkeypatch, capsys, stop):
    def run(args):
        bar = progress(total=3, what="working")  # the frame keeps it for as long as the error is at hand
        bar.refresh()
        raise stop

    monkeypatch.setattr("mvp4d.commands.validate.run", run)
    assert main(["validate", "x"]) in (2, 130)
    *_, above, line = capsys.readouterr().err.splitlines()
    assert above.startswith("working:") and line.startswith("mvp4d validate: ")


def test_the_table_of_failures_holds_any_name(tmp_path):
    write_table(tmp_path, "clip", [("\udcff.mp4", "is wrong")])
    assert (tmp_path / "failed.csv").read_text(encoding="utf-8").splitlines() == ["clip,why", r"\udcff.mp4,is wrong"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["distill", "person", "--out", "x"],
            "person: is a person's folder, not a capture; a capture is made by mvp4d sample",
        ),
        (["distill", "avatar", "--out", "x"], "avatar: is an avatar, not a capture"),
        (
            ["render", "capture", "--out", "x"],
            "capture: is a capture, not an avatar; an avatar is made by mvp4d distill",
        ),
        (["render", "empty", "--out", "x"], "empty: is not an avatar (avatar.json is missing)"),
        (
            ["export", "capture", "--out", "x.ply"],
            "--format: is missing; capture is a capture: use one of gaussian-avatars",
        ),
        (["validate", "head.npz"], "head.npz: is no fit, motion or camera path; it holds faces, uv"),
        (["validate", "me.jpg"], "me.jpg: is a picture; mvp4d track fits a head to it"),
        (["validate", "clip.mp4"], "clip.mp4: is a video; mvp4d track fits a head to it"),
        (
            ["validate", "capture/cameras.npz"],
            "capture/cameras.npz: holds the cameras of a capture or an avatar; give its folder, capture",
        ),
        (["validate", "capture/capture.json"], "is a part of what its folder holds; give the folder, capture"),
        (["validate", "avatar/avatar.json"], "is a part of what its folder holds; give the folder, avatar"),
        (["validate", "voice.wav"], "voice.wav: is no folder, npz or csv file"),
        (["validate", "empty"], "fit.npz"),
        (["validate", "demo"], "avatar; there is one at demo/me"),
        (["render", "demo", "--out", "x"], "demo: is not an avatar (avatar.json is missing); there is one at demo/me"),
        (
            ["sample", "--weights", "tiny", "--reference", "demo", "--motion", "x", "--cameras", "x", "--out", "x"],
            "demo: is neither a person's folder nor a capture; there is a person at demo/z",
        ),
        (
            ["sample", "--weights", "tiny", "--reference", "me.jpg", "--motion", "x", "--cameras", "x", "--out", "x"],
            "give it, or a person as --reference: mvp4d track me.jpg --head builtin --out PERSON",
        ),
        (["track", "empty", "--out", "x"], "or in its place photos of one person (FOLDER/*)"),
        (
            ["import", ".", "--from=videos", "--fit=f.npz", "--head", "buildin", "--out", "x"],
            "--head: 'buildin' is not a head model",
        ),
        (["distill", "demo", "--out", "x"], "(capture.json is missing); there is one at demo/a"),
    ],
)
def test_what_is_given_in_the_place_of_another(tmp_path, monkeypatch, capsys, words, told):
    """The line says what it is, and what makes the kind that is needed."""
    from tests.capture.toy import write_capture

    monkeypatch.chdir(tmp_path)
    write_capture(tmp_path / "capture")
    demo = ("demo/a/capture.json", "demo/a/portrait/portrait.json", "demo/b/capture.json", "demo/me/avatar.json")
    for name in (
        "person/portrait/portrait.json",
        "avatar/avatar.json",
        "empty/x",
        "me.jpg",
        "clip.mp4",
        "voice.wav",
        *demo,
        "demo/z/portrait/portrait.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    np.savez("head.npz", faces=[0], uv=[0])
    assert main(words) == 2
    assert f"mvp4d {words[0]}: " in (said := capsys.readouterr().err) and told in said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 TiB for an array"),
        RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 67130144 bytes."),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9876 bytes.\nBufferAssignment: ..."),
    ],
)
def test_memory_that_ran_out_is_one_line(monkeypatch, capsys, error):
    def run(args):
        raise error

    monkeypatch.setattr("mvp4d.commands.validate.run", run)
    assert main(["validate", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mvp4d validate: memory: ran out") and said.count("\n") == 1


def test_an_error_of_the_program_itself_keeps_its_traceback(monkeypatch):
    def run(args):
        raise RuntimeError("INTERNAL: of another kind")

    monkeypatch.setattr("mvp4d.commands.validate.run", run)
    with pytest.raises(RuntimeError, match="another kind"):
        main(["validate", "x"])
