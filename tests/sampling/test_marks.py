"""Sampling's marks on the built-in weights, as `benchmarks/sampling.py` measures them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # minutes each


def _measure(*words):
    command = [sys.executable, str(ROOT / "benchmarks" / "sampling.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_windows_have_no_visible_seam():
    assert "mark: mean <= 1.5: met" in _measure("seam", "--identities", "2")


def test_decoding_to_disk_takes_less_than_two_gigabytes():
    assert "mark: < 2.0 GB: met" in _measure("memory")


def test_a_run_killed_between_windows_goes_on():
    assert "the same to the last bit" in _measure("resume", "--steps", "6")
