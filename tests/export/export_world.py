"""A small made-up capture, written with numpy and the rasteriser alone: an egg with expressions, a texture and a wig.

The wig is not part of the rig, and the cheeks bulge with the square of the first expression, which a linear rig cannot
do: what an avatar has to learn beyond its rig.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mvp4d.core.cameras.camera import make_camera
from mvp4d.core.capture import Capture
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, AvatarConfig
from mvp4d_export.cameras import camera_matrices
from mvp4d_export.dataset import Dataset
from mvp4d_export.deformation import NetConfig
from mvp4d_export.initialise import initialise
from mvp4d_export.presets import DistillConfig, preset
from mvp4d_export.rasterize import rasterize
from mvp4d_export.rig import Pose, Rig

EXPRESSIONS = ("jawOpen", "mouthSmile_L", "mouthSmile_R", "browInnerUp")
JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
RADII = np.array([0.075, 0.105, 0.09])


STEPS = 70
FRAME = 3  # of the motion, where one frame is looked at


def small_config(**changes) -> DistillConfig:
    """The cpu preset at the size of the test capture."""
    avatar = AvatarConfig(24, 1, NetConfig((8, 12), 1, 1))
    return dataclasses.replace(
        preset("cpu"),
        **{
            "avatar": avatar,
            "steps": STEPS,
            "frames_per_step": 1,
            "views": 3,
            "start_gaussians": 1600,
            "max_gaussians": 2000,
            "coarse": 0.3,
            "perceptual_fallback": 0.3,
            **changes,
        },
    )


def make_head(rows: int = 24, columns: int = 32) -> HeadModel:
    """An egg with a latitude-longitude chart whose seam runs down the back."""
    latitude, longitude = np.linspace(0.03, 0.97, rows), np.linspace(0, 1, columns + 1)
    v, u = np.meshgrid(latitude, longitude, indexing="ij")
    uv = np.stack([u, v], -1).reshape(-1, 2)
    angle = (u - 0.5) * 2 * np.pi
    height = (v - 0.5) * np.pi
    unit = np.stack([np.sin(angle) * np.cos(height), np.sin(height), np.cos(angle) * np.cos(height)], -1).reshape(-1, 3)
    owner = (np.arange(rows)[:, None] * columns + np.arange(columns + 1) % columns).reshape(-1)  # seam shares vertices
    template = np.zeros((rows * columns, 3))
    template[owner] = unit * RADII
    index = np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    face_uvs = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    count = len(template)
    basis = np.zeros((len(EXPRESSIONS), count, 3))
    for k, (centre, direction) in enumerate(
        [
            ((0, -0.07, 0.06), (0, -0.012, 0.003)),
            ((0.05, -0.03, 0.06), (0.006, 0.008, 0)),
            ((-0.05, -0.03, 0.06), (-0.006, 0.008, 0)),
            ((0, 0.05, 0.07), (0, 0.008, 0)),
        ]
    ):
        near = np.exp(-((template - centre) ** 2).sum(1) / 0.03**2)
        basis[k] = near[:, None] * direction
    weights = np.zeros((count, len(JOINTS)))
    weights[:, 0] = np.clip((-0.06 - template[:, 1]) / 0.03, 0, 1)
    weights[:, 2] = (1 - weights[:, 0]) * np.exp(-((template - (0, -0.07, 0.06)) ** 2).sum(1) / 0.03**2)
    weights[:, 1] = 1 - weights[:, 0] - weights[:, 2]
    return HeadModel.from_rig(
        {
            "name": "egg",
            "template": template.astype(np.float32),
            "faces": owner[face_uvs],
            "uv": uv,
            "face_uvs": face_uvs,
            "face_parts": np.zeros(len(face_uvs), np.uint8),
            "expression_basis": basis,
            "pose_basis": np.zeros((0, count, 3)),
            "joints": np.array(
                [[0, -0.12, 0], [0, -0.09, 0], [0, -0.02, 0.01], [0.03, 0.03, 0.06], [-0.03, 0.03, 0.06]]
            ),
            "joint_expression_basis": np.zeros((len(EXPRESSIONS), 5, 3)),
            "skin_weights": weights,
            "expression_names": EXPRESSIONS,
            "joint_names": JOINTS,
            "joint_parents": [-1, 0, 1, 1, 1],
            "part_names": ["face"],
        },
        "egg",
    )


def make_motion(frames: int, seed: int = 0) -> Motion:
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (len(EXPRESSIONS) + 6,))
    time = np.arange(frames)[:, None] / max(frames, 2) * 2 * np.pi
    waves = np.sin(time * np.arange(1, len(phase) + 1) ** 0.5 + phase).astype(np.float32)
    count = len(EXPRESSIONS)
    return Motion(
        (0.5 + 0.5 * waves[:, :count]),
        0.15 * waves[:, count : count + 3],
        0.01 * waves[:, count + 3 : count + 6],
        np.zeros((frames, 3), np.float32),
        np.abs(waves[:, :1]) * np.array([[0.1, 0, 0]], np.float32),
        np.zeros((frames, 2, 3), np.float32),
        24.0,
    )


def look_at(azimuth: float, elevation: float, distance: float = 0.6) -> np.ndarray:
    """World-to-camera [4, 4] in OpenCV axes of a camera that looks at the origin; azimuth 0 faces the head."""
    position = distance * np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    )
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, down, forward])
    matrix[:3, 3] = -matrix[:3, :3] @ position
    return matrix


def _cloud(head: HeadModel, count: int, rng: np.random.Generator):
    """Random surface points: triangles, barycentrics, colours."""
    corners = head.template[head.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    weights = rng.dirichlet([1, 1, 1], count)
    point = (corners[face] * weights[..., None]).sum(1)
    x, y, z = (point / RADII).T
    colour = np.stack([0.75 + 0.1 * np.sin(14 * x), 0.55 + 0.1 * np.sin(11 * y + 3), 0.45 + 0.1 * np.cos(12 * z)], 1)
    eyes = (np.abs(np.abs(x) - 0.42) < 0.13) & (np.abs(y - 0.25) < 0.08) & (z > 0)
    mouth = (np.abs(x) < 0.35) & (np.abs(y + 0.55) < 0.07) & (z > 0)
    colour[eyes] = (0.15, 0.2, 0.3)
    colour[mouth] = (0.7, 0.2, 0.2)
    hairy = (y > 0.45) | ((z < 0.1) & (y > -0.2))
    normal = point / RADII**2
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return face, weights, colour, hairy, normal


def write_capture(
    folder: Path,
    *,
    views: int = 6,
    frames: int = 6,
    size: int = 48,
    gaussians: int = 9000,
    images: str = "png",
    masks: bool = True,
    seed: int = 0,
    strength: float = 1.0,
    rig_share: float = 1.0,
) -> Path:
    """Writes the capture folder; returns it.

    Expressions are `strength` times the usual ones, of which the rig that is written knows only `rig_share`.
    """
    rng = np.random.default_rng(seed)
    head, motion = make_head(), make_motion(frames, seed)
    head = dataclasses.replace(head, expression_basis=head.expression_basis * np.float32(strength))
    extrinsics = np.stack([look_at(2 * np.pi * view / views, 0.15 * (-1) ** view) for view in range(views)])
    focal = np.full(views, size * 1.75)
    centre = np.full(views, size / 2)
    face, weights, colour, hairy, normal = _cloud(head, gaussians, rng)
    with torch.no_grad():
        posed = Rig(head).world_vertices(Pose.of(motion)).numpy()
    colour = colour + 0.03 * rng.standard_normal(colour.shape)
    colour[hairy] = np.array([0.25, 0.14, 0.08]) * (1 + 0.5 * rng.random((hairy.sum(), 1)))
    lift = np.where(hairy, rng.uniform(0, 0.03, len(face)), 0)
    cheeks = (
        np.exp(
            -((np.abs((head.template[head.faces[face]] * weights[..., None]).sum(1)) - (0.05, 0.03, 0.06)) ** 2).sum(1)
            / 0.02**2
        )
        * ~hairy
    )
    drawn = []
    for frame in range(frames):
        turn = _rotation(motion.rotation[frame])
        points = (posed[frame][head.faces[face]] * weights[..., None]).sum(1)
        bulge = lift + 0.012 * cheeks * motion.expression[frame, 0] ** 2
        points = points + (normal * bulge[:, None]) @ turn.T
        radius = np.full((len(points), 3), 0.0024, np.float32)
        quaternions = np.tile(np.array([1, 0, 0, 0], np.float32), (len(points), 1))
        result = rasterize(
            *(
                torch.from_numpy(np.asarray(a, np.float32))
                for a in (
                    points,
                    quaternions,
                    radius,
                    np.full(len(points), 0.95),
                    colour.clip(0, 1),
                    extrinsics,
                    camera_matrices(make_camera(extrinsics, focal, focal, centre, centre))[1],
                )
            ),
            width=size,
            height=size,
            background=torch.ones(3),
        )
        drawn.append((result.rgb, result.alpha))
    pictures, alphas = (torch.stack(values, 1) for values in zip(*drawn))  # [V, F, ...]
    head = dataclasses.replace(head, expression_basis=head.expression_basis * np.float32(rig_share))
    return save_capture(folder, pictures, alphas if masks else None, extrinsics, focal, motion, head, images=images)


def save_capture(
    folder: Path,
    pictures: torch.Tensor,
    alphas: torch.Tensor | None,
    extrinsics: np.ndarray,
    focal: np.ndarray,
    motion: Motion,
    head: HeadModel,
    *,
    images: str = "png",
) -> Path:
    """Writes pictures [V, F, S, S, 3] and alphas [V, F, S, S] of still cameras [V, 4, 4] as a capture."""
    names = [f"cam{view:02d}" for view in range(len(pictures))]
    size = pictures.shape[2]
    for kind, values in (("images", pictures), ("masks", alphas)):
        for view, name in enumerate(names if values is not None else ()):
            for frame, picture in enumerate(values[view]):
                path = folder / kind / name / f"{frame:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy()).save(path)
    centre = np.full(len(names), size / 2)
    info = {
        "format": "mvp4d-capture",
        "version": 1,
        "fps": motion.fps,
        "frame_count": pictures.shape[1],
        "image_size": [size, size],
        "cameras": names,
        "head": head.name,
        "images": images,
        "masks": alphas is not None,
        "background": [255, 255, 255],
        "reference": None,
        "source": "test",
        "extra": {},
    }
    (folder / "capture.json").write_text(json.dumps(info))
    np.savez(
        folder / "cameras.npz",
        world_to_camera=extrinsics[:, None],
        fx=focal[:, None],
        fy=focal[:, None],
        cx=centre[:, None],
        cy=centre[:, None],
    )
    np.savez(
        folder / "motion.npz",
        **{name: getattr(motion, name) for name in ("expression", "rotation", "translation", "neck", "jaw", "eyes")},
        fps=motion.fps,
    )
    head.save(folder / "head.npz")
    return folder


def _rotation(axis_angle: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(axis_angle)
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def load(path, **options) -> Dataset:
    """A capture's folder as a fit reads it."""
    return Dataset.load(Capture.open(path), **options)


def without_hull(path: Path, size: int) -> tuple[Dataset, Avatar]:
    """One frame of four views, written to a folder, and an avatar that begins with the Gaussians on the rig alone."""
    data = load(write_capture(path, views=4, frames=1, size=size))
    avatar = Avatar(AvatarConfig(24, 0), data.capture.head)
    on_hull = initialise(avatar, data, 3000, 0)
    rig = slice(0, avatar.gaussian_count - on_hull)
    avatar.set_gaussians(avatar.binding[rig], {name: getattr(avatar, name)[rig] for name in GAUSSIAN_TENSORS})
    return data, avatar
