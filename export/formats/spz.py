"""`spz`: one frame in Niantic's packed format, version 3 (https://github.com/nianticlabs/spz): a tenth of the PLY.

Its axes are right, up, back: the world's. What packing costs: positions are exact to 1e-6 m, log scales to 1/32 (and
no scale is below 0.045 mm), rotations to 0.25 degrees, opacities to 1/510, harmonics to 1/256 within [-1, 1].
"""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np
from torch.nn.functional import normalize

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file
from mvp4d_export.avatar import Splats
from mvp4d_export.formats import Job
from mvp4d_export.formats.frames import degree_of, frame_splats, host

_MAGIC, _VERSION = 0x5053474E, 3
_ANTIALIASED = 1  # bit of `flags`
_FINEST = 20  # fractional bits of positions where the scene is small: 1e-6 m
_REACH = 1 << 23  # positions are 24-bit integers
_DC_SCALE = 0.15


def write(job: Job) -> str:
    splats = frame_splats(job)
    packed = io.BytesIO()
    with gzip.GzipFile("mvp4d", "wb", fileobj=packed, mtime=0) as stream:  # the name tells whose file it is
        stream.write(pack(splats, job.avatar.config.antialiased))
    data = packed.getvalue()
    with atomic_file(job.out) as temporary:
        temporary.write_bytes(data)
    return f"{job.out}: {len(splats.means)} Gaussians of frame {job.frame}, {len(data) / 2**20:.1f} MiB"


def pack(splats: Splats, antialiased: bool) -> bytes:
    """The file before gzip: header, then positions, opacities, colours, scales, rotations, harmonics, each in a row."""
    means = host(splats.means).astype(np.float64)
    bits = _FINEST
    while np.abs(means).max() * 2**bits >= _REACH - 1:
        bits -= 1
        if bits < 1:
            far = f"a Gaussian is {np.abs(means).max():.3g} m from the origin"
            raise UserError("avatar", far, "spz reaches 4000 km")
    fixed = np.round(means * 2**bits).astype("<i4").reshape(-1, 1).view(np.uint8)  # [3 G, 4] bytes
    header = (_MAGIC, _VERSION, len(means), degree_of(splats), bits, _ANTIALIASED * antialiased, 0)
    harmonics = host(splats.harmonics)
    parts = (
        fixed[:, :3],
        _bytes(host(splats.opacities) * 255),
        _bytes((harmonics[:, 0] * _DC_SCALE + 0.5) * 255),
        _bytes((np.log(host(splats.scales)) + 10) * 16),
        smallest_three(host(normalize(splats.quaternions, dim=-1))),
        _bytes(harmonics[:, 1:] * 128 + 128),  # [G, K - 1, 3]
    )
    return struct.pack("<IIIBBBB", *header) + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.round(values).clip(0, 255).astype(np.uint8)


def smallest_three(quaternions: np.ndarray) -> np.ndarray:
    """Unit wxyz quaternions [G, 4] to uint32 [G].

    Two bits say which of x, y, z, w is largest (made positive and left out); ten bits each hold the others in that
    order, the first highest: a sign and the magnitude in units of 1 / (511 sqrt 2).
    """
    xyzw = quaternions[:, [1, 2, 3, 0]].astype(np.float64)
    largest = np.abs(xyzw).argmax(1)
    xyzw *= np.where(np.take_along_axis(xyzw, largest[:, None], 1) < 0, -1, 1)
    packed = largest.astype(np.uint32)
    for axis in range(4):
        magnitude = np.round(np.abs(xyzw[:, axis]) * np.sqrt(2) * 511).clip(0, 511).astype(np.uint32)
        code = magnitude | ((xyzw[:, axis] < 0).astype(np.uint32) << 9)
        packed = np.where(axis == largest, packed, (packed << np.uint32(10)) | code)
    return packed.astype("<u4")
