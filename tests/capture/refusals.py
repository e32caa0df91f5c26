"""What the tests of damaged inputs share: a copy to damage, and the one line that it must end in."""

import shutil
from pathlib import Path

import pytest

from mvp4d.cli import main


def copy(originals: Path, name: str, work: Path) -> Path:
    shutil.copytree(originals / name, work / "input", symlinks=True)
    return work / "input"


def assert_one_line(capsys, path: Path) -> None:
    """`mvp4d validate` ends with code 2 and one line on standard error; any other exception fails the test."""
    capsys.readouterr()
    assert main(["validate", str(path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("mvp4d validate: ") and 30 < len(lines[0]) < 700, lines


def spread(cases: dict, *prefix: object) -> list:
    return [
        pytest.param(*prefix, damage, id=" ".join([*(str(item) for item in prefix), name]))
        for name, damage in cases.items()
    ]
