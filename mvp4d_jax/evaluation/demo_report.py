"""The demo's page: the picture it began with, the views, the avatar, the measures, the commands."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mvp4d.core.cameras.camera import axis_in_head
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import open_person
from mvp4d.core.files import atomic_file
from mvp4d.core.video import SUFFIXES, read_video
from mvp4d_jax.evaluation.evaluate import baseline_pictures, by_angle, mean, reference_axis, score_view
from mvp4d_jax.evaluation.likeness_report import likeness_table, pair_names, pictures_beside
from mvp4d_jax.evaluation.report import MEASURES, by_ring, compare, figure, number, picture, pictures, write_page

Command = tuple[str, str, tuple[str, ...], float]  # name, what, words after `mvp4d`, seconds
WIDTH = 112  # pixels of a picture in a row of eight
NAMES = {"project": "painted mesh", "repeat": "photo repeated"}


def write_demo_report(out: Path, photos: Sequence[Path], commands: list[Command], machine: str) -> None:
    """Writes `report.html` from what the stages left in `out`.

    Args:
      out: the demo's folder.
      photos: the user's pictures or clip; none where it was a test identity, whose ground truth is in `out/truth`.
      commands: what was run; machine: on what, in a few words.
    """
    generated = Capture.open(out / "generated")
    size = generated.image_size[0]
    body = (
        _of_photos(out, generated, photos)
        if photos
        else [
            _introduction("one photo of a synthetic person whom the weights have never seen", size),
            _live(out, _shrunk(out / "generated_reference.png"), "The reference"),
            "<h2>How it came about</h2>",
            _beginning(out),
            *_against_truth(out, generated, Capture.open(out / "truth")),
            "<h2>The avatar, from all around</h2>",
            _orbit(out / "orbit.mp4", 128),
        ]
    )
    body += [
        "<h2>What was run</h2>",
        _commands(commands, machine),
        "<h2>Go on from here</h2>",
        _next_steps(out, photos),
    ]
    with atomic_file(out / "report.html") as temporary:
        write_page(temporary, f"From {how_many(photos)} to a 4D head avatar", "".join(body))


def how_many(photos: Sequence[Path]) -> str:
    """What the demo began with, in words."""
    if _is_clip(photos):
        return "a clip"
    return "one photo" if len(photos) < 2 else f"{len(photos)} photos"


def _is_clip(photos: Sequence[Path]) -> bool:
    return len(photos) == 1 and photos[0].suffix.lower() in SUFFIXES


def _introduction(who: str, size: int) -> str:
    return (
        f"<p>From {html.escape(who)}, the built-in model made eight synchronised videos all around the head; from "
        "these a Gaussian avatar was fitted, which any motion can drive. The built-in weights are tiny and trained on "
        f"synthetic people, here at {size} x {size} pixels: they show how it works and how it is measured. "
        "Photoreal results need CogVideoX's weights and multi-view video of real people (README).</p>"
    )


def _live(out: Path, start: np.ndarray, caption: str) -> str:
    """The picture that it began with, and beside it the avatar's own page."""
    inner = html.escape((out / "avatar.html").read_text(encoding="utf-8"))
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start">'
        + figure(start, caption, 224)
        + '<iframe title="The avatar: turn it, move its face" style="flex:1 1 560px;height:520px;border:1px solid '
        f'#e4e6ea;border-radius:8px" srcdoc="{inner}"></iframe></div>'
        '<p class="note">Live: drag to turn, move the sliders, drop a Live Link Face recording on it. '
        '<a href="avatar.html">The page by itself</a> can be put on any web site.</p>'
    )


def _beginning(out: Path) -> str:
    """The reference and what came of it, side by side."""
    seen = np.asarray(Image.open(out / "generated_reference.png").convert("RGB"))
    return (
        figure(seen, "The reference: all that the model sees of this person", 256)
        + _video(out / "generated.mp4", "Generated: eight views of one performance", 400)
        + _video(out / "orbit.mp4", "The avatar, driven by another performance", 256)
    )


def _of_photos(out: Path, generated: Capture, photos: Sequence[Path]) -> list[str]:
    """Photos beside the avatar, at full size; the avatar in motion; likeness; cut-outs; the generated views."""
    size = generated.image_size[0]
    scores = json.loads((out / "likeness" / "evaluation.json").read_text(encoding="utf-8"))
    who = photos[0].name if len(photos) == 1 else f"{how_many(photos)} of one person"
    person = open_person(out / "person")
    photo = np.uint8(np.rint(255 * person.on_background(person.reference)))
    return [
        _introduction(who, size),
        _live(out, photo, f"The photo, {person.sources[person.reference]}"),
        "<h2>Photo, and the avatar from the same side</h2>",
        pictures_beside(
            scores["photos"],
            [_shrunk(out / "likeness" / name, 4096) for name in pair_names(len(scores["photos"]))],
        ),
        "<p>The photos take part in the fit at their own size; what none of them shows is the model's, "
        f"{size} pixels wide.</p>",
        "<h2>It speaks</h2>",
        _video(
            out / "talk.mp4",
            "Without sound: from the front and 40 degrees to both sides, driven by another performance",
            512,
        ),
        _video(out / "orbit.mp4", "From all around", 512),
        "<h2>From all sides</h2>",
        _orbit(out / "orbit.mp4", 256, 4),
        "<h2>Likeness</h2>",
        likeness_table(scores),
        "<h2>Cut out, and the head fitted</h2>",
        _overlay(out / "person_overlay.png"),
        *_alone(out, generated),
    ]


def _overlay(path: Path) -> str:
    drawn = _shrunk(path, 4096)
    return picture(
        drawn,
        min(1000, drawn.shape[1]),
        "The photo, cut out, and with the fitted head over it; green: landmarks found, red: fitted",
    )


def _shrunk(path: Path, side: int = 768) -> np.ndarray:
    """A picture file, upright, at most `side` pixels a side."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    picture.thumbnail((side, side))
    return np.asarray(picture)


def _against_truth(out: Path, generated: Capture, truth: Capture) -> list[str]:
    """Views, time and measures beside the ground truth."""
    names, frames = list(generated.names), generated.frame_count
    scores = json.loads((out / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    angles = [view["angle"] for view in scores["views"]]
    avatar = np.stack([_png_frames(out / f"avatar_views_{view:02d}", frames) for view in range(len(names))])
    painted = baseline_pictures(truth, names, frames)["project"]
    middle, nearest = frames // 2, int(np.argmin(angles))
    rows = {
        "ground truth": lambda view, frame: truth.frame(names[view], frame),
        "generated": lambda view, frame: generated.frame(view, frame),
        "avatar": lambda view, frame: avatar[view, frame],
        NAMES["project"]: lambda view, frame: painted[view, frame],
    }
    moments = np.linspace(0, frames - 1, 8).round().astype(int)
    around = [(label, [draw(view, middle) for view in range(len(names))]) for label, draw in rows.items()]
    through = [(label, [draw(nearest, frame) for frame in moments]) for label, draw in rows.items()]
    return [
        "<h2>Eight views of one moment</h2>",
        f"<p>Frame {middle}; angles are from the reference view, left and right as in a frontal picture.</p>",
        pictures(around, [bearing(side * angle) for side, angle in zip(_sides(truth, names), angles)], WIDTH),
        "<h2>One view through time</h2>",
        f"<p>The view nearest to the reference, {angles[nearest]:.0f}° away.</p>",
        pictures(through, [f"frame {frame}" for frame in moments], WIDTH),
        "<h2>Measured against the ground truth</h2>",
        _measures(out, scores, avatar, truth),
    ]


def bearing(degrees: float) -> str:
    """From where a view sees the head, of its azimuth: 0°, 45° right (of a frontal picture), 180°, 45° left."""
    turned = (degrees + 180) % 360 - 180
    side = "" if round(abs(turned)) in (0, 180) else " right" if turned > 0 else " left"
    return f"{abs(turned):.0f}°{side}"


def _sides(capture: Capture, names: Sequence[str]) -> np.ndarray:
    """1 for cameras to the right of the reference's, as a frontal picture has it, and -1 for others; at frame 0."""
    axis = reference_axis(capture)
    if axis is None:
        return np.ones(len(names))
    axes = np.stack([axis_in_head(capture.camera(name, 0), capture.motion.rotation[0]) for name in names])
    azimuths = np.arctan2(-axes[:, 0], -axes[:, 2]) - np.arctan2(-axis[0], -axis[2])
    return np.where(np.sin(azimuths) < 0, -1, 1)


def _measures(out: Path, scores: dict[str, Any], avatar: np.ndarray, truth: Capture) -> str:
    """Table of generated views, avatar and baselines, and what it says in words."""
    views = [
        score_view(
            view["name"],
            view["angle"],
            avatar[index] / np.float32(255),
            truth.frames(truth.names.index(view["name"]), slice(avatar.shape[1])) / np.float32(255),
        )
        for index, view in enumerate(scores["views"])
    ]
    competitors = {
        "generated": scores,
        "avatar": {"mean": mean(views), "by_angle": by_angle(views)},
        **{NAMES[name]: scores["baselines"][name] for name in ("project", "repeat")},
    }
    verdicts = []
    for key, name, form in (("psnr", "PSNR", "{:.2f} dB"), ("ssim", "SSIM", "{:.3f}")):
        ours = scores["mean"][key]
        rival = max(("project", "repeat"), key=lambda label: scores["baselines"][label]["mean"][key])
        best = scores["baselines"][rival]["mean"][key]
        verdicts.append(
            f"{'above' if ours > best else 'below'} the better baseline in {name} "
            f"({form.format(ours)} against {form.format(best)}: {NAMES[rival]})"
        )
    consistency = {key: value["error_px"] for key, value in scores["consistency"].items()}
    pixels = {key: "no matches" if value is None else f"{value:.2f} px" for key, value in consistency.items()}
    left_out = ", ".join(scores["left_out"])
    return (
        f"<p>Over all views the generated video is {' and '.join(verdicts)}. The baselines are what any model must "
        "beat: showing the reference everywhere, and painting it onto the head's true mesh, mirrored where it is "
        "not seen.</p>"
        + compare(by_ring(competitors), MEASURES)
        + '<p class="note">Rings of angle from the reference view; the best of a row is marked. Reprojection error '
        f"of SIFT matches between neighbouring views: generated {pixels['capture']}, ground truth "
        f"{pixels['truth']}. Flicker (second difference of the residual in time, in 1/255): "
        f'{number(scores["mean"]["flicker"], 1)}. <a href="evaluation/evaluation.html">Every view and all pictures</a>.'
        f'</p><p class="note">Not measured here, for networks that have to be fetched first: {html.escape(left_out)}. '
        "<code>mvp4d evaluate --help</code> tells how.</p>"
    )


def _alone(out: Path, generated: Capture) -> list[str]:
    """Views and time of a photo: there is no truth to compare with."""
    moments = np.linspace(0, generated.frame_count - 1, 3).round().astype(int)
    count = generated.view_count
    rows = [(f"frame {frame}", [generated.frame(view, frame) for view in range(count)]) for frame in moments]
    headings = [bearing(360 * view / count) for view in range(count)]
    scores = json.loads((out / "avatar" / "report.json").read_text(encoding="utf-8"))["scores"]["fitted"]
    return [
        "<h2>Eight views, three moments</h2>",
        pictures(rows, headings, WIDTH),
        "<p>A photo has no ground truth to measure the views against. The avatar reproduces the views that it was "
        f"fitted to with {scores['psnr']:.1f} dB PSNR and {scores['ssim']:.3f} SSIM.</p>",
    ]


def _video(path: Path, caption: str, width: int) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><video controls loop autoplay muted playsinline width="{width}" '
        f'src="data:video/mp4;base64,{data}"></video><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def _orbit(path: Path, width: int, columns: int = 8) -> str:
    """The frames of the orbit video that are nearest to each eighth of a turn, `columns` in a row, `width` pixels
    wide."""
    frames = list(read_video(path))
    parts = []
    for row in np.arange(8).reshape(-1, columns):
        nearest = [frames[round(len(frames) * eighth / 8) % len(frames)] for eighth in row]
        parts.append(pictures([("", nearest)], [bearing(45 * eighth) for eighth in row], width))
    return "".join(parts)


def _png_frames(folder: Path, count: int) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{frame:05d}.png").convert("RGB")) for frame in range(count)])


def _commands(commands: list[Command], machine: str) -> str:
    total = sum(seconds for *_, seconds in commands)
    longest = max(seconds for *_, seconds in commands)
    rows = [
        f'<tr><td>{html.escape(what)}</td><td>{seconds:.0f} s</td><td style="text-align:left;min-width:160px">'
        f'<span class="bar" style="width:{150 * seconds / longest:.0f}px"></span></td></tr>'
        for _, what, _, seconds in commands
    ]
    lines = "\n".join(f"mvp4d {shlex.join(words)}" for _, _, words, _ in commands)
    return (
        f"<p>{total:.0f} seconds in all, on {html.escape(machine)}.</p><table>{''.join(rows)}</table>"
        f"<p>The same by hand:</p><pre>{html.escape(lines)}</pre>"
    )


def next_steps(out: Path, photos: Sequence[Path]) -> list[tuple[str, str]]:
    """Commands to go on with, as a shell takes them, and what each is for.

    Args:
      photos: the user's, of which the demo was; none for a test identity's.
    """
    avatar, more = shlex.quote(str(out / "avatar")), shlex.quote(f"{out}_more")
    steps = [
        (f"mvp4d view {avatar}", "turn the avatar in the browser, move its sliders"),
        (
            f"mvp4d render {avatar} --motion drive.csv --cameras sway:30 --out driven.mp4",
            "any motion: a fit.npz, a capture, a Live Link Face recording",
        ),
        ("mvp4d speak speech.wav --out talk.npz", "recorded speech becomes a motion that says it"),
        (
            f"mvp4d render {avatar} --motion talk.npz --audio speech.wav --out talk.mp4",
            "the avatar says it, with the sound",
        ),
        (f"mvp4d export {avatar} --motion drive.csv --out me.html", "a page that anyone can open"),
        (f"mvp4d export {avatar} --format ply --out head.ply", "a frame for any Gaussian splat viewer"),
    ]
    if not photos:
        return [
            *steps,
            ("mvp4d demo --photo portrait.jpg --out out/me", "your own photo"),
            (
                "mvp4d prepare captures --config tiny_128 --out shards",
                "shards of captures, to train weights of your own",
            ),
            (
                "mvp4d train --config tiny_128 --config.data.shards=shards --workdir runs/tiny_128",
                "the training, on one GPU (docs/weights.md)",
            ),
        ]
    if len(photos) == 1 and not _is_clip(photos):
        first = shlex.quote(str(photos[0]))
        steps += [
            (
                f"mvp4d demo --photo {first} side.jpg --out {more}",
                "with photos from other sides more of it is the person",
            ),
            (f"mvp4d demo --video clip.mp4 --out {more}", "or with a clip in which the head turns"),
        ]
    return steps


def _next_steps(out: Path, photos: Sequence[Path]) -> str:
    lines = "".join(
        f'<tr><td>{what}</td><td style="text-align:left"><code>{html.escape(command)}</code></td></tr>'
        for command, what in next_steps(out, photos)
    )
    return f"<table>{lines}</table>"
