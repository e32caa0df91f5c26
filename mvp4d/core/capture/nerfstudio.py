"""nerfstudio's `transforms.json` (its "nerfstudio-data" parser), out."""

from __future__ import annotations

import os

import numpy as np

from mvp4d.core import images
from mvp4d.core.capture import convert
from mvp4d.core.capture.format import Capture
from mvp4d.core.files import atomic_folder, write_json
from mvp4d.core.outputs import check_folder

KIND = "nerfstudio folder"


def export_nerfstudio(capture: Capture, out: str | os.PathLike, *, overwrite: bool = False) -> str:
    """Writes `transforms.json`, `images/` and `masks/`: OpenGL camera-to-world, one entry per view and frame.

    `time` runs from 0 to 1 over the frames, for methods that model motion. Returns one line on what is lost.
    """
    check_folder(out, KIND, overwrite)
    height, width = capture.image_size
    entries = []
    with atomic_folder(out, overwrite=overwrite, kind=KIND) as folder:
        for kind in ("images", "masks") if capture.has_masks else ("images",):
            (folder / kind).mkdir()
        for view, name in enumerate(capture.names):
            for frame in range(capture.frame_count):
                camera = capture.camera(view, frame)
                stem = f"{name}_{frame:05d}.png"
                entry = {
                    "file_path": f"images/{stem}",
                    "fl_x": float(camera.fx),
                    "fl_y": float(camera.fy),
                    "cx": float(camera.cx),
                    "cy": float(camera.cy),
                    "w": width,
                    "h": height,
                    "transform_matrix": np.asarray(convert.to_opengl(camera.world_to_camera)).tolist(),
                    "time": frame / max(capture.frame_count - 1, 1),
                }
                images.write_png(folder / "images" / stem, capture.frame(view, frame))
                if capture.has_masks:
                    entry["mask_path"] = f"masks/{stem}"
                    images.write_png(folder / "masks" / stem, capture.mask(view, frame))
                entries.append(entry)
        write_json(folder / "transforms.json", {"camera_model": "OPENCV", "frames": entries})
    return "the head rig and its motion have no place in this layout and are left out"
