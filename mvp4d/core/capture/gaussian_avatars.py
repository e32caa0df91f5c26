"""The layout of GaussianAvatars and VHAP, in and out.

`transforms{,_train,_val,_test}.json` (camera-to-world in OpenGL axes), `images/%05d_%02d.png`, `fg_masks/...`,
`flame_param/%05d.npz` and `canonical_flame_param.npz`. Its world is ours: y up, the neutral face looks along +z.

Two things differ. FLAME's `rotation` turns the head about the root joint J, ours about the origin, so
t = translation + J - R J; J moves with identity and expression. And identity is `shape` plus `static_offset` there,
folded into the rig here: on the way out the whole of it is written as `static_offset`, which poses the same vertices
(joints are regressed after the offset is added).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core import images
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.cameras.distortion import read_distortion, undistort
from mvp4d.core.capture import convert, schema, transforms
from mvp4d.core.capture.fit import pad_expression
from mvp4d.core.capture.format import Capture
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, read_npz, write_json
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.outputs import check_folder
from mvp4d.core.progress import say

SPLITS = ("transforms.json", "transforms_train.json", "transforms_val.json", "transforms_test.json")
_SHAPES, _EXPRESSIONS, _VERTICES = 300, 100, 5143  # of flame_param; 5023 of FLAME and 120 of its teeth
_MOUTH = slice(48, 68)  # landmarks of the lips

KIND = "GaussianAvatars folder"


def import_gaussian_avatars(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    head: HeadModel,
    fps: float = 25.0,
    drop_incomplete: bool = False,
    overwrite: bool = False,
) -> Capture:
    """Reads a VHAP export into a capture. Distorted pictures are undistorted; masks are those of `fg_mask_path`, or
    else the pictures' transparency.

    Args:
      head: the FLAME that it was tracked with (`flame:PATH?teeth` where there are static offsets of 5143 vertices).
      fps: frames per second, which the layout does not say.
      drop_incomplete: leave out the timesteps that a camera lacks, instead of refusing.

    Raises:
      UserError: a file is missing or damaged, leads out of the folder and those beside it, or the views do not all have
        every timestep.
    """
    source = convert.check_folder(source)
    if not head.name.startswith("flame"):
        raise UserError("`head`", f"'{head.name}': this layout holds FLAME coefficients", "give flame:PATH?teeth")
    frames, where = _read_transforms(source)
    grid, names = _grid(frames, where, drop_incomplete)

    def file(index: int, field: str) -> Path:
        return transforms.resolve(source, frames[index].get(field), where)

    size = _size(frames[grid[0, 0]], file(grid[0, 0], "file_path"), where)
    cameras, raw = _read_cameras(frames, grid, size, where)
    lenses = {index: read_distortion(frames[index], where) for index in grid.reshape(-1)}
    separate = all("fg_mask_path" in frames[index] for index in grid.reshape(-1))
    masks = separate or images.has_alpha(file(grid[0, 0], "file_path"))
    rig, motion = _read_motion([file(index, "flame_param_path") for index in grid[0]], head, fps)

    def frames_of(view: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        for time, index in enumerate(grid[view]):
            found = images.read_picture(file(index, "file_path"), size=size)
            rgb = found.rgb
            alpha = images.read_mask(file(index, "fg_mask_path"), size=size) if separate else found.alpha
            lens = lenses[index]
            if lens is not None:
                numbers = tuple(float(value) for value in raw[:, view, time])
                rgb = undistort(rgb, lens, *numbers, outside=255)
                alpha = None if alpha is None else undistort(alpha, lens, *numbers, outside=0)
            yield rgb, alpha

    return convert.write_views(
        Path(out),
        frames_of,
        head=rig,
        motion=motion,
        cameras=cameras,
        names=names,
        image_size=size,
        masks=masks,
        source=f"GaussianAvatars folder {source.name}",
        overwrite=overwrite,
    )


def export_gaussian_avatars(capture: Capture, out: str | os.PathLike, *, overwrite: bool = False) -> str:
    """Writes a capture in the GaussianAvatars layout; returns one line on what is lost, or an empty string.

    Held out as VHAP does: the last tenth of the timesteps is `test`, one camera in eight (where there are eight) `val`.
    Only FLAME heads with a jaw get `flame_param/`.
    """
    check_folder(out, KIND, overwrite)
    head, note = capture.head, ""
    flame = (
        head.name.startswith("flame")
        and "jaw" in head.joint_names
        and head.vertex_count >= 5023
        and head.expression_count <= _EXPRESSIONS
    )
    if not flame:
        note = (
            f"no flame_param: head '{head.name}' is not a FLAME with a jaw, whose coefficients this layout holds; "
            "track the pictures with VHAP to get them"
        )
    with atomic_folder(out, overwrite=overwrite, kind=KIND) as folder:
        (folder / "images").mkdir()
        if capture.has_masks:
            (folder / "fg_masks").mkdir()
        entries = _write_pictures(capture, folder, flame)
        if flame:
            note = _write_flame_params(capture, folder)
        for name, chosen in _splits(entries, capture).items():
            shared = {
                key: entries[0][key]
                for key in ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x", "camera_angle_y")
            }
            write_json(
                folder / name,
                {
                    "frames": chosen,
                    **shared,
                    "timestep_indices": sorted({entry["timestep_index"] for entry in chosen}),
                    "camera_indices": sorted({entry["camera_index"] for entry in chosen}),
                },
            )
    return note


def root_translation(head: HeadModel, motion: Motion) -> np.ndarray:
    """[F, 3]: J - R J for the root joint J of each frame; what turning about the root adds to the translation."""
    root = head.joint_names.index("root")
    basis = np.asarray(head.joint_expression_basis, np.float64)[:, root]  # [E, 3]
    joint = np.asarray(head.joints, np.float64)[root] + np.asarray(motion.expression, np.float64) @ basis  # [F, 3]
    return joint - Rotation.from_rotvec(np.asarray(motion.rotation, np.float64)).apply(joint)


def _read_transforms(source: Path) -> tuple[list[dict], Path]:
    paths = (
        [source / SPLITS[0]]
        if (source / SPLITS[0]).is_file()
        else [source / name for name in SPLITS[1:] if (source / name).is_file()]
    )
    if not paths:
        raise UserError(source / SPLITS[0], "no such file")
    return transforms.read_transforms(paths), paths[0]


def _grid(frames: list[dict], where: Path, drop_incomplete: bool) -> tuple[np.ndarray, list[str]]:
    """[V, T] indices into `frames`, and the camera names."""
    cells: dict[tuple[int, int], int] = {}
    identifiers: dict[int, str] = {}
    for index, frame in enumerate(frames):
        camera, time = (_index(frame, name, index, where) for name in ("camera_index", "timestep_index"))
        cells[camera, time] = index
        name = str(frame.get("camera_id", f"{camera:02d}"))
        if identifiers.setdefault(camera, name) != name:
            raise UserError(where, f"camera {camera} has two names, '{identifiers[camera][:40]}' and '{name[:40]}'")
    views, times = sorted({key[0] for key in cells}), sorted({key[1] for key in cells})
    whole = [time for time in times if all((view, time) in cells for view in views)]
    if len(whole) < len(times):
        missing = next((v, t) for v in views for t in times if (v, t) not in cells)
        if not drop_incomplete or not whole:
            raise UserError(
                where,
                f"camera {missing[0]} has no timestep {missing[1]}",
                "a capture needs every timestep of every camera; `drop_incomplete` leaves the others out",
            )
        say(f"{where}: {len(times) - len(whole)} of {len(times)} timesteps are left out, for a camera that lacks them")
    names = schema.clean_names([identifiers[view] for view in views], where)
    return np.array([[cells[view, time] for time in whole] for view in views]), list(names)


def _index(frame: dict, name: str, index: int, where: Path) -> int:
    value = frame.get(name)
    if type(value) is not int or not 0 <= value < schema.MAX_FRAMES:
        raise UserError(where, f"frame {index} lacks '{name}'")
    return value


def _size(frame: dict, picture: Path, where: Path) -> tuple[int, int]:
    """(H, W) that the frame says, or else its picture."""
    if frame.get("h") is None or frame.get("w") is None:
        return images.image_size(picture)
    whole = [int(side) if isinstance(side, float) and side.is_integer() else side for side in (frame["h"], frame["w"])]
    return schema.check_image_size(whole, where)


def _read_cameras(
    frames: list[dict], grid: np.ndarray, size: tuple[int, int], where: Path
) -> tuple[Camera, np.ndarray]:
    """Cameras [V, 1] where they stand still, [V, T] where one moves; and [4, V, T] fx, fy, cx, cy."""
    matrices = np.empty((*grid.shape, 4, 4))
    numbers = np.empty((4, *grid.shape))
    for cell in np.ndindex(grid.shape):
        frame, index = frames[grid[cell]], int(grid[cell])
        matrices[cell] = transforms.matrix(frame, index, where)
        numbers[(slice(None), *cell)] = transforms.intrinsics(frame, size, index, where)
    cameras = Camera(convert.from_opengl(matrices), *numbers)
    if all(np.ptp(array, axis=1).max() == 0 for array in (matrices, *numbers)):
        cameras = cameras[:, :1]
    return schema.check_cameras(cameras, grid.shape[0], grid.shape[1], where), numbers


def _read_motion(paths: list[Path], head: HeadModel, fps: float) -> tuple[HeadModel, Motion]:
    sizes = {"translation": 3, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*sizes, "expr")}
    rig, first, differs = head, {}, False
    for path in paths:
        arrays = read_npz(path, limit=1 << 26)
        schema.require(arrays, (*sizes, "shape", "expr"), path)
        for name in rows:
            row = arrays[name].reshape(-1)
            if row.dtype.kind not in "fiu" or row.size != sizes.get(name, row.size) or row.size > 1000:
                raise UserError(path, f"'{name}' is {row.dtype} {list(arrays[name].shape)}")
            if rows[name] and rows[name][0].shape != row.shape:
                raise UserError(path, f"'{name}' has {row.size} values, in the first file {rows[name][0].size}")
            rows[name].append(row)
        if not first:
            rig, first = _read_identity(arrays, head, path), arrays
        differs = differs or any(
            not np.array_equal(arrays.get(name, ()), first.get(name, ())) for name in ("shape", "static_offset")
        )
    if differs:
        say(f"{paths[0].parent}: identities differ from file to file; that of {paths[0].name} is taken for all")
    stacked = {name: np.stack(values).astype(np.float64) for name, values in rows.items()}
    motion = Motion(
        stacked["expr"],
        stacked["rotation"],
        stacked["translation"],
        stacked["neck_pose"],
        stacked["jaw_pose"],
        stacked["eyes_pose"].reshape(-1, 2, 3),
        fps,
    )
    motion = schema.check_motion(motion, len(paths), None, paths[0].parent)
    motion = pad_expression(motion, rig, paths[0])
    translation = stacked["translation"] + root_translation(rig, motion)
    return rig, dataclasses.replace(motion, translation=translation.astype(np.float32))


def _read_identity(arrays: dict[str, np.ndarray], head: HeadModel, path: Path) -> HeadModel:
    shape = arrays["shape"].reshape(-1)
    if shape.dtype.kind not in "fiu" or not np.isfinite(shape).all():
        raise UserError(path, "'shape' holds values that are not finite numbers")
    if shape.size > head.shape_count and np.abs(shape[head.shape_count :]).max() == 0:
        shape = shape[: head.shape_count]
    rig = head.personalise(shape)
    offset = arrays.get("static_offset")
    if offset is None:
        return rig
    offset = offset.reshape(-1, 3) if offset.size % 3 == 0 else offset
    if (
        offset.ndim != 2
        or offset.shape[0] < head.vertex_count
        or offset.dtype.kind not in "fiu"
        or not np.isfinite(offset).all()
    ):
        raise UserError(
            path,
            f"'static_offset' is {offset.dtype} {list(offset.shape)}, head '{head.name}' has "
            f"{head.vertex_count} vertices",
            "give the FLAME that it was tracked with",
        )
    offset = offset[: head.vertex_count].astype(np.float32)
    # FLAME regresses its joints after the offset is added. The regressor is not part of a rig, so the joints follow as
    # far as shape coefficients explain the offset: wholly for what `export_gaussian_avatars` writes.
    basis = np.asarray(head.shape_basis, np.float64).reshape(head.shape_count, -1)  # [S, N * 3]
    explained = np.linalg.lstsq(basis.T, offset.reshape(-1), rcond=None)[0]
    joints = np.asarray(rig.joints) + np.tensordot(explained, np.asarray(head.joint_shape_basis), 1)
    return dataclasses.replace(rig, template=np.asarray(rig.template) + offset, joints=joints.astype(np.float32))


def _write_pictures(capture: Capture, folder: Path, flame: bool) -> list[dict]:
    height, width = capture.image_size
    entries = []
    for frame in range(capture.frame_count):
        for view, name in enumerate(capture.names):
            camera = capture.camera(view, frame)
            stem = f"{frame:05d}_{view:02d}.png"
            entry = {
                "timestep_index": frame,
                "timestep_index_original": frame,
                "timestep_id": f"{frame:05d}",
                "camera_index": view,
                "camera_id": name,
                "cx": float(camera.cx),
                "cy": float(camera.cy),
                "fl_x": float(camera.fx),
                "fl_y": float(camera.fy),
                "h": height,
                "w": width,
                "camera_angle_x": 2 * math.atan(width / (2 * float(camera.fx))),
                "camera_angle_y": 2 * math.atan(height / (2 * float(camera.fy))),
                "transform_matrix": convert.to_opengl(np.asarray(camera.world_to_camera)).tolist(),
                "file_path": f"images/{stem}",
            }
            images.write_png(folder / "images" / stem, capture.frame(view, frame))
            if capture.has_masks:
                entry["fg_mask_path"] = f"fg_masks/{stem}"
                images.write_png(folder / "fg_masks" / stem, capture.mask(view, frame))
            if flame:
                entry["flame_param_path"] = f"flame_param/{frame:05d}.npz"
            entries.append(entry)
    return entries


def _write_flame_params(capture: Capture, folder: Path) -> str:
    head, motion = capture.head, capture.motion
    offset = np.asarray(head.template, np.float32) - np.asarray(head.canonical, np.float32)
    note = ""
    if head.vertex_count < _VERTICES:
        corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)[_MOUTH]]
        teeth = np.tile(offset[corners].mean((0, 1)), (_VERTICES - head.vertex_count, 1))
        offset = np.concatenate([offset, teeth])
        note = f"the rig has {head.vertex_count} vertices and no teeth: their static_offset is the mean of the lips'"
    elif head.vertex_count > _VERTICES:
        note = f"of the rig's {head.vertex_count} vertices the last {head.vertex_count - _VERTICES} are left out"
    translation = np.asarray(motion.translation, np.float64) - root_translation(head, motion)
    expression = np.pad(np.asarray(motion.expression), ((0, 0), (0, _EXPRESSIONS - head.expression_count)))
    (folder / "flame_param").mkdir()
    fixed = {"shape": np.zeros(_SHAPES, np.float32), "static_offset": offset[None, :_VERTICES]}
    for frame in range(capture.frame_count):
        np.savez(
            folder / "flame_param" / f"{frame:05d}.npz",
            translation=translation[frame, None].astype(np.float32),
            rotation=motion.rotation[frame, None],
            neck_pose=motion.neck[frame, None],
            jaw_pose=motion.jaw[frame, None],
            eyes_pose=np.asarray(motion.eyes)[frame].reshape(1, 6),
            expr=expression[frame, None],
            **fixed,
        )
    rest = np.zeros((1, 3), np.float32)
    # VHAP's canonical pose has its mouth open by 0.3 rad.
    np.savez(
        folder / "canonical_flame_param.npz",
        translation=rest,
        rotation=rest,
        neck_pose=rest,
        jaw_pose=np.array([[0.3, 0, 0]], np.float32),
        eyes_pose=np.zeros((1, 6), np.float32),
        expr=np.zeros((1, _EXPRESSIONS), np.float32),
        **fixed,
    )
    return note


def _splits(entries: list[dict], capture: Capture) -> dict[str, list[dict]]:
    first_test = capture.frame_count - capture.frame_count // 10
    validation = set(range(4, capture.view_count, 8)) if capture.view_count >= 8 else set()
    early = [entry for entry in entries if entry["timestep_index"] < first_test]
    chosen = {
        "transforms.json": entries,
        "transforms_train.json": [entry for entry in early if entry["camera_index"] not in validation],
        "transforms_val.json": [entry for entry in early if entry["camera_index"] in validation],
        "transforms_test.json": [entry for entry in entries if entry["timestep_index"] >= first_test],
    }
    # GaussianAvatars opens all three: an empty one repeats the first training frame.
    return {name: part or chosen["transforms_train.json"][:1] for name, part in chosen.items()}
