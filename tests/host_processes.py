"""`mvp4d` commands as processes of their own, each a host with so many devices."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def start(folder: Path, words: list[str], devices: int, without: tuple[str, ...] = (), **environment: object):
    """Begins `mvp4d WORDS` in a folder; variables whose names begin with those of `without` are not handed on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return subprocess.Popen(
        [sys.executable, "-m", "mvp4d.cli", *words],
        cwd=folder,
        env={
            **kept,
            "PYTHONPATH": f"{ROOT}:{kept.get('PYTHONPATH', '')}",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
            **{name: str(value) for name, value in environment.items()},
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(*processes: subprocess.Popen) -> list[str]:
    """What they said; all of them end well."""
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]
    return outputs
