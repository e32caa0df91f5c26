"""`glb`: one frame as glTF 2.0 with KHR_gaussian_splatting.

glTF's world is ours (x right, y up, z towards the viewer of a frontal face), so that nothing is turned. Scales and
opacities are linear, rotations xyzw; viewers that do not know the extension show COLOR_0 points.
https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting
"""

from __future__ import annotations

import numpy as np
from torch.nn.functional import normalize

from mvp4d.core.files import atomic_file
from mvp4d_export.avatar import Splats
from mvp4d_export.formats import Job
from mvp4d_export.formats.frames import degree_of, frame_splats, host
from mvp4d_export.formats.gltf import Buffer
from mvp4d_export.harmonics import colour_of_sh

EXTENSION = "KHR_gaussian_splatting"
_SETTINGS = {
    "kernel": "ellipse",
    "colorSpace": "srgb_rec709_display",
    "projection": "perspective",
    "sortingMethod": "cameraDistance",
}


def write(job: Job) -> str:
    splats = frame_splats(job)
    buffer = Buffer()
    primitive = {"mode": 0, "attributes": attributes(splats, buffer), "extensions": {EXTENSION: _SETTINGS}}
    data = buffer.file(
        {
            "extensionsUsed": [EXTENSION],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": "avatar"}],
            "meshes": [{"primitives": [primitive]}],
        }
    )
    with atomic_file(job.out) as temporary:
        temporary.write_bytes(data)
    return f"{job.out}: {len(splats.means)} Gaussians of frame {job.frame}"


def attributes(splats: Splats, buffer: Buffer) -> dict[str, int]:
    """Accessors of the Gaussians by attribute name."""
    harmonics = host(splats.harmonics)  # [G, K, 3]
    colour = np.concatenate((colour_of_sh(harmonics[:, 0]), host(splats.opacities)[:, None]), 1)
    result = {
        "POSITION": buffer.add(host(splats.means), bounds=True),
        "COLOR_0": buffer.add((colour.clip(0, 1) * 255).round().astype(np.uint8), normalized=True),
        f"{EXTENSION}:ROTATION": buffer.add(host(normalize(splats.quaternions, dim=-1))[:, [1, 2, 3, 0]]),
        f"{EXTENSION}:SCALE": buffer.add(host(splats.scales)),
        f"{EXTENSION}:OPACITY": buffer.add(host(splats.opacities)),
    }
    for degree in range(degree_of(splats) + 1):
        for index in range(2 * degree + 1):
            band = np.ascontiguousarray(harmonics[:, degree**2 + index])
            result[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index}"] = buffer.add(band)
    return result
