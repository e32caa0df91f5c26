"""The honest measure: test identities of the studio, unseen motions, the model against ground truth and two baselines.

    python benchmarks/closed_loop.py                 # 20 identities, writes docs/images/closed_loop.jpg, prints tables
    python benchmarks/closed_loop.py --identities 2  # a quick look

Every identity is filmed by 8 cameras over 360 degrees; the reference is one picture from within 30 degrees of the
front, at another moment. "repeat" shows the reference everywhere; "project" paints it onto the head's mesh (the true
one), mirrored where unseen. Rings of angle are measured from the reference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mvp4d_jax.evaluation.baselines import project_reference, repeat_reference
from mvp4d_jax.evaluation.metrics import psnr, ssim
from mvp4d_jax.geometry.cameras import FIELDS, Camera, look_at, perspective
from mvp4d_jax.geometry.rigs import DISTANCE, FOV_DEGREES, HEAD_CENTRE, camera_rig, direction, rig_names
from mvp4d_jax.parallel import make_mesh
from mvp4d_jax.sampling.denoise import DenoiseOptions
from mvp4d_jax.sampling.generate import Generator, Shot
from mvp4d_jax.sampling.plan import make_plan
from mvp4d_jax.sampling.release import load_release
from mvp4d_jax.studio.studio import Studio

FIRST_TEST_IDENTITY = 11_000
VIEWS, FRAMES = 8, 9
REFERENCE_SPREAD = np.radians(30)
METHODS = ("model", "repeat", "project")
RINGS = ((0, 60), (60, 120), (120, 180.1))


def reference_camera(rng: np.random.Generator, size: int) -> Camera:
    """One camera within 30 degrees of the front, unbatched."""
    azimuth = rng.uniform(-REFERENCE_SPREAD, REFERENCE_SPREAD)
    target = np.asarray(HEAD_CENTRE)
    matrix = look_at(target + DISTANCE * direction(azimuth, 0.0), target)
    return perspective(matrix, np.radians(FOV_DEGREES), (size, size))


def film(identity: int, size: int) -> dict:
    """Ground truth and reference of one identity."""
    studio = Studio(identity)
    rng = np.random.default_rng([identity, 77])
    motion = studio.motion(FRAMES + 1)
    cameras = camera_rig(f"orbit:360x{VIEWS}", (size, size))
    truth, _ = studio.render(motion[slice(1, None)], cameras, size)
    camera = reference_camera(rng, size)
    batched = Camera(**{name: np.asarray(getattr(camera, name))[None] for name in FIELDS})
    picture, _ = studio.render(motion[slice(0, 1)], batched, size)
    cameras = Camera(**{name: np.asarray(getattr(cameras, name))[:, None] for name in FIELDS})
    return {"head": studio.head, "motion": motion[slice(1, None)], "cameras": cameras, "truth": truth / 255.0,
            "image": picture[0, 0] / np.float32(255), "camera": camera, "reference_motion": motion[slice(0, 1)]}


def generate(generator: Generator, scene: dict, identity: int, args: argparse.Namespace, folder: Path) -> np.ndarray:
    """The model's pictures [V, F, H, W, 3] in [0, 1]."""
    facts = generator.release.facts
    reference = generator.reference(scene["image"], scene["camera"], scene["reference_motion"], scene["head"])
    plan = make_plan(views=VIEWS, frames=FRAMES, latent_size=(facts.image_size // 8,) * 2,
                     trained_views=args.group or VIEWS, window_frames=facts.frames, steps=args.steps,
                     guidance_scale=args.guidance, seed=identity)
    shot = Shot(reference, scene["head"], scene["motion"], scene["cameras"], tuple(rig_names(VIEWS)))
    options = DenoiseOptions(snr_shift=facts.snr_shift)
    capture = generator.run(plan, shot, options, folder / f"{identity}", f"{identity}")
    return np.stack([capture.frames(view) for view in range(VIEWS)]) / 255.0


def angles(scene: dict) -> np.ndarray:
    """[V] degrees between each camera's axis and the reference camera's."""
    axis = np.asarray(scene["camera"].world_to_camera)[2, :3]
    cosines = np.asarray(scene["cameras"].world_to_camera)[:, 0, 2, :3] @ axis
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def table(records: list[dict]) -> str:
    """Mean PSNR and SSIM by method, over all views and by ring."""
    lines = ["| views | " + " | ".join(f"{method} PSNR / SSIM" for method in METHODS) + " |", "| --- " * 4 + "|"]
    for low, high in ((0, 180.1), *RINGS):
        cells = []
        for method in METHODS:
            chosen = [record for record in records if record["method"] == method and low <= record["angle"] < high]
            cells.append(f"{np.mean([r['psnr'] for r in chosen]):.2f} / {np.mean([r['ssim'] for r in chosen]):.3f}")
        name = "all 360 degrees" if high - low > 180 else f"{low:.0f} to {min(high, 180):.0f} degrees"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sheet(rows: list[tuple[np.ndarray, dict]], path: Path, enlarge: int = 2) -> None:
    """Contact sheet: per identity the reference, then truth and each method beneath each other."""
    pictures = []
    for reference, outputs in rows:
        lines = [np.concatenate(list(views[:, FRAMES // 2]), axis=1) for views in outputs.values()]
        block = np.concatenate(lines, axis=0)
        left = np.ones((block.shape[0], reference.shape[1], 3))
        left[: reference.shape[0]] = reference
        pictures.append(np.concatenate([left, block], axis=1))
    picture = (np.clip(np.concatenate(pictures, axis=0), 0, 1) * 255).astype(np.uint8)
    larger = (picture.shape[1] * enlarge, picture.shape[0] * enlarge)
    image = Image.fromarray(picture).resize(larger, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    side = rows[0][0].shape[0] * enlarge
    for block in range(len(rows)):
        for line, name in enumerate(rows[0][1]):
            draw.text((4, (block * len(rows[0][1]) + line + 1) * side - 14), name, fill=(90, 90, 90))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--identities", type=int, default=20)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--group", type=int, help="views per sequence (default: all jointly)")
    parser.add_argument("--sheet", default="docs/images/closed_loop.jpg")
    parser.add_argument("--json", help="also write every view's numbers here")
    args = parser.parse_args()
    release = load_release(args.weights)
    generator, size = Generator(release, make_mesh((1, 1, 1))), release.facts.image_size
    records, rows, began = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for identity in range(FIRST_TEST_IDENTITY, FIRST_TEST_IDENTITY + args.identities):
            scene = film(identity, size)
            outputs = {
                "truth": scene["truth"],
                "model": generate(generator, scene, identity, args, Path(folder)),
                "repeat": repeat_reference(scene["image"], VIEWS, FRAMES),
                "project": project_reference(scene["image"], scene["camera"], scene["reference_motion"], scene["head"],
                                             scene["motion"], scene["cameras"])}
            for method in METHODS:
                for view, angle in enumerate(angles(scene)):
                    records.append({"identity": identity, "method": method, "angle": float(angle),
                                    "psnr": float(psnr(outputs[method][view], scene["truth"][view]).mean()),
                                    "ssim": float(ssim(outputs[method][view], scene["truth"][view]).mean())})
            if len(rows) < 4:
                rows.append((scene["image"], outputs))
    print(f"weights {args.weights}, {args.identities} identities, {VIEWS} views x {FRAMES} frames, {size} pixels, "
          f"{args.steps} steps, guidance {args.guidance}, {time.monotonic() - began:.0f} s\n")
    print(table(records))
    sheet(rows, Path(args.sheet))
    if args.json:
        Path(args.json).write_text(json.dumps(records))


if __name__ == "__main__":
    main()
