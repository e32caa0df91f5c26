"""What lies at a path, and whether it is sound: captures, portraits, fits, camera paths, shards, weights, avatars."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path

from mvp4d.core.errors import UserError

# What marks each kind of folder, in order, with the module and function that check it. They are imported when they are
# needed: checking an avatar needs torch, checking weights needs Flax.
_FOLDERS = (
    ("capture.json", "mvp4d.core.capture", "validate"),
    ("portrait/portrait.json", "mvp4d.core.capture.portrait", "validate_person"),
    ("avatar.json", "mvp4d.validation", "_avatar"),
    ("manifest.json", "mvp4d.validation", "_shards"),
    ("mvp4d.json", "mvp4d_jax.models.checkpoint", "validate_weights"),
    ("vae", "mvp4d_jax.models.checkpoint", "validate_weights"),
    ("transformer", "mvp4d_jax.models.checkpoint", "validate_weights"),
    ("config.json", "mvp4d_jax.models.checkpoint", "validate_weights"),
)


def validate(path: Path) -> str:
    """Checks what lies at `path`, whole, and says what it is in one line. Raises UserError."""
    module, function, found = detect(path)
    return str(getattr(importlib.import_module(module), function)(found))


def detect(path: Path) -> tuple[str, str, Path]:
    """(module, function, path for it) that checks what lies at `path`. Raises UserError when it is nothing we know."""
    if not path.exists():
        raise UserError(path, "no such file or folder")
    if path.is_dir():
        for marker, module, function in _FOLDERS:
            if (path / marker).exists():
                return module, function, path
        if (path / "fit.npz").exists():
            return detect(path / "fit.npz")
        raise UserError(path, "is no capture, portrait, shards, weights or avatar",
                        f"such a folder holds one of {', '.join(marker for marker, *_ in _FOLDERS)}")
    if path.is_file() and path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise UserError(path, f"not a readable npz file ({error})") from None
        if "expr.npy" in names:
            return "mvp4d.core.capture.fit", "validate_fit", path
        return "mvp4d.core.cameras.path", "validate_path", path
    raise UserError(path, "is neither a folder nor an npz file", "give a capture, fit, shards, weights or avatar")


def _shards(path: Path) -> str:
    from mvp4d_jax.data.shards import Shards

    try:
        shards = Shards.open(path)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(path / "manifest.json", f"not a manifest of shards ({type(error).__name__} {str(error)[:80]})",
                        "run 'mvp4d prepare' again") from None
    return f"{path}: shards, {len(shards.scenes)} scenes in {len(shards.manifest['files'])} files, checksums right"


def _avatar(path: Path) -> str:
    try:
        avatars = importlib.import_module("mvp4d_export.avatar")
    except ImportError as error:
        raise UserError(path, f"checking an avatar needs the PyTorch half ({error})",
                        "pip install 'mvp4d-jax[export]'") from None
    avatar = avatars.Avatar.load(path)
    return f"{path}: avatar, {len(avatar.binding)} Gaussians on head '{avatar.head.name}'"
