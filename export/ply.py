"""Splat files: the 3D Gaussian splatting PLY, sequences of it, and CAP4D's animation PLY."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mvp4d.core.files import atomic_file
from mvp4d.core.progress import progress
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.harmonics import spherical_harmonics
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import matrix_to_quaternion, multiply_quaternions

_FRAME = "delta_vertex_{:05d}"


def world_splats(splats: Splats, matrix: Tensor, degree: int) -> Splats:
    """Splats moved by a rigid transform [4, 4]; their harmonics turn along."""
    rotation = matrix[:3, :3]
    turn = matrix_to_quaternion(rotation)[None].expand(len(splats.means), 4)
    return Splats(
        splats.means @ rotation.T + matrix[:3, 3],
        multiply_quaternions(turn, splats.quaternions),
        splats.scales,
        splats.opacities,
        rotate_harmonics(splats.harmonics, rotation, degree),
    )


def rotate_harmonics(coefficients: Tensor, rotation: Tensor, degree: int) -> Tensor:
    """Harmonics [G, K, 3] of the function turned by a rotation [3, 3].

    The turned function at d is the old one at R^-1 d; each degree's coefficients follow by solving that on many
    directions, which is exact because a degree's harmonics span a space that rotations leave in itself.
    """
    if degree == 0:
        return coefficients
    directions = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    old = spherical_harmonics(degree, directions @ rotation.double().cpu())
    matrix = torch.linalg.lstsq(spherical_harmonics(degree, directions), old).solution  # [K, K]
    return torch.einsum("kl,glc->gkc", matrix.to(coefficients), coefficients[:, : len(matrix)])


def write_splats(splats: Splats, path: str | os.PathLike, comments: Sequence[str] = ()) -> None:
    """Writes `splat_bytes`, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(splat_bytes(splats, comments))


def splat_bytes(splats: Splats, comments: Sequence[str] = ()) -> bytes:
    """The binary PLY of 3D Gaussian splatting: f_rest channel by channel, logit opacity, log scale, wxyz rotation.

    Args:
      comments: lines for the header, without the word `comment`.
    """
    columns = _splat_columns(
        splats.means,
        splats.harmonics,
        torch.logit(splats.opacities.clamp(1e-6, 1 - 1e-6)),
        splats.scales.log(),
        splats.quaternions,
    )
    table = _table(columns)
    return _header([("vertex", table)], comments).encode() + table.tobytes()


def _splat_columns(
    means: Tensor, harmonics: Tensor, logit: Tensor, log_scales: Tensor, quaternions: Tensor
) -> dict[str, np.ndarray]:
    def host(value: Tensor) -> np.ndarray:
        return value.detach().float().cpu().numpy()

    columns = dict(zip("xyz", host(means).T))
    columns |= {name: np.zeros(len(means), np.float32) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{k}": value for k, value in enumerate(host(harmonics[:, 0]).T)}
    rest = host(harmonics[:, 1:].transpose(1, 2).flatten(1))  # [G, 3 (K - 1)], channel-major
    columns |= {f"f_rest_{k}": value for k, value in enumerate(rest.T)}
    columns["opacity"] = host(logit)
    columns |= {f"scale_{k}": value for k, value in enumerate(host(log_scales).T)}
    unit = torch.nn.functional.normalize(quaternions, dim=-1)
    return columns | {f"rot_{k}": value for k, value in enumerate(host(unit).T)}


def _table(columns: dict[str, np.ndarray]) -> np.ndarray:
    """A structured little-endian array."""
    dtype = np.dtype([(name, value.dtype.newbyteorder("<")) for name, value in columns.items()])
    table = np.empty(len(next(iter(columns.values()))), dtype)
    for name, value in columns.items():
        table[name] = value
    return table


_TYPES = {"f4": "float", "u4": "uint", "i4": "int"}


def _header(elements: list[tuple[str, np.ndarray]], comments: Sequence[str] = ()) -> str:
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in ("made by mvp4d", *comments))]
    for name, table in elements:
        lines.append(f"element {name} {len(table)}")
        lines += [f"property {_TYPES[kind[1:]]} {field}" for field, kind in table.dtype.descr]
    return "\n".join([*lines, "end_header", ""])


@torch.no_grad()
def sequence(avatar: Avatar, pose: Pose) -> Iterator[Splats]:
    """World-space splats of every frame of a motion."""
    matrices = pose.head_matrix()
    for frame in range(len(pose.expression)):
        window = pose[frame : frame + 1]
        yield world_splats(avatar.splats(avatar.vertices(window)), matrices[frame], avatar.config.sh_degree)


@torch.no_grad()
def write_animation(avatar: Avatar, pose: Pose, path: str | os.PathLike) -> None:
    """CAP4D's animation PLY: the triangles, Gaussians in their frames, and the vertices' motion, in head space.

    Elements: `faces`, `base_vertex`, `vertex` (local position, harmonics, logit opacity, log scales, wxyz rotation,
    `binding`), and per frame `meta_delta_min_N`, `meta_delta_max_N` and `delta_vertex_N` = (offset - min) / (max -
    min). The head's own rotation and translation are left to the viewer's camera, as CAP4D does.
    """
    frames = len(pose.expression)
    vertices = torch.stack(
        [avatar.vertices(pose[frame : frame + 1]) for frame in progress(range(frames), what="posing", unit="frame")]
    )
    base = avatar.gather(avatar.rig.template)
    columns = _splat_columns(avatar.position, avatar.harmonics, avatar.logit_opacity, avatar.log_scale, avatar.rotation)
    for name in ("nx", "ny", "nz"):
        del columns[name]
    columns["binding"] = avatar.binding.cpu().numpy().astype(np.uint32)
    faces = avatar.mesh_faces.cpu().numpy().astype(np.uint32)
    elements = [
        ("faces", _table({f"index_{k}": faces[:, k] for k in range(3)})),
        ("base_vertex", _points(base)),
        ("vertex", _table(columns)),
    ]
    for frame in range(frames):
        offset = vertices[frame] - base
        low, high = offset.amin(0), offset.amax(0)
        span = torch.where(high > low, high - low, torch.ones_like(high))
        elements += [
            (f"meta_delta_min_{frame:05d}", _points(low[None])),
            (f"meta_delta_max_{frame:05d}", _points((low + span)[None])),
            (_FRAME.format(frame), _points((offset - low) / span)),
        ]
    with atomic_file(path) as temporary, open(temporary, "wb") as handle:
        handle.write(_header(elements).encode())
        for _, table in elements:
            handle.write(table.tobytes())


def _points(values: Tensor) -> np.ndarray:
    return _table(dict(zip("xyz", values.float().cpu().numpy().T)))
