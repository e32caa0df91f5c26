"""What lies at a path, and whether it is sound: captures, portraits, fits, camera paths, shards, weights, avatars."""

from __future__ import annotations

import importlib
from pathlib import Path

from mvp4d.core import images, video
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.files import find_inside, read_npz
from mvp4d.core.live_link import read_live_link
from mvp4d.core.words import counted

# What marks each kind of folder, in order, with the module and function that check it. They are imported when they are
# needed: checking an avatar needs torch, checking weights needs Flax.
_FOLDERS = (
    ("capture.json", "mvp4d.core.capture", "validate"),
    ("portrait/portrait.json", "mvp4d.core.capture.portrait", "validate_person"),
    ("avatar.json", "mvp4d.validation", "_avatar"),
    ("manifest.json", "mvp4d.validation", "_shards"),
    ("mvp4d.json", "mvp4d_jax.release", "validate_release"),
    ("vae", "mvp4d_jax.models.convert", "validate_weights"),
    ("transformer", "mvp4d_jax.models.convert", "validate_weights"),
    ("config.json", "mvp4d_jax.models.convert", "validate_weights"),
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
        inside = find_inside(path, ("avatar.json", *(marker for marker, *_ in _FOLDERS)))
        raise UserError(
            path,
            "is no capture, portrait, shards, weights or avatar",
            f"such a folder holds one of {', '.join(marker for marker, *_ in _FOLDERS)}, or a fit.npz"
            if inside is None
            else f"there is one at {inside}",
        )
    if path.is_file() and path.suffix == ".npz":
        names = set(read_npz(path))
        if "expr" in names:
            return "mvp4d.core.capture.fit", "validate_fit", path
        if "expression" in names and names & {"rotation", "translation", "neck", "jaw", "eyes"}:
            return "mvp4d.core.capture.motion_file", "validate_motion", path
        if "world_to_camera" in names:
            raise UserError(path, "holds the cameras of a capture or an avatar", f"give its folder, {path.parent}")
        if names & {"extr", "fx", "fy", "cx", "cy"}:
            return "mvp4d.core.cameras.path", "validate_path", path
        held = ", ".join(sorted(names)[:12]) or "nothing"
        raise UserError(path, "is no fit, motion or camera path", f"it holds {held}")
    if path.is_file() and path.suffix.lower() == ".csv":
        return "mvp4d.validation", "_recording", path
    if path.suffix in (".json", ".safetensors") and any((path.parent / marker).is_file() for marker, *_ in _FOLDERS):
        raise UserError(path, "is a part of what its folder holds", f"give the folder, {path.parent}")
    for kind, suffixes in (("picture", images.SUFFIXES), ("video", video.SUFFIXES)):
        if path.suffix.lower() in suffixes:
            raise UserError(path, f"is a {kind}", "mvp4d track fits a head to it")
    raise UserError(
        path, "is no folder, npz or csv file", "give a capture, fit, motion, camera path, shards, weights or avatar"
    )


def _recording(path: Path) -> str:
    motion, names = read_live_link(path)
    frames, expressions = counted(motion.frame_count, "frame"), counted(len(names), "expression")
    return f"{path}: Live Link recording, {frames}, {motion.fps:g} fps, {expressions}"


def _shards(path: Path) -> str:
    from mvp4d_jax.data.shards import Shards

    shards = Shards.open(path)
    scenes, files = counted(len(shards.scenes), "scene"), counted(len(shards.manifest["files"]), "file")
    return f"{path}: shards, {scenes} in {files}, checksums right"


def _avatar(path: Path) -> str:
    try:
        avatars = importlib.import_module("mvp4d_export.avatar")
    except ImportError as error:
        raise UserError(
            path, f"checking an avatar needs the PyTorch half ({error})", "in the checkout: pip install '.[export]'"
        ) from None
    avatar = avatars.Avatar.load(path)
    load_motion(path, avatar.head)
    return f"{path}: avatar, {len(avatar.binding)} Gaussians on head '{avatar.head.name}'"
