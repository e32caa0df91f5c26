"""One portrait photo to an animatable 360-degree head avatar.

    import mvp4d

    person = mvp4d.track("me.jpg")
    views = mvp4d.load("tiny_128_turbo").sample(person, motion="drive.csv", cameras="orbit:360x8", out="out/views")
    avatar = mvp4d.distill(views, preset="cpu", out="out/avatar")
    avatar.render(motion="drive.csv", cameras="turn:360", size=512).save("talk.mp4")

docs/api.md describes every name. Importing the package loads neither JAX nor PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvp4d.api import Model, distill, evaluate, film, load, open_capture, track, validate
    from mvp4d.avatar import Avatar, Rendering, open_avatar
    from mvp4d.core.cameras.camera import Camera
    from mvp4d.core.cameras.rigs import camera_rig
    from mvp4d.core.capture import Capture
    from mvp4d.core.capture.portrait import Portrait
    from mvp4d.core.driving import load_motion
    from mvp4d.core.errors import UserError
    from mvp4d.core.heads import load_head
    from mvp4d.core.heads.model import HeadModel
    from mvp4d.core.heads.motion import Motion
    from mvp4d.core.progress import silence
    from mvp4d.core.speech.speak import speak
    from mvp4d.views import Views

__version__ = "0.2.0"

# name -> the module that defines it, imported when the name is first used
_HOMES = {
    **dict.fromkeys(
        (
            "Model",
            "distill",
            "evaluate",
            "film",
            "load",
            "open_capture",
            "track",
            "validate",
        ),
        "mvp4d.api",
    ),
    **dict.fromkeys(("Avatar", "Rendering", "open_avatar"), "mvp4d.avatar"),
    "Camera": "mvp4d.core.cameras.camera",
    "Capture": "mvp4d.core.capture",
    "HeadModel": "mvp4d.core.heads.model",
    "Motion": "mvp4d.core.heads.motion",
    "Portrait": "mvp4d.core.capture.portrait",
    "UserError": "mvp4d.core.errors",
    "Views": "mvp4d.views",
    "camera_rig": "mvp4d.core.cameras.rigs",
    "load_head": "mvp4d.core.heads",
    "load_motion": "mvp4d.core.driving",
    "silence": "mvp4d.core.progress",
    "speak": "mvp4d.core.speech.speak",
}
__all__ = [
    "Avatar",
    "Camera",
    "Capture",
    "HeadModel",
    "Model",
    "Motion",
    "Portrait",
    "Rendering",
    "UserError",
    "Views",
    "camera_rig",
    "distill",
    "evaluate",
    "film",
    "load",
    "load_head",
    "load_motion",
    "open_avatar",
    "open_capture",
    "silence",
    "speak",
    "track",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mvp4d' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__") and name != "__dir__")})
