"""Flags of `mvp4d export` and `view`: which sound belongs to which motion, and what a format does not heed."""

import argparse
import re
import shutil

import numpy as np
import pytest
import scipy.io
import torch
from plyfile import PlyData

from mvp4d.cli import main
from mvp4d.commands.clips import add_clips
from mvp4d.core.capture.motion_file import read_motion
from mvp4d_export.avatar import Avatar


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


def test_the_closing_line_tells_what_is_in_the_file(fitted, tmp_path, capsys):
    """Of the avatar's Gaussians three are too faint to be drawn: files lack them, and so do the numbers."""
    faint = tmp_path / "faint"
    avatar = Avatar.load(fitted[0])
    with torch.no_grad():
        avatar.logit_opacity[:3] = -20.0
    avatar.save(faint)
    shutil.copy(fitted[0] / "motion.npz", faint)
    for name in ("a.ply", "a.glb"):
        assert main(["export", str(faint), "--out", str(tmp_path / name)]) == 0
        said = capsys.readouterr()
        left = avatar.gaussian_count - int(re.match(r"(\d+) Gaussians that nothing would draw", said.err)[1])
        assert f"{name}: {left} Gaussians of frame 0 (not kept: motion" in said.out
        assert left <= avatar.gaussian_count - 3
    assert len(PlyData.read(tmp_path / "a.ply")["vertex"]) == left


def test_formats_that_avatars_have_are_all_listed(fitted, tmp_path, capsys):
    assert main(["export", str(fitted[0]), "--format", "plyy", "--out", str(tmp_path / "a.ply")]) == 2
    line = capsys.readouterr().err
    assert line.endswith(", html, cap4d-animation, csv, nersemble-benchmark\n") and "'plyy' is no format" in line
    assert main(["export", str(fitted[0]), "--frame", "1000", "--out", str(tmp_path / "a.ply")]) == 2
    frames = read_motion(fitted[0] / "motion.npz").motion.frame_count
    assert f"is none of {frames} frames; use 0 to {frames - 1}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "cut"), [(2.0, True), (0.05, False)])
def test_a_sound_that_outlasts_the_motion_is_said(fitted, tmp_path, capsys, seconds, cut):
    scipy.io.wavfile.write(tmp_path / "s.wav", 16000, np.zeros(int(16000 * seconds), np.float32))
    motion = read_motion(fitted[0] / "motion.npz").motion
    lasts = motion.frame_count / motion.fps
    told = f"s.wav: {seconds - lasts:.1f} of its {seconds:.1f} s are cut, the motion lasts {lasts:.1f} s; 'mvp4d speak "
    sound = ["--audio", str(tmp_path / "s.wav")]
    assert main(["export", str(fitted[0]), *sound, "--out", str(tmp_path / "a.html")]) == 0
    assert (told in capsys.readouterr().err) == cut
    words = ["render", str(fitted[0]), *sound, "--size", "32", "--out"]
    assert main([*words, str(tmp_path / "a.mp4")]) == 0
    assert (told in capsys.readouterr().err) == cut
    assert main([*words, str(tmp_path / "b.mp4"), "--frames", "2"]) == 0  # meant so
    assert "are cut" not in capsys.readouterr().err
