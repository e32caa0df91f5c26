"""The distiller says what is wrong with a capture, an avatar, a machine or the flags, in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_world import load, small_config
from PIL import Image
from safetensors.torch import load_file, save_file

from mvp4d.core.errors import UserError
from mvp4d_export.avatar import Avatar
from mvp4d_export.distill import Distiller


def one_line(run, *words):
    with pytest.raises(UserError) as caught:
        run()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_damaged_captures_end_in_one_line(egg, tmp_path):
    def damaged(change):
        target = tmp_path / change.__name__
        shutil.copytree(egg, target)
        change(target)
        return lambda: load(target, hold_views=0)

    def no_head(path):
        (path / "head.npz").unlink()

    def cut_picture(path):
        picture = path / "images" / "cam01" / "00002.png"
        picture.write_bytes(picture.read_bytes()[:100])

    def bad_version(path):
        info = json.loads((path / "capture.json").read_text())
        (path / "capture.json").write_text(json.dumps(info | {"version": 9}))

    def not_json(path):
        (path / "capture.json").write_text("{")

    def nan_motion(path):
        motion = dict(np.load(path / "motion.npz"))
        motion["rotation"][1] = np.nan
        np.savez(path / "motion.npz", **motion)

    def index_out_of_range(path):
        head = dict(np.load(path / "head.npz"))
        head["faces"][0, 0] = 10**6
        np.savez(path / "head.npz", **head)

    def empty_frame(path):
        for view in (path / "masks").iterdir():
            Image.fromarray(np.zeros((48, 48), np.uint8)).save(view / "00003.png")

    def all_empty(path):
        for file in (path / "masks").rglob("*.png"):
            Image.fromarray(np.zeros((48, 48), np.uint8)).save(file)

    one_line(damaged(no_head), "head.npz", "no such file")
    one_line(damaged(cut_picture), "cam01/00002.png", "not a readable picture")
    one_line(damaged(bad_version), "capture.json", "version", "9")
    one_line(damaged(not_json), "capture.json", "JSON")
    one_line(damaged(nan_motion), "motion.npz", "rotation", "not a finite number")
    one_line(damaged(index_out_of_range), "head.npz", "faces")
    one_line(damaged(empty_frame), "frame 3", "transparent in every view")
    one_line(damaged(all_empty), "every mask is transparent")
    one_line(lambda: load(egg, hold_views=6), "`hold_views`", "6 of 6")
    one_line(lambda: load(tmp_path / "nowhere"), "no such folder")


def test_damaged_avatars_end_in_one_line(fitted, tmp_path):
    out, _ = fitted

    def damaged(name, change):
        target = tmp_path / name
        shutil.copytree(out, target)
        change(target)
        return lambda: Avatar.load(target)

    def cut(path):
        data = (path / "avatar.safetensors").read_bytes()
        (path / "avatar.safetensors").write_bytes(data[: len(data) // 2])

    def rewrite(**changes):
        def change(path):
            info = json.loads((path / "avatar.json").read_text())
            (path / "avatar.json").write_text(json.dumps(info | changes))

        return change

    def binding_out_of_range(path):

        tensors = load_file(path / "avatar.safetensors")
        tensors["gaussians.binding"][0] = 10**6
        save_file(tensors, path / "avatar.safetensors")

    one_line(damaged("cut", cut), "avatar.safetensors", "not a readable safetensors file")
    one_line(damaged("version", rewrite(version=7)), "avatar.json", "version", "7")
    one_line(damaged("count", rewrite(gaussians=3)), "avatar.safetensors", "avatar.json says")
    one_line(damaged("net", rewrite(net=None, sh_degree=2)), "avatar.safetensors")
    one_line(damaged("binding", binding_out_of_range), "binding")
    one_line(lambda: Avatar.load(Path("/nowhere/avatar")), "no such folder")


def test_diverging_fit_stops(egg):
    fit = Distiller(load(egg), small_config())
    fit.avatar.harmonics.data[:] = float("nan")
    one_line(fit.train_step, "diverged")
    fit = Distiller(load(egg), small_config())
    fit.step_done, fit.average, fit.best = 65, 1.0, 0.02
    one_line(fit.train_step, "diverged", "best 0.02")


def test_running_out_of_memory_and_no_cuda_end_in_one_line(egg, monkeypatch, tmp_path):
    from mvp4d_export.device import guard_memory, pick_device

    def allocate():
        with guard_memory("a smaller --size"):
            torch.empty(1 << 60, dtype=torch.uint8)

    def allocate_on_gpu():
        with guard_memory("a smaller --preset"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    one_line(allocate, "memory", "--size")
    one_line(allocate_on_gpu, "memory", "3 GiB", "--preset")
    if not torch.cuda.is_available():
        one_line(lambda: pick_device("cuda"), "`device`", "no CUDA device")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--hold-views", "9"], ["--hold-views"]),
        (["--steps", "0"], ["--steps"]),
        (["--lpips", "nothing.safetensors"], ["nothing.safetensors"]),
    ],
)
def test_command_line_mistakes(egg, tmp_path, capsys, arguments, words):
    from mvp4d.cli import main

    assert main(["distill", str(egg), "--out", str(tmp_path / "a"), "--device", "cpu", *arguments]) == 2
    (text,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in text for word in words), text


def test_an_avatar_whose_file_is_cut_short_while_it_is_used(fitted, tmp_path):
    """A mapped file would end the process with SIGBUS."""
    shutil.copytree(fitted[0], tmp_path / "avatar")
    program = (
        "import os, sys; from pathlib import Path; from mvp4d_export.avatar import Avatar; path = Path(sys.argv[1]); "
        "avatar = Avatar.load(path); os.truncate(path / 'avatar.safetensors', 0); "
        "print(sum(float(value.double().sum()) for value in avatar.buffers()))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "avatar"], capture_output=True, text=True)
    whole = sum(float(value.double().sum()) for value in Avatar.load(fitted[0]).buffers())
    assert done.returncode == 0 and float(done.stdout) == whole, done.stderr


def test_an_avatar_that_may_not_be_read_is_not_called_damaged(fitted, monkeypatch, capsys):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mvp4d_export.avatar_check.read_tensors", refused)
    from mvp4d.cli import main

    assert main(["validate", str(fitted[0])]) == 2
    told = f"{fitted[0] / 'avatar.safetensors'}: permission denied; check who may read and write there"
    assert capsys.readouterr().err == f"mvp4d validate: {told}\n"
