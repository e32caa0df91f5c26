"""Contact sheets of a head model: views, people, identity modes, expressions, the uv atlas.

    python benchmarks/head_sheet.py --out build/head_sheets [--head builtin] [--size 256]

Plain shading, no texture: the shape is what is to be judged. Writes views.png, people.png, modes.png, expressions.png
and atlas.png.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw

from mvp4d.core.cameras.camera import look_at, perspective
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.rasterize import rasterize, rasterize_screen
from mvp4d_jax.heads.skinning import skin

COLOURS = {
    "lips": (0.72, 0.44, 0.41),
    "nostrils": (0.38, 0.22, 0.18),
    "mouth_inside": (0.27, 0.09, 0.09),
    "gums": (0.72, 0.38, 0.37),
    "upper_teeth": (0.93, 0.90, 0.84),
    "lower_teeth": (0.93, 0.90, 0.84),
    "tongue": (0.72, 0.37, 0.37),
    "sclera": (0.93, 0.92, 0.90),
    "iris": (0.28, 0.38, 0.42),
    "pupil": (0.03, 0.03, 0.03),
    "lashes": (0.10, 0.07, 0.06),
    "lid_lining": (0.77, 0.52, 0.47),
}
SKIN = (0.80, 0.62, 0.52)
SUPERSAMPLING = 2
FACE, WHOLE = (0.0, -0.03, 0.05, 0.20), (0.0, -0.01, 0.01, 0.29)  # centre and height of the picture, metres


def of_corners(raster, values: np.ndarray) -> np.ndarray:
    """Paints per-corner values [T, 3, A] -> [H, W, A]; zero where there is no face."""
    face = np.asarray(raster.face)
    mixed = (values[np.maximum(face, 0)] * np.asarray(raster.barycentric)[..., None]).sum(-2)
    return np.where((face >= 0)[..., None], mixed, 0)


def corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[T, 3, 3] smooth normals at the corners of every triangle."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    flat = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], flat)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return normals[faces]


def picture(head, vertices: np.ndarray, yaw: float, frame: tuple, size: int, pitch: float = 0.0) -> np.ndarray:
    """[size, size, 3] uint8 of one pose seen from `yaw` and `pitch` degrees."""
    target, height = np.array(frame[:3]), frame[3]
    yaw, pitch = np.radians(yaw), np.radians(pitch)
    direction = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    pixels = size * SUPERSAMPLING
    camera = perspective(look_at(target + 1.2 * direction, target), 2 * np.arctan(height / 2 / 1.2), (pixels, pixels))
    raster = rasterize(camera, vertices, head.faces, (pixels, pixels), cull_backfaces=True)
    normals = of_corners(raster, corner_normals(vertices, head.faces))
    normals = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    right, up = np.cross([0, 1, 0], direction), np.cross(direction, np.cross([0, 1, 0], direction))
    key = 0.45 * right + 0.55 * up + 0.75 * direction
    fill = -0.75 * right + 0.10 * up + 0.50 * direction
    key, fill = key / np.linalg.norm(key), fill / np.linalg.norm(fill)
    light = 0.20 + 0.62 * np.clip(normals @ key, 0, 1) + 0.20 * np.clip(normals @ fill, 0, 1)
    palette = np.array([COLOURS.get(name, SKIN) for name in head.part_names])
    face = np.asarray(raster.face)
    image = palette[np.asarray(head.face_parts)[face]] * light[..., None]
    image = np.where((face >= 0)[..., None], image ** (1 / 1.5), 1.0)
    image = image.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean((1, 3))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def labelled(image: np.ndarray, text: str) -> np.ndarray:
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text((4, 3), text, fill=(120, 20, 20))
    return np.asarray(canvas)


def grid(images: list[np.ndarray], columns: int) -> Image.Image:
    while len(images) % columns:
        images.append(np.full_like(images[0], 255))
    rows = [np.concatenate(images[k : k + columns], 1) for k in range(0, len(images), columns)]
    return Image.fromarray(np.concatenate(rows))


def posed(head, weights: dict[str, float], shape: np.ndarray | None = None) -> np.ndarray:
    motion = Motion.still(1, head.expression_count)
    for name, value in weights.items():
        motion.expression[0, head.expression_names.index(name)] = value
    return np.asarray(skin(head, motion, shape))[0]


def views(head, size: int) -> Image.Image:
    rest = posed(head, {})
    bust = (0.0, -0.09, 0.0, 0.50)
    images = [picture(head, rest, yaw, WHOLE, size) for yaw in (0, 30, 60, 90)]
    images += [picture(head, rest, yaw, bust, size) for yaw in (0, 60, 120, 180)]
    images += [
        picture(head, rest, 25, FACE, size),
        picture(head, rest, 0, FACE, size, 30),
        picture(head, rest, 0, FACE, size, -30),
        picture(head, posed(head, {"jawOpen": 1.0}), 15, FACE, size),
    ]
    return grid(images, 4)


def people(head, size: int, count: int = 24) -> Image.Image:
    images = []
    for seed in range(count):
        shape = np.random.default_rng(seed).normal(size=head.shape_count).astype(np.float32)
        person = posed(head, {}, shape)
        images.append(np.concatenate([picture(head, person, yaw, WHOLE, size) for yaw in (0, 50)], 1))
    return grid(images, 4)


def modes(head, size: int) -> Image.Image:
    images = []
    for index, name in enumerate(head.shape_names):
        for amount in (-2.0, 2.0):
            shape = np.zeros(head.shape_count, np.float32)
            shape[index] = amount
            person = posed(head, {}, shape)
            pair = [picture(head, person, yaw, WHOLE, size // 2) for yaw in (0, 50)]
            images.append(labelled(np.concatenate(pair, 1), f"{name} {amount:+.0f}"))
    return grid(images, 8)


def expressions(head, size: int) -> Image.Image:
    images = []
    for name in head.expression_names:
        weights = {name: 1.0}
        if name == "mouthClose":  # means the lips together while the jaw is open
            weights["jawOpen"] = 1.0
        pose = posed(head, weights)
        pair = [picture(head, pose, yaw, FACE, size) for yaw in (0, 40)]
        images.append(labelled(np.concatenate(pair, 1), " + ".join(weights)))
    return grid(images, 4)


def atlas(head, size: int) -> Image.Image:
    points = np.concatenate([head.uv * [size, -size] + [0, size], np.ones((len(head.uv), 1))], 1)
    raster = rasterize_screen(points.astype(np.float32), head.face_uvs, (size, size))
    face = np.asarray(raster.face)
    palette = np.array([COLOURS.get(name, SKIN) for name in head.part_names])
    image = np.where((face >= 0)[..., None], palette[np.asarray(head.face_parts)[face]], 0.0)
    edge = np.asarray(raster.barycentric).min(-1) < 0.06
    image = np.where((edge & (face >= 0))[..., None], image * 0.6, image)
    return Image.fromarray((image * 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", default="builtin", help="builtin or ict:PATH (default builtin)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the sheets")
    parser.add_argument("--size", type=int, default=256, help="pixels of one picture (default 256)")
    args = parser.parse_args()
    head = load_head(args.head)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, sheet in (("views", views), ("people", people), ("expressions", expressions), ("modes", modes)):
        sheet(head, args.size).save(args.out / f"{name}.png")
        print(args.out / f"{name}.png")
    atlas(head, 1024).save(args.out / "atlas.png")
    print(args.out / "atlas.png")


if __name__ == "__main__":
    main()
