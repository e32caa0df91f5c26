"""Avatar files as they are read: what is missing, of another type or shape, or out of range ends in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from mvp4d.core.errors import UserError
from mvp4d.core.files import check_kind, check_regular, read_json
from mvp4d.core.heads.model import HeadModel
from mvp4d_export.deformation import NetConfig
from mvp4d_export.remesh import UVMesh
from mvp4d_export.tensors import read_tensors

FORMAT, VERSION = "mvp4d-avatar", 2
MOST_BYTES = 1 << 36  # of avatar.safetensors
MOST_GROUPS = 64  # of vertices that move as one
LOG_SCALE = (-30.0, 10.0)  # of a triangle's size: from what no float32 picture shows to far beyond any head
POSITION = 1e4  # likewise
LOGIT = 100.0
_AGAIN = "the avatar is damaged; distil it again"

# Per vertex of the remesh: numpy type, its name, further axes. What points into the head has its tables' types.
_WHOLE, _REAL = (np.int64, "int64"), (np.float32, "float32")
_PER_VERTEX = {
    "pixels": (*_WHOLE, ()),
    "corners": (np.signedinteger, "signed integers", (3,)),
    "weights": (*_REAL, (3,)),
    "deformable": (*_REAL, ()),
    "part": (np.integer, "integers", ()),
    "follows": (*_WHOLE, ()),
    "leads": (*_WHOLE, ()),
}


def read_files(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """avatar.json and the tensors of avatar.safetensors, all finite, of an avatar folder.

    Raises:
      UserError: names the file and what is wrong with it.
    """
    where, weights = path / "avatar.json", path / "avatar.safetensors"
    check_kind(path, "avatar.json")
    info = read_json(where)
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(where, f"field 'format' is not '{FORMAT}'", "this is not an avatar")
    if info.get("version") != VERSION:
        raise UserError(
            where,
            f"field 'version' is {str(info.get('version'))[:40]}, this program reads {VERSION}",
            "update the program or distil the avatar again",
        )
    check_regular(weights, MOST_BYTES)
    try:
        tensors = read_tensors(weights)
    except PermissionError:  # nothing is wrong with the file
        raise
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            weights, f"not a readable safetensors file ({str(error)[:120]})", "distil the avatar again"
        ) from None
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(weights, f"tensor '{name}' holds values that are not finite", "distil the avatar again")
    return info, tensors


def config_fields(info: dict, where: Path) -> dict:
    """The fields of an `AvatarConfig` from avatar.json, which is at `where`; refuses what none has."""
    net, extra = info.get("net"), info.get("extra", {})
    if not isinstance(extra, dict):
        raise UserError(where, f"field 'extra' is {str(extra)[:40]}", "it is an object")
    if net is not None:
        channels = net.get("channels") if isinstance(net, dict) else None
        whole = isinstance(channels, list) and 1 <= len(channels) <= 8
        if not whole or not all(type(item) is int and 1 <= item <= 2048 for item in channels):
            raise UserError(where, f"field 'net' is {str(net)[:60]}", "its 'channels' are 1 to 8 whole numbers")
        blocks, stride = whole_number(net, "blocks", 1, 64, where), whole_number(net, "stride", 1, 16, where)
        net = NetConfig(tuple(channels), blocks, stride)
    if not isinstance(info.get("antialiased"), bool):
        raise UserError(where, f"field 'antialiased' is {str(info.get('antialiased'))[:40]}", "it is true or false")
    pitch = info.get("pitch")
    if isinstance(pitch, bool) or not isinstance(pitch, (int, float)) or not 0 <= pitch <= 1:
        raise UserError(where, f"field 'pitch' is {str(pitch)[:40]}", "it is in metres, 0 to 1")
    return {
        "uv_resolution": whole_number(info, "uv_resolution", 2, 4096, where),
        "sh_degree": whole_number(info, "sh_degree", 0, 3, where),
        "net": net,
        "antialiased": info["antialiased"],
        "pitch": float(pitch),
    }


def whole_number(info: dict, name: str, low: int, high: int, where: Path) -> int:
    """A field of avatar.json; refuses another type, and what lies outside of low..high."""
    value = info.get(name)
    if type(value) is not int or not low <= value <= high:
        raise UserError(where, f"field '{name}' is {str(value)[:40]}", f"it is a whole number {low}..{high}")
    return value


def read_mesh(tensors: dict[str, Tensor], resolution: int, head: HeadModel, where: Path) -> UVMesh:
    """The remesh of `resolution` squared pixels over a head; refuses tables of another type or shape, or that point
    nowhere. An avatar may do without `follows` and `leads`: nothing of it moves as one then."""
    arrays = {name[5:]: value.numpy() for name, value in tensors.items() if name.startswith("mesh.")}
    _check_present(arrays, ("faces", "pixels", "corners", "weights", "deformable", "part"), where)
    points = arrays["pixels"].size
    for name in ("follows", "leads"):
        arrays.setdefault(name, np.zeros(points, np.int64))
    for name, (kind, word, axes) in _PER_VERTEX.items():
        _check_table(arrays[name], name, kind, word, (points, *axes), where)
    _check_table(arrays["faces"], "faces", *_WHOLE, (len(np.atleast_1d(arrays["faces"])), 3), where)
    for name, limit in (
        ("corners", len(head.template)),
        ("pixels", resolution**2),
        ("faces", len(arrays["pixels"])),
        ("part", len(head.part_names)),
        ("follows", MOST_GROUPS),
        ("leads", MOST_GROUPS),
    ):
        if arrays[name].min() < 0 or arrays[name].max() >= limit:
            raise UserError(where, f"tensor 'mesh.{name}' points outside of its {limit} targets", _AGAIN)
    return UVMesh(resolution, **{name: arrays[name] for name in ("faces", *_PER_VERTEX)})


def _check_present(arrays: dict[str, np.ndarray], names: tuple[str, ...], where: Path) -> None:
    for name in names:
        if name not in arrays:
            raise UserError(where, f"lacks tensor 'mesh.{name}'", _AGAIN)


def _check_table(array: np.ndarray, name: str, kind: type, word: str, shape: tuple[int, ...], where: Path) -> None:
    """Refuses a table of the mesh of another type or shape, or of no rows at all."""
    if not np.issubdtype(array.dtype, kind) or array.shape != shape or not array.size:
        raise UserError(
            where, f"tensor 'mesh.{name}' is {array.dtype} {list(array.shape)}, expected {word} {list(shape)}", _AGAIN
        )


def fill(target: Tensor, tensors: dict[str, Tensor], name: str, where: Path) -> None:
    """Copies a tensor of the file into `target`; refuses another shape, and whole numbers for others or the reverse."""
    value = tensors[name]
    if target.shape != value.shape:
        raise UserError(
            where, f"tensor '{name}' is {tuple(value.shape)}, avatar.json says {tuple(target.shape)}", _AGAIN
        )
    if value.is_floating_point() != target.is_floating_point():
        raise UserError(where, f"tensor '{name}' is {value.dtype}, expected {target.dtype}", "distil the avatar again")
    target.copy_(value)


def check_gaussians(values: dict[str, Tensor], binding: Tensor, triangles: int, where: Path) -> None:
    """Refuses Gaussians that are bound to no triangle, or that are finite, and yet nowhere or of no size.

    Args:
      values: the parameters by name, log_scale, position, logit_opacity and rotation among them.
      binding: [G] the triangle of each.
    """
    if len(binding) and not 0 <= int(binding.min()) <= int(binding.max()) < triangles:
        raise UserError(where, "tensor 'gaussians.binding' points outside of the triangles", _AGAIN)
    for name, low, high in (
        ("log_scale", *LOG_SCALE),
        ("position", -POSITION, POSITION),
        ("logit_opacity", -LOGIT, LOGIT),
    ):
        value = values[name]
        if value.numel() and not (low <= float(value.min()) and float(value.max()) <= high):
            raise UserError(
                where,
                f"tensor 'gaussians.{name}' reaches from {float(value.min()):.4g} to {float(value.max()):.4g}",
                f"it lies between {low:g} and {high:g}",
            )
    rotation = values["rotation"]
    if rotation.numel() and not float(rotation.norm(dim=-1).min()) > 1e-8:
        raise UserError(where, "tensor 'gaussians.rotation' has a quaternion of no length", "distil the avatar again")
