"""The honest measure: test identities of the studio, unseen motions, the model against ground truth and two baselines.

    python benchmarks/closed_loop.py                            # 20 identities: tables, docs/images/closed_loop.jpg
    python benchmarks/closed_loop.py --avatars 3                # and avatars distilled from the views of three of them
    python benchmarks/closed_loop.py --identities 6 --guidance 1 1.5 2 --steps 12 24 --group 4 8    # which settings?
    python benchmarks/closed_loop.py --weights tiny_128 --jod    # and FovVideoVDP (pip install pyfvvdp)
    python benchmarks/closed_loop.py --people 11000 11029        # these two people

Every identity is filmed by 8 cameras over 360 degrees; the reference is one picture from within 30 degrees of the
front, at another moment. "repeat" shows the reference everywhere; "project" paints it onto the head's mesh (the true
one), mirrored where unseen. Rings of angle are measured from the reference, in the head's axes. An avatar is fitted to
the generated views (`mvp4d distill --preset cpu`) and rendered through their cameras. The first of several settings is
the one on the contact sheet and in the avatars. "detail" is the amplitude at 0.18 to 0.48 cycles a pixel over truth's,
JOD FovVideoVDP's of the five front views at three times their size on a display of its "standard_fhd" (10 is equal;
not measured of the baselines). Settings that are not given are the weights' own. With --json a run that was stopped
goes on at the first person that its file lacks; the contact sheet then shows the people of the last run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mvp4d.core.cameras.camera import FIELDS, Camera, look_at, perspective
from mvp4d.core.cameras.rigs import DISTANCE, FOV_DEGREES, HEAD_CENTRE, camera_rig, direction, rig_names
from mvp4d.core.capture import Capture, CaptureWriter
from mvp4d_jax.evaluation.evaluate import baseline_pictures, reference_angles, score_view
from mvp4d_jax.evaluation.metrics import detail_ratio
from mvp4d_jax.parallel import make_mesh
from mvp4d_jax.release import load_release
from mvp4d_jax.sampling.denoise import DenoiseOptions
from mvp4d_jax.sampling.finish import Finishing
from mvp4d_jax.sampling.generate import Generator, SamplingInputs
from mvp4d_jax.sampling.inputs import portrait_of_capture
from mvp4d_jax.sampling.plan import make_plan
from mvp4d_jax.studio.studio import Studio

FIRST_TEST_IDENTITY = 11_000
VIEWS, FRAMES = 8, 9
REFERENCE_SPREAD = np.radians(30)
RINGS = ((0, 180.1), (0, 60), (60, 120), (120, 180.1))
SHOWN = 5  # identities on the contact sheet
FRONT = (6, 7, 0, 1, 2)  # views within 90 degrees of the front
ENLARGE = 3  # as the demo shows pictures; JOD is of what a viewer sees
Setting = tuple[float, int, int, str]  # guidance, steps, views per sequence, method


def film(identity: int, size: int, folder: Path, frames: int = FRAMES) -> Capture:
    """Ground truth of one identity: 8 views all around, and the reference camera, whose last frame is the reference."""
    studio = Studio(identity)
    motion = studio.motion(frames + 1)
    azimuth = np.random.default_rng([identity, 77]).uniform(-REFERENCE_SPREAD, REFERENCE_SPREAD)
    target = np.asarray(HEAD_CENTRE)
    matrix = look_at(target + DISTANCE * direction(azimuth, 0.0), target)
    one = perspective(matrix, np.radians(FOV_DEGREES), (size, size))
    rig = camera_rig(f"orbit:360x{VIEWS}", (size, size))
    cameras = Camera(
        **{name: np.concatenate([getattr(rig, name), np.asarray(getattr(one, name))[None]])[:, None] for name in FIELDS}
    )
    writer = CaptureWriter(
        folder / f"{identity}",
        head=studio.head,
        motion=motion,
        cameras=cameras,
        names=[*rig_names(VIEWS), "reference"],
        image_size=(size, size),
        masks=True,
        reference=("reference", frames),
        source="mvp4d studio",
    )
    with writer:
        for view, frame, rgb, alpha in studio.stream(motion, cameras, size):
            writer.add(view, frame, rgb, alpha)
    return Capture.open(folder / f"{identity}")


def generate(
    generator: Generator, truth: Capture, identity: int, setting: Setting, anchors: int, out: Path, finishing: Finishing
) -> Capture:
    """The model's capture for one identity."""
    facts, (guidance, steps, group, method) = generator.release.facts, setting
    source = portrait_of_capture(truth)
    reference = generator.reference(source)
    plan = make_plan(
        views=VIEWS,
        frames=FRAMES,
        latent_size=facts.latent_size,
        trained_views=group,
        anchors=anchors,
        window_frames=facts.frames,
        steps=steps,
        guidance_scale=guidance,
        seed=identity,
        stride=facts.conditioning.temporal_stride,
    )
    inputs = SamplingInputs(
        reference,
        truth.head,
        truth.motion[slice(0, FRAMES)],
        truth.cameras[:VIEWS],
        tuple(rig_names(VIEWS)),
        portrait=source,
        finishing=finishing,
    )
    return generator.run(plan, inputs, DenoiseOptions(method, snr_shift=facts.snr_shift), out, f"{identity} {setting}")


def avatar_pictures(capture: Capture, folder: Path) -> np.ndarray:
    """[V, F, H, W, 3] in [0, 1]: an avatar fitted to a capture, through the capture's own cameras."""
    size = str(capture.image_size[0])
    _mvp4d("distill", capture.path, "--preset", "cpu", "--out", folder / "avatar", "--overwrite")
    _mvp4d(
        "render",
        folder / "avatar",
        "--motion",
        capture.path,
        "--cameras",
        f"file:{capture.path / 'cameras.npz'}",
        "--each-view",
        "--size",
        size,
        "--out",
        folder / "views",
        "--overwrite",
    )
    return np.stack(
        [
            [
                np.asarray(Image.open(folder / f"views_{view:02d}" / f"{frame:05d}.png").convert("RGB"))
                for frame in range(FRAMES)
            ]
            for view in range(VIEWS)
        ]
    ) / np.float32(255)


def _mvp4d(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "mvp4d.cli", *map(str, words)], check=True, capture_output=True)


def frames_of(capture: Capture, frames: int = FRAMES) -> np.ndarray:
    """[V, F, H, W, 3] float32 in [0, 1] of the eight views."""
    return np.stack(
        [capture.frames(capture.names.index(name), slice(0, frames)) for name in rig_names(VIEWS)]
    ) / np.float32(255)


def jod(frames: np.ndarray, truth: np.ndarray, fps: float) -> float:
    """FovVideoVDP's mean quality in JOD of the five front views, [V, F, H, W, 3] in [0, 1]; 10 is equal."""
    import pyfvvdp
    import torch

    measure = pyfvvdp.fvvdp(display_name="standard_fhd", device=torch.device("cpu"), quiet=True)

    def enlarged(video: np.ndarray) -> torch.Tensor:  # [F, H, W, 3] -> [1, 3, F, 3 H, 3 W]
        pictures = torch.from_numpy(np.ascontiguousarray(video.transpose(0, 3, 1, 2)))
        larger = torch.nn.functional.interpolate(pictures, scale_factor=ENLARGE, mode="bicubic", antialias=False)
        return larger.clamp(0, 1).permute(1, 0, 2, 3)[None]

    return float(
        np.mean(
            [
                float(
                    measure.predict(
                        enlarged(frames[view]), enlarged(truth[view]), dim_order="BCFHW", frames_per_second=fps
                    )[0]
                )
                for view in FRONT
            ]
        )
    )


def measures(records: list[dict], scores: list[dict], methods: list[str]) -> str:
    """PSNR, SSIM, JOD, detail and flicker, a line each method: means over people."""
    names = [
        name for name in ("psnr", "ssim", "jod", "detail", "flicker", "seconds") if name in {*scores[0], *records[0]}
    ]
    lines = ["| | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for method in methods:
        rows = [row for row in (*records, *scores) if row["method"] == method]
        means = {name: np.mean([row[name] for row in rows if name in row] or [np.nan]) for name in names}
        lines.append(f"| {method} | " + " | ".join(f"{means[name]:.3f}" for name in names) + " |")
    return "\n".join(lines)


def table(records: list[dict], methods: list[str]) -> str:
    """Mean PSNR and SSIM by method, over all views and by ring."""
    lines = [
        "| views | " + " | ".join(f"{method} PSNR / SSIM" for method in methods) + " |",
        "| --- " * (len(methods) + 1) + "|",
    ]
    for low, high in RINGS:
        cells = []
        for method in methods:
            chosen = [record for record in records if record["method"] == method and low <= record["angle"] < high]
            cells.append(f"{np.mean([r['psnr'] for r in chosen]):.2f} / {np.mean([r['ssim'] for r in chosen]):.3f}")
        name = "all 360 degrees" if high - low > 180 else f"{low:.0f} to {min(high, 180):.0f} degrees"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def label(setting: Setting) -> str:
    guidance, steps, group, method = setting
    return f"guidance {guidance:g}, {steps} steps of {method}, groups of {group}"


def sheet(rows: list[tuple[np.ndarray, dict[str, np.ndarray]]], path: Path, enlarge: int = 2) -> None:
    """Contact sheet: per identity the reference, then truth and each method beneath each other, middle frame."""
    pictures = []
    for reference, outputs in rows:
        block = np.concatenate([np.concatenate(list(views[:, FRAMES // 2]), axis=1) for views in outputs.values()])
        left = np.ones((block.shape[0], reference.shape[1], 3))
        left[: reference.shape[0]] = reference
        pictures.append(np.concatenate([left, block], axis=1))
    picture = (np.clip(np.concatenate(pictures), 0, 1) * 255 + 0.5).astype(np.uint8)
    larger = (picture.shape[1] * enlarge, picture.shape[0] * enlarge)
    image = Image.fromarray(picture).resize(larger, Image.Resampling.LANCZOS)
    draw, side, line = ImageDraw.Draw(image), rows[0][0].shape[0] * enlarge, 0
    for _, outputs in rows:
        for name in outputs:
            draw.text((6, (line + 1) * side - 16), "reference, truth" if name == "truth" else name, fill=(90, 90, 90))
            line += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=88)


def read_earlier(path: Path, weights: str, methods: list[str]) -> tuple[list[dict], list[dict]]:
    """Rows of the views and of the people that an earlier run of the same weights and settings left in its file."""
    if not path.exists():
        return [], []
    rows = json.loads(path.read_text())
    measured = {row["method"] for row in rows["people"]} - {"avatar", "repeat", "project"}
    if rows["weights"] != weights or measured - set(methods) or set(methods) - measured:
        sys.exit(f"{path}: of {rows['weights']}, {', '.join(sorted(measured))}; move it away to measure others")
    return rows["views"], rows["people"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--identities", type=int, default=20, help="how many people, from 11000 on")
    parser.add_argument("--people", type=int, nargs="+", help="their numbers, instead")
    parser.add_argument("--guidance", type=float, nargs="+", help="scales; 1 is off")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--method", nargs="+", help="dpm, ddim")
    parser.add_argument("--group", type=int, nargs="+", default=[VIEWS], help="views per sequence")
    parser.add_argument("--anchors", type=int, help="views in every sequence, of several (default: the weights' own)")
    parser.add_argument("--photo-detail", action=argparse.BooleanOptionalAction, help="default: the weights' own")
    parser.add_argument("--temporal-filter", action=argparse.BooleanOptionalAction, help="likewise")
    parser.add_argument("--hair-colour", action=argparse.BooleanOptionalAction, help="likewise")
    parser.add_argument("--avatars", type=int, default=0, help="identities whose avatar is fitted and measured too")
    parser.add_argument("--jod", action="store_true", help="measure FovVideoVDP's JOD, too")
    parser.add_argument("--sheet", type=Path, help="write a picture of everybody here: truth, views, baselines")
    parser.add_argument("--json", type=Path, help="also write every view's numbers here, person by person")
    args = parser.parse_args()
    people = args.people or range(FIRST_TEST_IDENTITY, FIRST_TEST_IDENTITY + args.identities)
    generator = Generator(load_release(args.weights), make_mesh((1, 1, 1)))
    facts = generator.release.facts
    size, own = facts.image_size, facts.sampler
    anchors = own.anchors if args.anchors is None else args.anchors
    finishing = Finishing(
        **{
            name: getattr(own if getattr(args, name) is None else args, name)
            for name in ("photo_detail", "temporal_filter", "hair_colour")
        }
    )
    weights = (
        f"{args.weights}, {'with' if finishing.photo_detail else 'without'} the photo's detail, "
        f"{'' if finishing.temporal_filter else 'not '}filtered in time, "
        f"{'' if finishing.hair_colour else 'not '}with its hair's hue, anchors: {anchors}"
    )
    settings = list(
        itertools.product(
            args.guidance or [own.guidance], args.steps or [own.steps], args.group, args.method or [own.method]
        )
    )
    records, scores = read_earlier(args.json, weights, [*map(label, settings)]) if args.json else ([], [])
    done, rows, began = {row["identity"] for row in scores}, [], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count, identity in enumerate(people):
            started = time.monotonic()
            if identity in done:
                continue
            truth = film(identity, size, folder)
            captures, seconds = {}, {}
            for index, setting in enumerate(settings):
                since = time.monotonic()
                captures[label(setting)] = generate(
                    generator, truth, identity, setting, anchors, folder / f"{identity}-{index}", finishing
                )
                seconds[label(setting)] = time.monotonic() - since
            first = captures[label(settings[0])]
            outputs = {name: frames_of(capture) for name, capture in captures.items()}
            if count < args.avatars:
                outputs["avatar"] = avatar_pictures(first, folder / f"{identity}-avatar")
            baselines = baseline_pictures(truth, rig_names(VIEWS), FRAMES)
            outputs |= baselines
            angles, expected = reference_angles(first, truth), frames_of(truth)
            for method, pictures in outputs.items():
                for view, camera in enumerate(rig_names(VIEWS)):
                    score = score_view(camera, angles[camera], pictures[view], expected[view])
                    records.append(
                        {
                            "identity": identity,
                            "method": method,
                            "angle": score.angle,
                            "psnr": score.psnr,
                            "ssim": score.ssim,
                            "flicker": score.flicker,
                        }
                    )
                of_all = {"identity": identity, "method": method, "detail": detail_ratio(pictures, expected)}
                if method in seconds:
                    of_all["seconds"] = seconds[method]
                if args.jod and method not in baselines:
                    of_all["jod"] = jod(pictures, expected, float(truth.motion.fps))
                scores.append(of_all)
            if args.json:
                args.json.write_text(json.dumps({"weights": weights, "views": records, "people": scores}))
            if len(rows) < SHOWN:
                shown = {"truth": expected, "model": outputs[label(settings[0])]}
                shown |= {method: outputs[method] for method in ("avatar", "project") if method in outputs}
                rows.append((truth.frame(*truth.reference) / 255, shown))
            print(f"identity {identity}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    print(
        f"weights {weights}, {len(people)} identities, {VIEWS} views x {FRAMES} frames, {size} pixels, "
        f"{time.monotonic() - began:.0f} s\n"
    )
    print(measures(records, scores, [*map(label, settings), "repeat", "project"]), end="\n\n")
    print(table(records, [*map(label, settings), "repeat", "project"]))
    if args.avatars:
        fitted = {record["identity"] for record in records if record["method"] == "avatar"}
        print(f"\nThe {len(fitted)} identities whose avatar was fitted to the generated views:\n")
        print(
            table(
                [record for record in records if record["identity"] in fitted],
                [label(settings[0]), "avatar", "repeat", "project"],
            )
        )
    if rows and args.sheet:
        sheet(rows, args.sheet)


if __name__ == "__main__":
    main()
