"""Arguments of the public API: a wrong type, a number that none means, a seed out of range are one line."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest

import mvp4d
from mvp4d.cli import VERBS, _at_home, as_flags, main
from mvp4d.core.arguments import checked
from mvp4d.core.progress import say


@checked
def sample(
    path: "Pathlike",  # noqa: F821
    *more: "str | None",
    count: "int | tuple[int, int]" = 1,
    rate: "float | None" = None,
    names: "Pathlike | Sequence[Pathlike | None]" = (),  # noqa: F821
    motion: "Motion | None" = None,  # noqa: F821
    seed: "int" = 0,
    fast: "bool" = False,
    **options: "Any",  # noqa: F821
) -> int:
    """What it does."""
    return 7


def test_what_fits_is_passed_on():
    still = mvp4d.Motion.still(1, 2)
    for words, options in (
        (("a", None, "b"), {}),
        ((Path("a"),), {"count": np.int64(3), "rate": 1, "names": [None, Path("b")], "motion": still, "fast": True}),
        (("a",), {"count": (1, 2), "rate": np.float32(2), "names": "one", "seed": 2**32 - 1, "other": object()}),
        (("a",), {"count": np.array([1, 2])}),
    ):
        assert sample(*words, **options) == 7
    assert sample.__doc__ == "What it does."


def test_a_range_is_no_pair_of_numbers():
    with pytest.raises(mvp4d.UserError, match=r"^`count`: range\(2, 4\) \(range\) is not of type int"):
        sample("a", count=range(2, 4))


def test_a_typo_is_named_rather_than_what_it_leaves_missing():
    """Of a function that takes any options, too; a method called on its class says what Python says."""

    @checked
    def made(one: "str", *, motion: "str", **options: "Any") -> int:  # noqa: F821
        return 7

    with pytest.raises(mvp4d.UserError, match=r"^`motoin`: no such argument; did you mean `motion`\?$"):
        made("a", motoin="b")
    with pytest.raises(mvp4d.UserError, match=r"^render\(\): missing a required argument: 'self'"):
        mvp4d.Avatar.render()


@pytest.mark.parametrize(
    "words, options, line",
    [
        ((3,), {}, "`path`: 3 (int) is not of type Pathlike"),
        (("a", 3), {}, "`more`: 3 (int) is not of type str | None"),
        (("a",), {"count": 1.5}, "`count`: 1.5 (float) is not of type int | tuple[int, int]"),
        (("a",), {"count": True}, "`count`: True (bool) is not of type int | tuple[int, int]"),
        (("a",), {"count": (1, 2, 3)}, "`count`: (1, 2, 3) (tuple) is not of type int | tuple[int, int]"),
        (("a",), {"rate": "25"}, "`rate`: '25' (str) is not of type float | None"),
        (("a",), {"rate": float("nan")}, "`rate`: nan is no number that can be meant"),
        (("a",), {"names": [3]}, "`names`: [3] (list) is not of type Pathlike | Sequence[Pathlike | None]"),
        (("a",), {"motion": {}}, "`motion`: {} (dict) is not of type Motion | None"),
        (("a",), {"seed": -1}, "`seed`: is -1; it is a whole number from 0 to 4,294,967,295"),
        (("a",), {"fast": "x"}, "`fast`: 'x' (str) is not of type bool"),
    ],
)
def test_what_does_not_fit_is_one_line(words, options, line):
    with pytest.raises(mvp4d.UserError) as caught:
        sample(*words, **options)
    assert str(caught.value) == line


@checked
def render(motion: "str", *, size: "int" = 1, frames: "int | None" = None) -> int:
    return 7


@pytest.mark.parametrize(
    "words, options, line",
    [
        (("a",), {"frame": 3}, "`frame`: no such argument; did you mean `frames`?"),
        (("a",), {"colour": 3}, "`colour`: no such argument; known are motion, size, frames"),
        ((), {"size": 3}, "`motion`: is missing: render() cannot do without"),
        (("a", 3), {}, "render(): too many positional arguments; in a row it takes motion; by name size, frames"),
        (
            ("a",),
            {"motion": "b"},
            "render(): multiple values for argument 'motion'; in a row it takes motion; by name size, frames",
        ),
    ],
)
def test_names_that_do_not_fit_are_one_line(words, options, line):
    with pytest.raises(mvp4d.UserError) as caught:
        render(*words, **options)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("words", "fix"), [(["--motoin", "a.npz"], "did you mean --motion?"), (["bee"], "see 'mvp4d render --help'")]
)
def test_a_flag_that_is_none_names_the_nearest(words, fix, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["render", "avatar", "--out", "a.mp4", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"mvp4d render: unrecognized arguments: {' '.join(words)}; {fix}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["render", "avatar", "--out", "a.mp4", "--frame", "3"], "--frame 3; did you mean --frames?"),
        (["render", "avatar", "--uot", "a.mp4"], "--uot; did you mean --out?"),
        (["train", "--confg", "tiny", "--config.steps=3"], "--confg; did you mean --config?"),
        (["render", "--uot", "a.mp4", "--", "avatar"], "--uot; did you mean --out?"),
    ],
)
def test_a_flag_is_never_guessed(words, told, capsys):
    """`--frame` is a flag of `export`: one frame, where `--frames` is how many."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"mvp4d {words[0]}: unrecognized arguments: {told}\n"


@pytest.mark.parametrize("words", [["--", "avatar"], ["--", "--avatar"]])
def test_what_ends_the_flags_is_none_of_them(words, capsys):
    with pytest.raises(SystemExit):
        main(["render", *words])
    told = "the following arguments are required: --out; see 'mvp4d render --help'"
    assert capsys.readouterr().err == f"mvp4d render: {told}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["validate", "~/a"],
        ["validate", "~"],
        ["import", ".", "--from=videos", "--fit=~/a", "--head", "builtin", "--out", "c"],
        ["import", ".", "--from=videos", "--fit", "f.npz", "--head=flame:~/a", "--out", "c"],
        ["train", "--config", "tiny", "--workdir", "w", "--dry-run", "--config.data.shards=~/a"],
    ],
)
def test_home_is_spelt_out_where_shells_leave_it(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert f"{tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "spelt"),
    [
        ("--config.data.shards=~/a,~/b", "--config.data.shards=/me/a,/me/b"),
        ("--config.data.shards=a,~", "--config.data.shards=a,/me"),
        ("--config.initial=a~/b,~c", "--config.initial=a~/b,~c"),
        ("~/a,~/b", "/me/a,~/b"),
        ("--out=~other/a", "--out=~other/a"),
        ("--cameras=file:~/a", "--cameras=file:/me/a"),
        ("~ he said", "~ he said"),
    ],
)
def test_where_home_is_spelt_out(word, spelt, monkeypatch):
    monkeypatch.setenv("HOME", "/me")
    assert _at_home(word) == spelt


def test_nothing_is_written_into_a_folder_named_after_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["studio", "--motion-only", "--frames", "2", "--out=~/a~b.npz"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (tmp_path / "home" / "a~b.npz").is_file()


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: mvp4d.open_avatar(None), "path"),
        (lambda: mvp4d.film(1.5, "out"), "identity"),
        (lambda: mvp4d.film(1, "out", frames=10**9), "frames"),
        (lambda: mvp4d.track(3), "photos"),
        (lambda: mvp4d.track(), "photos"),
        (lambda: mvp4d.speak("a.wav", text=3), "text"),
        (lambda: mvp4d.camera_rig("orbit:360x2", 64), "image_size"),
        (lambda: mvp4d.distill(3, out="x"), "views"),
        (lambda: mvp4d.distill("x", "y", preset=3), "preset"),
        (lambda: mvp4d.validate(3), "path"),
        (lambda: mvp4d.distill("x", out="y", step=3), "step"),
        (lambda: mvp4d.load_head(3), "spec"),
        (lambda: mvp4d.load_motion("a.csv"), "head"),
    ],
)
def test_public_functions_name_the_argument(call, name):
    with pytest.raises(mvp4d.UserError, match=f"^`{name}`: "):
        call()


def test_photos_in_a_list_are_told_how_to_be_given():
    with pytest.raises(mvp4d.UserError) as caught:
        mvp4d.track(["a.png", "b.png"])
    line = "`photos`: ['a.png', 'b.png'] (list) is not of type Pathlike; give them one by one: *photos"
    assert str(caught.value) == line
    with pytest.raises(mvp4d.UserError) as caught:
        mvp4d.track(photos=["a.png", "b.png"])
    assert str(caught.value) == "`photos`: does not go by name; give them one by one: *photos"


@pytest.mark.parametrize(("verb", "told", "shown"), [
    ("sample", "`photo_detail`", "--photo-detail"),  # can be switched off: --no-photo-detail is its other name
    ("track", "`masks`", "--mask"),
    ("track", "`sources`", "sources"),
])  # fmt: skip
def test_arguments_are_shown_as_flags_under_their_first_name(verb, told, shown):
    parser = argparse.ArgumentParser()
    importlib.import_module(VERBS[verb][0]).configure(parser)
    assert as_flags(f"{told}: is wrong", parser) == f"{shown}: is wrong"


def test_notes_are_shown_with_flags_while_a_verb_runs(monkeypatch, capsys):
    def run(args):
        say("note: 2 faces, `face` takes another")
        return "done"

    monkeypatch.setattr("mvp4d.commands.track.run", run)
    assert main(["track", "a.jpg", "--out", "person"]) == 0
    say("note: `face`")
    assert capsys.readouterr().err == "note: 2 faces, --face takes another\nnote: `face`\n"


@pytest.mark.parametrize("words", [
    ["a.jpg", "--out", "fit.npz", "--most", "3"],
    ["a.jpg", "--out", "fit.npz", "--matte", "none"],
    ["a.jpg", "b.jpg", "--out", "person", "--most", "3"],
])  # fmt: skip
def test_tracking_refuses_what_it_would_not_look_at(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["track", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"no {words[-2]};" in said and not list(tmp_path.iterdir())
