"""One HTML file that shows an avatar: page, programs and arrays in it, nothing loaded from elsewhere.

The page lies in `export/web/`: a template, a style and plain modules, which are joined here (no build step). The
arrays are one deflated block in base64: uint32 length of a header, the header (JSON: names, motions, `arrays` with
type, offset and size), then the arrays, little-endian, those of more than a byte stored byte plane by byte plane.
Types: f4, f2 (half floats), i2 (times a scale a row), u1, u2, u4. Every name lies in the header, none in the markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file
from mvp4d.core.heads.motion import Motion
from mvp4d.core.progress import say
from mvp4d.core.sound import note_cut
from mvp4d.core.sound import read_sound as decode
from mvp4d.core.words import counted
from mvp4d_export.avatar import Avatar, eye_joints
from mvp4d_export.bake import Baked, bake
from mvp4d_export.formats import Clip, Job
from mvp4d_export.projection import ALPHA_THRESHOLD

WEB = Path(__file__).resolve().parent.parent / "web"
PAGE = (
    "payload",
    "rig",
    "shaders",
    "splats",
    "camera",
    "motion",
    "live",
    "controls",
    "main",
)  # a module after what it uses
WORKER = ("rig", "worker")
MAX_SOUND = 16 << 20  # bytes
_SOUNDS = (
    (b"RIFF", "audio/wav"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
)


def write(job: Job) -> str:
    """Writes the page; returns the closing line."""
    text, baked = page(job.avatar, job.clips, title=job.out.stem)
    with atomic_file(job.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    rms, high = (1000 * value for value in baked.error)
    if job.avatar.net is not None:
        say(f"note: the deformation net is kept as blendshapes, {rms:.3f} mm off (99 % of points within {high:.3f} mm)")
    return f"{job.out}: {len(text) / 1e6:.1f} MB, {counted(len(job.clips), 'motion')}"


def page(
    avatar: Avatar, clips: tuple[Clip, ...], *, title: str, background: str = "", live: bool = False
) -> tuple[str, Baked]:
    """The page's text, and how the deformation was baked.

    Args:
      background: "rrggbb", "transparent", or "" for one that suits the reader's colour scheme.
      live: asks the server that it comes from for poses (`mvp4d_export.viewer`).

    Raises:
      UserError: a sound that browsers do not play, Gaussians that cannot be drawn.
    """
    sounds = [None if clip.sound is None else read_sound(clip.sound, clip.motion) for clip in clips]
    baked = bake(avatar, [clip.motion for clip in clips])
    header, arrays = _contents(avatar, baked, clips, sounds)
    payload = pack({**header, "title": title, "background": background, "live": live}, arrays)
    return assemble(title, payload, live), baked


def read_sound(path: Path, motion: Motion) -> tuple[str, bytes]:
    """MIME type and bytes of a motion's sound file. Raises UserError for one that browsers do not play."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_SOUND else b""
    except OSError as error:
        raise UserError(path, error.strerror or "cannot be read", "give a sound file") from None
    if size > MAX_SOUND:
        raise UserError(path, f"is {size >> 20} MB of sound, a page holds {MAX_SOUND >> 20}", "give an mp3 or ogg")
    sound = decode(path)  # a file may be cut, or a video without sound: browsers would stay silent
    note_cut(path, sound, motion.frame_count / motion.fps)
    if data[4:8] == b"ftyp":
        return "audio/mp4", data
    for start, kind in _SOUNDS:
        if data.startswith(start) and (start != b"RIFF" or data[8:12] == b"WAVE"):
            return kind, data
    raise UserError(path, "is no sound that browsers play", "give a wav, mp3, m4a, ogg or flac")


def _contents(
    avatar: Avatar, baked: Baked, clips: tuple[Clip, ...], sounds: list[tuple[str, bytes] | None]
) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """Header and arrays (type, values) of the payload."""
    arrays, count, rows = _gaussians(avatar)
    scale = np.abs(baked.shapes).max((1, 2)).astype(np.float32) / 32767
    shapes = np.round(baked.shapes / np.maximum(scale, 1e-30)[:, None, None])
    rig = avatar.rig
    arrays |= {
        "template": ("f4", baked.template),
        "shapes": ("i2", shapes),
        "shape_scale": ("f4", scale),
        "weights": ("u2", np.round(avatar.mesh_skin.numpy() * 65535)),
    }
    joints, joint_shapes = _joints(avatar, baked)
    arrays["joints"] = ("f4", joints)
    if np.abs(joint_shapes).max(initial=0) > 0:
        arrays["joint_shapes"] = ("f4", joint_shapes)
    motions = []
    for index, (clip, sound) in enumerate(zip(clips, sounds)):
        motion = clip.motion
        parts = (motion.rotation, motion.translation, motion.neck, motion.jaw, motion.eyes)
        arrays[f"motion_{index}"] = ("f2", np.asarray(motion.expression))
        arrays[f"rigid_{index}"] = ("f4", np.concatenate([np.reshape(part, (len(part), -1)) for part in parts], 1))
        if sound is not None:
            arrays[f"sound_{index}"] = ("u1", np.frombuffer(sound[1], np.uint8))
        motions.append(
            {"name": clip.name, "frames": motion.frame_count, "fps": float(motion.fps), "sound": sound and sound[0]}
        )
    return {
        "gaussians": count,
        "degree": avatar.config.sh_degree,
        "harmonics": rows,
        "antialiased": avatar.config.antialiased,
        "pitch": avatar.config.pitch,
        "expressions": list(rig.expression_names),
        "joints": list(rig.joint_names),
        "parents": [int(parent) for parent in rig.joint_parents],
        "motions": motions,
    }, arrays


def _joints(avatar: Avatar, baked: Baked) -> tuple[np.ndarray, np.ndarray]:
    """Joints [J, 3] and how expressions move them [E, J, 3]: an eye's turns it about where the deformation has it."""
    rig = avatar.rig
    joints, shapes = rig.joints.numpy().copy(), rig.joint_expression_basis.numpy().copy()
    moved = baked.template - avatar.gather(rig.template).numpy()
    posed = baked.shapes[: len(shapes)] - avatar.gather(rig.expression_basis).numpy()
    for index in eye_joints(avatar.head):
        own = (avatar.mesh.follows > 0) & (avatar.mesh_skin[:, index].numpy() > 0.5)
        if own.any():
            joints[index] += moved[own].mean(0)
            shapes[:, index] += posed[:, own].mean(1)
    return joints, shapes


def _gaussians(avatar: Avatar) -> tuple[dict[str, tuple[str, np.ndarray]], int, int]:
    """The Gaussians that can be seen, by triangle; how many; harmonics of each."""
    names = ("position", "rotation", "log_scale", "logit_opacity", "harmonics")
    values = {name: getattr(avatar, name).detach().cpu().numpy() for name in names}
    binding = avatar.binding.cpu().numpy()
    kept = 1 / (1 + np.exp(-values["logit_opacity"].astype(np.float64))) >= ALPHA_THRESHOLD
    for value in values.values():
        kept &= np.isfinite(value.reshape(len(value), -1)).all(1)
    if not kept.any():
        raise UserError("avatar", "has no Gaussian that can be seen", "distil it again")
    order = np.flatnonzero(kept)[np.argsort(binding[kept], kind="stable")]
    rotation = values["rotation"] / np.maximum(np.linalg.norm(values["rotation"], axis=1, keepdims=True), 1e-12)
    triangles, binding = np.unique(binding[order], return_inverse=True)
    return (
        {
            "position": ("f2", values["position"][order]),
            "rotation": ("f2", rotation[order]),
            "scale": ("f2", values["log_scale"][order]),
            "opacity": ("f2", values["logit_opacity"][order]),
            "harmonics": ("f2", values["harmonics"][order]),
            "binding": ("u4", binding),
            "faces": ("u4", avatar.mesh_faces.cpu().numpy()[triangles]),
        },
        len(order),
        values["harmonics"].shape[1],
    )


def pack(header: dict[str, Any], arrays: dict[str, tuple[str, np.ndarray]]) -> str:
    """Header and arrays as base64 (see the module's docstring)."""
    entries, blocks, offset = {}, [], 0
    for name, (kind, values) in arrays.items():
        limit = np.finfo(kind) if kind[0] == "f" else np.iinfo(kind)
        cast = np.ascontiguousarray(np.clip(values, limit.min, limit.max), dtype=f"<{kind}").reshape(-1)
        block = cast.view(np.uint8).reshape(-1, cast.itemsize).T.tobytes()
        entries[name] = {"type": kind, "offset": offset, "bytes": len(block)}
        blocks.append(block)
        offset += len(block)
    text = json.dumps({**header, "arrays": entries}, allow_nan=False).encode()
    return base64.b64encode(zlib.compress(b"".join((struct.pack("<I", len(text)), text, *blocks)), 9)).decode()


def assemble(title: str, payload: str, live: bool = False) -> str:
    """The page around a payload."""
    style, script = (WEB / "style.css").read_text(encoding="utf-8"), join(PAGE)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; worker-src blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if live else "")
    )
    parts = {
        "policy": policy,
        "title": html.escape(title).encode("utf-8", "replace").decode(),  # a file's name may be no text
        "style": style,
        "payload": payload,
        "worker": join(WORKER),
        "script": script,
    }
    template = (WEB / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def join(modules: tuple[str, ...]) -> str:
    """Modules of `export/web/` as one: their imports of each other go, their exports become plain."""
    texts = [(WEB / f"{name}.js").read_text(encoding="utf-8") for name in modules]
    return "\n".join(
        re.sub(r"^export ", "", re.sub(r"^import .*;\n", "", text, flags=re.M), flags=re.M) for text in texts
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
