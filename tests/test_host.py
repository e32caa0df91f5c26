"""Freed memory is kept: the system is asked once, not at every step."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from mvp4d.core.host import keep_freed_memory
    keep_freed_memory()
def work():
    np.ones(32 * 2**20, np.uint8)  # made and freed: 8,192 pages
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_arrays_are_used_again():
    faults = {
        way: int(
            subprocess.run(
                [sys.executable, "-c", COUNT, way], capture_output=True, text=True, check=True, timeout=60
            ).stdout
        )
        for way in ("plain", "keep")
    }
    if faults["plain"] < 100:
        pytest.skip(f"this C library keeps freed memory by itself ({faults})")
    assert faults["keep"] < faults["plain"] / 10, faults
