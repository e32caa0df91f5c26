"""Builds wheel and sdist into dist/, installs the wheel into a folder of its own and runs it from there.

Run by `make wheel-check`, from the project's root, with the environment that has the dependencies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


PACKAGES = {"mvp4d": "mvp4d", "mvp4d_jax": "mvp4d_jax", "export": "mvp4d_export", "configs": "mvp4d_configs"}


def run(*words: object, **options) -> str:
    print("$", *words, flush=True)
    command = [str(word) for word in words]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def main() -> None:
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # A copy of what git tracks: setuptools would also take in what lies about in build/.
        source = work / "source"
        source.mkdir()
        names = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, source / name)
        run(sys.executable, "-m", "build", "--outdir", dist, source)
        (wheel,) = dist.glob("*.whl")
        installed = work / "installed"
        held = set(zipfile.ZipFile(wheel).namelist())
        for name in filter(None, names):
            folder, _, rest = name.partition("/")
            if folder in PACKAGES and f"{PACKAGES[folder]}/{rest}" not in held:
                raise SystemExit(f"{name} is not in the wheel: add its folder to pyproject.toml")
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel)
        environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}

        def inside(*words: object) -> str:
            return run(sys.executable, *words, cwd=work, env=environment)

        for package in ("mvp4d", "mvp4d_jax", "mvp4d_export", "mvp4d_configs"):
            where = inside("-c", f"import {package}; print({package}.__file__)").strip()
            assert Path(where).is_relative_to(installed), f"{package} comes from {where}, not from the wheel"
        assert "--photo" in inside("-m", "mvp4d.cli", "demo", "--help")
        inside(
            "-m",
            "mvp4d.cli",
            "studio",
            "--identity",
            "11004",
            "--cameras",
            "orbit:360x2",
            "--frames",
            "2",
            "--size",
            "64",
            "--out",
            "truth",
        )
        inside(
            "-m",
            "mvp4d.cli",
            "sample",
            "--weights",
            "tiny",
            "--reference",
            "truth",
            "--motion",
            "truth",
            "--cameras",
            "truth",
            "--steps",
            "1",
            "--guidance",
            "1",
            "--out",
            "views",
        )
        print(inside("-m", "mvp4d.cli", "validate", "views").strip())
    print(f"wheel and sdist are sound: {dist}")


if __name__ == "__main__":
    main()
