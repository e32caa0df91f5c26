"""Fixtures of the capture tests."""

from pathlib import Path

import pytest

from tests.capture.toy import write_capture


@pytest.fixture
def capture_path(tmp_path) -> Path:
    return write_capture(tmp_path / "capture")
