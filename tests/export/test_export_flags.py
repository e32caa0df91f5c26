"""Flags of `mvp4d export` and `view`: which sound belongs to which motion, and what a format does not heed."""

import argparse

import pytest

from mvp4d.cli import main
from mvp4d.commands.clips import add_clips


@pytest.mark.parametrize(
    "words, names",
    [
        ("--motion A --motion B --audio S", [None, "S"]),
        ("--motion A --audio S --motion B --audio T", ["S", "T"]),
        ("--audio S --motion A --motion B", ["S", None]),
        ("--audio S", ["S"]),
        ("--motion A --motion B --audio S --audio T", "'T' is a second sound for one motion"),
        ("--audio S --motion A --audio T", "'T' is a second sound for one motion"),
    ],
)
def test_a_sound_belongs_to_the_motion_before_it(words, names):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_clips(parser)
    if isinstance(names, str):
        with pytest.raises(argparse.ArgumentError, match=names):
            parser.parse_args(words.split())
        return
    args = parser.parse_args(words.split())
    given = [sound and str(sound) for sound in args.audio]
    assert given + [None] * (len(args.motion or [0]) - len(given)) == names


def test_flags_that_a_format_would_not_heed_are_refused(fitted, egg, tmp_path, capsys):
    cases = [
        (fitted[0], "x.csv", "--motion"),
        (fitted[0], "x.csv", "--frame"),
        (fitted[0], "x.html", "--frame"),
        (fitted[0], "x.html", "--sh"),
        (fitted[0], "x.html", "--raw-axes"),
        (egg, "folder", "--audio"),
    ]
    for path, name, flag in cases:
        value = {"--motion": [str(egg)], "--audio": ["a.wav"], "--raw-axes": []}.get(flag, ["1"])
        more = ["--format", "nerfstudio"] if path is egg else []
        assert main(["export", str(path), "--out", str(tmp_path / name), *more, flag, *value]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"mvp4d export: {flag}: ") and line.count("\n") == 1
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("more", "what"), [([], "is missing"), (["--format", "html"], "'html' is no format of captures")]
)
def test_a_capture_in_an_avatars_place_is_called_one(egg, tmp_path, capsys, more, what):
    assert main(["export", str(egg), "--out", str(tmp_path / "me.html"), *more]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"mvp4d export: --format: {what}; {egg} is a capture: ") and "avatar" in line
