"""Shards of random numbers, written with the project's own writer: what pipeline and loop need, without models."""

import json
from pathlib import Path

import numpy as np

from mvp4d.core.files import checksum
from mvp4d_jax.data.shards import FORMAT, MANIFEST, VERSION, Scene, ShardWriter
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import resolve

PHOTOS = 2  # painted ones: the first view's first image and the second view's last
CONDITIONING = resolve(load_config("tiny")).conditioning


def write_shards(
    folder: Path,
    *,
    config: str = "tiny",
    scenes: int = 3,
    views: int = 4,
    windows: int = 2,
    images: int = 3,
    latents: int = 3,
    image_size: int = 32,
    variants: int = 1,
    photos: bool = False,
    autoencoder: str = "none",
    seed: int = 0,
) -> Path:
    """`scenes` captures in two files, for a config; a record's first latent value tells which record it is.

    `photos`: the painted ones stand as references of their own, too."""
    plan = resolve(load_config(config))
    channels, maps = plan.autoencoder.latent_channels, plan.conditioning.channels
    painted = plan.conditioning.parts["painted"]
    size = image_size // plan.autoencoder.spatial_compression_ratio
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    files, listed, serial = [], [], 0
    half = (scenes + 1) // 2
    for index, part in enumerate([range(half), range(half, scenes)]):
        name = f"shard-{index:05d}.array_record"
        writer = ShardWriter(folder / name)

        def record(frames: int, shown: int = PHOTOS, writer: ShardWriter = writer) -> int:
            nonlocal serial
            serial += 1
            content = random.normal(size=(frames, size, size, channels)).astype(np.float16)
            content[..., 0, 0, 0] = serial
            drawn = random.normal(size=(frames, size, size, maps)).astype(np.float16)
            arrays = {"latents": content, "conditioning": drawn[..., : painted.start]}
            if plan.conditioning.painted:
                shape = (shown, frames, size, size, painted.stop - painted.start)
                arrays["painted"] = random.uniform(size=shape).astype(np.float16)
            return writer.add(arrays)

        for scene in part:
            turns = np.linalg.qr(random.normal(size=(variants, views, images, 3, 3)))[0]
            singles = np.array([[record(images) for _ in range(views)] for _ in range(variants)])
            listed.append(
                Scene(
                    name=f"scene{scene}",
                    shard=name,
                    views=tuple(f"cam{view}" for view in range(views)),
                    world_rotation=turns.astype(np.float32),
                    frontal_angle=np.tile(np.linspace(0, np.pi, views, dtype=np.float32)[:, None], (1, images)),
                    window_starts=tuple(range(0, 4 * windows, 4)),
                    image_frames=tuple(range(images)),
                    window_records=np.array(
                        [[[record(latents) for _ in range(windows)] for _ in range(views)] for _ in range(variants)]
                    ),
                    image_records=singles,
                    reference_records=singles,
                    painted=np.array([[0, 0], [1, images - 1]] if plan.conditioning.painted else []).reshape(-1, 2),
                    **(
                        {
                            "photo_records": np.array([[record(1, 1) for _ in range(PHOTOS)] for _ in range(variants)]),
                            "photo_rotation": turns[0, 0, :PHOTOS].astype(np.float32),
                        }
                        if photos
                        else {}
                    ),
                )
            )
        writer.close()
        files.append(
            {
                "name": name,
                "bytes": (folder / name).stat().st_size,
                "records": writer.count,
                "sha256": checksum(folder / name),
            }
        )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "head": "builtin",
        "image_size": image_size,
        "latents": latents,
        "frames": plan.autoencoder.frames_of(latents),
        "latent_scale": 1.0,
        "latent_channels": channels,
        "autoencoder": autoencoder,
        "conditioning": plan.conditioning.record,
        "scenes": [scene.as_json() for scene in listed],
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
