"""A small rig and a small capture of it, made without any head loader."""

from pathlib import Path

import numpy as np

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.capture import CaptureWriter
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion

VIEWS, FRAMES, SIZE, EXPRESSIONS = 3, 4, (12, 10), 5


def make_rig(name: str = "toy", expressions: int = EXPRESSIONS, shapes: int = 0) -> HeadModel:
    """An octahedron that calls itself a head: two joints, random blendshapes."""
    rng = np.random.default_rng(0)
    corners = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32) * 0.1
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]], np.int32)
    joints = 2
    return HeadModel(
        name=name,
        canonical=corners,
        template=corners,
        faces=faces,
        uv=np.zeros((6, 2), np.float32),
        face_uvs=faces,
        face_parts=np.zeros(8, np.uint8),
        shape_basis=rng.normal(0, 0.01, (shapes, 6, 3)).astype(np.float32),
        expression_basis=rng.normal(0, 0.01, (expressions, 6, 3)).astype(np.float32),
        pose_basis=np.zeros((0, 6, 3), np.float32),
        joints=np.zeros((joints, 3), np.float32),
        joint_shape_basis=np.zeros((shapes, joints, 3), np.float32),
        joint_expression_basis=np.zeros((expressions, joints, 3), np.float32),
        skin_weights=np.tile(np.array([[1.0, 0.0]], np.float32), (6, 1)),
        landmark_faces=np.arange(68, dtype=np.int32) % 8,
        landmark_barycentric=np.full((68, 3), 1 / 3, np.float32),
        shape_names=tuple(f"s{i}" for i in range(shapes)),
        expression_names=tuple(f"e{i}" for i in range(expressions)),
        joint_names=("root", "neck"),
        joint_parents=(-1, 0),
        part_names=("skin",),
    )


def make_flame(vertices: int = 5023, shapes: int = 2, expressions: int = 4) -> HeadModel:
    """Random vertices in FLAME's number with FLAME's five joints; each joint is the mean of three vertices."""
    rng = np.random.default_rng(5)
    template = rng.normal(0, 0.1, (vertices, 3)).astype(np.float32)
    shape_basis = rng.normal(0, 0.01, (shapes, vertices, 3)).astype(np.float32)
    expression_basis = rng.normal(0, 0.01, (expressions, vertices, 3)).astype(np.float32)
    regress = lambda points: points[..., :15, :].reshape(*points.shape[:-2], 5, 3, 3).mean(-2)  # noqa: E731
    faces = rng.integers(0, vertices, (100, 3)).astype(np.int32)
    weights = rng.dirichlet(np.ones(5), vertices).astype(np.float32)
    return HeadModel(
        name="flame2023",
        canonical=template,
        template=template,
        faces=faces,
        uv=np.zeros((4, 2), np.float32),
        face_uvs=np.zeros((100, 3), np.int32),
        face_parts=np.zeros(100, np.uint8),
        shape_basis=shape_basis,
        expression_basis=expression_basis,
        pose_basis=np.zeros((0, vertices, 3), np.float32),
        joints=regress(template),
        joint_shape_basis=regress(shape_basis),
        joint_expression_basis=regress(expression_basis),
        skin_weights=weights,
        landmark_faces=np.arange(68, dtype=np.int32),
        landmark_barycentric=np.full((68, 3), 1 / 3, np.float32),
        shape_names=tuple(f"s{i}" for i in range(shapes)),
        expression_names=tuple(f"e{i}" for i in range(expressions)),
        joint_names=("root", "neck", "jaw", "left_eye", "right_eye"),
        joint_parents=(-1, 0, 1, 1, 1),
        part_names=("skin",),
    )


def make_motion(frames: int = FRAMES, expressions: int = EXPRESSIONS, fps: float = 24.0) -> Motion:
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(0, 0.2, shape).astype(np.float32)  # noqa: E731
    return Motion(
        draw(frames, expressions),
        draw(frames, 3),
        draw(frames, 3),
        draw(frames, 3),
        draw(frames, 3),
        draw(frames, 2, 3),
        fps,
    )


def make_cameras(views: int = VIEWS, frames: int = 1) -> Camera:
    """Cameras on a circle of 1 m around the origin, looking at it, each frame a little further on."""
    angles = np.arange(views)[:, None] * 0.7 + np.arange(frames) * 0.05
    matrices = np.zeros((views, frames, 4, 4))
    matrices[..., 3, 3] = 1
    for index in np.ndindex(views, frames):
        position = np.array([np.sin(angles[index]), 0.2, np.cos(angles[index])])
        forward = -position / np.linalg.norm(position)
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])  # rows: x right, y down, z forward
        matrices[index][:3, :3], matrices[index][:3, 3] = rotation, -rotation @ position
    grid = np.ones((views, frames))
    return Camera(matrices, 30.0 * grid, 31.0 * grid, 5.25 * grid, 6.5 * grid)


def make_pixels(views: int = VIEWS, frames: int = FRAMES, size: tuple[int, int] = SIZE):
    rng = np.random.default_rng(2)
    return (
        rng.integers(0, 256, (views, frames, *size, 3), dtype=np.uint8),
        rng.integers(0, 256, (views, frames, *size), dtype=np.uint8),
    )


def write_capture(
    path: Path,
    *,
    images: str = "png",
    masks: bool = True,
    moving: bool = False,
    head: HeadModel | None = None,
    motion: Motion | None = None,
    size: tuple[int, int] = SIZE,
    **options,
) -> Path:
    """Writes the small capture; returns its path."""
    motion = make_motion() if motion is None else motion
    frames = motion.frame_count
    names = [f"cam{view}" for view in range(VIEWS)]
    rgb, alpha = make_pixels(VIEWS, frames, size)
    cameras = make_cameras(VIEWS, frames if moving else 1)
    with CaptureWriter(
        path,
        head=head or make_rig(),
        motion=motion,
        cameras=cameras,
        names=names,
        image_size=size,
        masks=masks,
        images=images,
        **options,
    ) as writer:
        for view in range(VIEWS):
            for frame in range(frames):
                writer.add(view, frame, rgb[view, frame], alpha[view, frame] if masks else None)
    return path
