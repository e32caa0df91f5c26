"""The examples run as they are, at a size that tests can wait for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.timeout(900)
def test_notebook_runs(tmp_path, monkeypatch):
    cells = json.loads((EXAMPLES / "photo_to_avatar.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for name, value in (("OUT", tmp_path / "out"), ("VIEWS", 2), ("FRAMES", 2), ("FIT_STEPS", 12)):
        monkeypatch.setenv(f"MVP4D_{name}", str(value))
    monkeypatch.delenv("MVP4D_PHOTO", raising=False)
    space: dict = {}
    for cell in code:
        exec(cell, space)
    assert space["frames"].shape == (2, 128, 128, 3)
    assert (tmp_path / "out" / "avatar.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_samplers_are_compared():
    words = [sys.executable, str(EXAMPLES / "compare_samplers.py"), "--steps", "1", "--frames", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "1 steps" in done.stdout and "PSNR" in done.stdout
