"""The demo's page: the picture it began with, the views, the avatar, the measures, the commands."""

from __future__ import annotations

import base64
import html
import json
import shlex
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from PIL import Image

from mvp4d_jax.capture import Capture
from mvp4d_jax.evaluation.report import figure, page, table
from mvp4d_jax.files import atomic_file

Command = tuple[str, str, tuple[str, ...], float]  # name, what, words after `mvp4d`, seconds


def write_demo_report(out: Path, photo: Path | None, commands: list[Command]) -> None:
    """Writes `report.html` from what the stages left in `out`."""
    generated = Capture.open(out / "generated")
    truth = Capture.open(out / "truth") if photo is None else None
    body = [_introduction(photo), "<h2>The picture it began with</h2>", _reference(out, photo, truth),
            "<h2>Generated views</h2>", _views(generated, truth),
            "<h2>The avatar, from all around</h2>", _video(out / "orbit.mp4"), _orbit(out / "orbit.mp4"),
            "<h2>Measures</h2>", _measures(out, truth is not None),
            "<h2>What was run</h2>", _commands(commands), "<h2>Go on from here</h2>", _next_steps(out)]
    with atomic_file(out / "report.html") as temporary:
        temporary.write_text(page("From one picture to a 4D avatar", "".join(body)))


def _introduction(photo: Path | None) -> str:
    who = "a photo" if photo else "a synthetic person from the studio that the weights have never seen"
    return (f"<p>One picture of {who}, a driving motion, and small weights trained on synthetic people on a CPU. They "
            "show that the whole road works and how to measure it; photoreal results need CogVideoX-2B's weights and "
            "real multi-view video (see the README).</p>")


def _reference(out: Path, photo: Path | None, truth: Capture | None) -> str:
    if truth is not None:
        name, frame = truth.reference
        return figure(truth.frame(name, frame), "the reference: all the model sees of this person", 256)
    overlay = out / "fit_overlay.png"
    pictures = [figure(np.asarray(Image.open(photo).convert("RGB")), photo.name, 256)]
    if overlay.is_file():
        pictures.append(figure(np.asarray(Image.open(overlay).convert("RGB")), "the fitted head", 256))
    return "".join(pictures)


def _views(generated: Capture, truth: Capture | None) -> str:
    rows = []
    for frame in np.linspace(0, generated.frame_count - 1, 3).round().astype(int):
        ours = [figure(generated.frame(view, frame), f"{name}, frame {frame}", 120)
                for view, name in enumerate(generated.names)]
        rows.append(f"<div>{''.join(ours)}</div>")
        if truth is not None:
            theirs = [figure(truth.frame(name, frame), "ground truth", 120) for name in generated.names]
            rows.append(f"<div>{''.join(theirs)}</div>")
    return "".join(rows)


def _video(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><video controls loop autoplay muted width="360" src="data:video/mp4;base64,{data}"></video></p>'


def _orbit(path: Path) -> str:
    with imageio.get_reader(path) as reader:
        frames = list(reader)
    chosen = np.linspace(0, len(frames) - 1, 8).round().astype(int)
    return "".join(figure(np.asarray(frames[index]), f"frame {index}", 120) for index in chosen)


def _measures(out: Path, measured: bool) -> str:
    parts = []
    if measured:
        scores = json.loads((out / "evaluation" / "evaluation.json").read_text())
        parts.append("<p>Generated views against ground truth, by angle from the reference "
                     '(all of it: <a href="evaluation/evaluation.html">evaluation.html</a>):</p>')
        parts.append(table([*scores["by_angle"], {"from": "all", **scores["mean"]}],
                           ["from", "to", "views", "psnr", "ssim", "flicker"]))
        parts.append('<p class="note">Left out: ' + html.escape("; ".join(
            f"{name} ({why})" for name, why in scores["left_out"].items())) + "</p>")
    else:
        parts.append("<p>No ground truth exists for a photo: nothing to measure the views against.</p>")
    scores_path = out / "avatar" / "scores.json"
    if scores_path.is_file():
        scores = json.loads(scores_path.read_text())
        parts.append("<p>The avatar against the views it was distilled from:</p><pre>"
                     f"{html.escape(json.dumps(scores, indent=2))}</pre>")
    return "".join(parts)


def _commands(commands: list[Command]) -> str:
    rows = [f"<tr><td>{html.escape(what)}</td><td>{seconds:.0f} s</td></tr><tr><td colspan=2><code>mvp4d "
            f"{html.escape(shlex.join(words))}</code></td></tr>" for _, what, words, seconds in commands]
    return f"<table>{''.join(rows)}</table>"


def _next_steps(out: Path) -> str:
    avatar = out / "avatar"
    steps = [(f"mvp4d view {avatar}", "turn the avatar in the browser, move its sliders"),
             (f"mvp4d export {avatar} --format ply --out head.ply", "a frame for any Gaussian splat viewer"),
             ("mvp4d demo --photo portrait.jpg --out out/me", "your own picture"),
             ("mvp4d train --config small --workdir runs/small", "better weights, on one GPU")]
    items = [f"<li><code>{html.escape(command)}</code>: {what}</li>" for command, what in steps]
    return f"<ul>{''.join(items)}</ul>"
