"""A small world to sample in: a ball for a head, random weights of the real classes, captures of noise."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from mvp4d.core.cameras.rigs import camera_rig, rig_names
from mvp4d.core.capture import CaptureWriter
from mvp4d.core.files import write_json
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.checkpoint import save_autoencoder, save_transformer
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig

SIZE, FRAMES = 32, 9
NAMES = ("jawOpen", "mouthSmileLeft")


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Compiles without optimisations inside: for programs that run a few times, random weights above all.

    Drawing the weights of a small autoencoder takes 5 s so and 30 s otherwise.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def ball() -> HeadModel:
    """A sphere of 10 cm with two expressions and one joint."""
    rows, columns = 8, 12
    theta = np.linspace(0.05, np.pi - 0.05, rows)[:, None]
    phi = np.arange(columns) * 2 * np.pi / columns
    vertices = 0.1 * np.stack([np.sin(theta) * np.sin(phi), np.cos(theta) + 0 * phi, np.sin(theta) * np.cos(phi)], -1)
    vertices = vertices.reshape(-1, 3).astype(np.float32)
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b = corner[:-1], np.roll(corner, -1, 1)[:-1]
    c, d = corner[1:], np.roll(corner, -1, 1)[1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    # Latitude and longitude as a chart; the last column of quads ends at u = 1, not at the first column's u = 0.
    grid = np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
    a, b, c, d = (grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:])
    face_uvs = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(1, 0, rows))
    count = len(vertices)
    expression = np.random.default_rng(0).normal(scale=0.003, size=(2, count, 3)).astype(np.float32)
    return HeadModel(
        name="ball",
        canonical=vertices,
        template=vertices,
        faces=faces.astype(np.int32),
        uv=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
        face_uvs=face_uvs.astype(np.int32),
        face_parts=np.zeros(len(faces), np.uint8),
        shape_basis=np.zeros((0, count, 3), np.float32),
        expression_basis=expression,
        pose_basis=np.zeros((0, count, 3), np.float32),
        joints=np.zeros((1, 3), np.float32),
        joint_shape_basis=np.zeros((0, 1, 3), np.float32),
        joint_expression_basis=np.zeros((2, 1, 3), np.float32),
        skin_weights=np.ones((count, 1), np.float32),
        landmark_faces=np.zeros(68, np.int32),
        landmark_barycentric=np.full((68, 3), 1 / 3, np.float32),
        shape_names=(),
        expression_names=NAMES,
        joint_names=("root",),
        joint_parents=(-1,),
        part_names=("skin",),
    )


def motion(frames: int = FRAMES) -> Motion:
    """A slow nod with a moving jaw."""
    time = np.linspace(0, 1, frames, dtype=np.float32)
    still = Motion.still(frames, 2)
    return dataclasses.replace(
        still, expression=np.stack([time, 1 - time], 1), rotation=np.stack([0.2 * time, 0 * time, 0 * time], 1)
    )


def write_scene(
    path: Path, views: int = 2, frames: int = FRAMES, size: int = SIZE, seed: int = 1, head: str = "ball"
) -> Path:
    """A capture of noise, its reference at the first view and frame; the ball may go by another head's name."""
    rng = np.random.default_rng(seed)
    cameras = jax.tree.map(lambda array: np.asarray(array)[:, None], camera_rig(f"orbit:360x{views}", (size, size)))
    writer = CaptureWriter(
        path,
        head=dataclasses.replace(ball(), name=head),
        motion=motion(frames),
        cameras=cameras,
        names=rig_names(views),
        image_size=(size, size),
        reference=(rig_names(views)[0], 0),
    )
    with writer:
        for view in range(views):
            for frame in range(frames):
                writer.add(view, frame, rng.integers(0, 255, (size, size, 3), np.uint8), np.full((size, size), 1.0))
    return path


def write_release(folder: Path) -> Path:
    """Random weights: two narrow layers and a narrow autoencoder."""
    conditioning = ConditioningConfig()
    config = TransformerConfig(
        num_layers=2,
        num_heads=2,
        head_dim=16,
        time_embed_dim=32,
        text_dim=0,
        conditioning_channels=conditioning.channels,
    )
    with quick_compilation():
        model = MultiViewTransformer(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    graph, state = nnx.split(model)
    state = jax.tree.map(lambda leaf: leaf + rng.normal(scale=0.05, size=leaf.shape).astype(np.float32), state)
    save_transformer(folder / "transformer", nnx.merge(graph, state), config)
    sizes = AutoencoderConfig(
        block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=2.0
    )
    with quick_compilation():
        save_autoencoder(folder / "vae", VideoAutoencoder(sizes, rngs=nnx.Rngs(1)), sizes)
    write_json(
        folder / "mvp4d.json",
        {
            "head": "ball",
            "image_size": SIZE,
            "views": 2,
            "frames": 5,
            "snr_shift": 1.0,
            "crop_margin": 1.2,
            "latent_scale": 2.0,
            "conditioning": conditioning.record,
        },
    )
    return folder


def clean_of(schedule, x_t, v, timesteps) -> np.ndarray:
    """The clean sample that a v prediction stands for (Salimans and Ho 2022): sqrt(a_t) x_t - sqrt(1 - a_t) v."""
    kept = schedule.alphas_cumprod[np.asarray(timesteps)]
    kept = kept.reshape(*kept.shape, *[1] * (np.ndim(v) - kept.ndim))
    return np.sqrt(kept) * np.asarray(x_t) - np.sqrt(1 - kept) * np.asarray(v)
