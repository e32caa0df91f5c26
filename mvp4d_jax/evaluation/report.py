"""The evaluation as a page: pictures side by side, plots, tables; one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from mvp4d_jax.capture import Capture
from mvp4d_jax.files import atomic_file

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}
figure{display:inline-block;margin:.3rem;text-align:center}figcaption{font-size:.8rem;color:#555}
img{image-rendering:auto;border:1px solid #eee}.note{color:#666}code{background:#f4f4f4;padding:.1rem .3rem}
"""


def picture(image: np.ndarray, width: int = 160) -> str:
    """An <img> tag with the picture [H, W, 3] (uint8, or float in [0, 1]) inside it."""
    pixels = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f'<img width="{width}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def figure(image: np.ndarray, caption: str, width: int = 160) -> str:
    """A captioned picture."""
    return f"<figure>{picture(image, width)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """A table of dicts; numbers to three figures after the point."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = ["".join(f"<td>{_cell(row.get(column))}</td>" for column in columns) for row in rows]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def plot(points: list[tuple[float, float]], x_label: str, y_label: str, size: tuple[int, int] = (520, 260)) -> str:
    """A scatter plot as inline SVG; points that are not finite are left out."""
    points = [(x, y) for x, y in points if np.isfinite(x) and np.isfinite(y)]
    if not points:
        return '<p class="note">nothing to plot</p>'
    (width, height), margin = size, 45
    xs, ys = np.array(points).T
    x_range, y_range = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (margin + (x - x_range[0]) / (x_range[1] - x_range[0]) * (width - 1.5 * margin),
                height - margin - (y - y_range[0]) / (y_range[1] - y_range[0]) * (height - 1.5 * margin))

    parts = [f'<svg width="{width}" height="{height}" font-size="11" fill="#555">']
    left, bottom = place(x_range[0], y_range[0])
    right, top = place(x_range[1], y_range[1])
    parts.append(f'<path d="M{left},{top} V{bottom} H{right}" fill="none" stroke="#999"/>')
    for value in np.linspace(*x_range, 5):
        x = place(value, 0)[0]
        parts.append(f'<text x="{x:.0f}" y="{bottom + 15:.0f}" text-anchor="middle">{value:.4g}</text>')
    for value in np.linspace(*y_range, 5):
        y = place(0, value)[1] + 4
        parts.append(f'<text x="{left - 6:.0f}" y="{y:.0f}" text-anchor="end">{value:.4g}</text>')
    dots = [place(*point) for point in points]
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2266bb"/>' for x, y in dots]
    parts.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(f'<text x="12" y="{height / 2}" transform="rotate(-90 12 {height / 2})" text-anchor="middle">'
                 f"{html.escape(y_label)}</text></svg>")
    return "".join(parts)


def page(title: str, body: str) -> str:
    """A whole HTML document."""
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>")


def write_report(path: str | os.PathLike, scores: dict[str, Any], capture: Capture, truth: Capture) -> None:
    """Writes the page for what `evaluate` returned."""
    names = [view["name"] for view in scores["views"]]
    middle = scores["frames"] // 2
    rows = [figure(_beside(capture, truth, name, middle), name, 240) for name in names]
    error, true_error = (scores["consistency"][key]["error_px"] for key in ("capture", "truth"))
    columns = ["name", "angle", "psnr", "ssim", "flicker", *(["lpips"] if "lpips" in scores["mean"] else [])]
    body = [
        f"<p>{html.escape(scores['capture'])} against {html.escape(scores['against'])}: {len(names)} views, "
        f"{scores['frames']} frames.</p>",
        "<h2>Measures</h2>", table(scores["views"] + [{"name": "mean", **scores["mean"]}], columns),
        '<p class="note">PSNR in dB, frames equal to the last bit count as 100; SSIM with an 11x11 Gaussian window; '
        "flicker: mean second difference of the residual in time, in 1/255.</p>",
        "<h2>By angle from the reference</h2>",
        table(scores["by_angle"], ["from", "to", "views", "psnr", "ssim"]),
        plot([(view["angle"], view["psnr"]) for view in scores["views"]], "degrees from the reference", "PSNR (dB)"),
        "<h2>Multi-view consistency</h2>",
        f"<p>Reprojection error of SIFT matches: {_cell(error)} px; the truth's own: {_cell(true_error)} px.</p>",
        f"<h2>Pictures (frame {middle}): ours, truth, difference x 4</h2>", *rows,
        "<h2>Left out</h2><ul>",
        *(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in scores["left_out"].items()), "</ul>",
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(page("Evaluation", "".join(body)))


def _beside(capture: Capture, truth: Capture, name: str, frame: int) -> np.ndarray:
    ours = capture.frame(capture.names.index(name), frame)
    theirs = truth.frame(truth.names.index(name), frame)
    difference = np.minimum(np.abs(ours.astype(int) - theirs) * 4, 255).astype(np.uint8)
    return np.concatenate([ours, theirs, 255 - difference], axis=1)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.3f}"
    return html.escape(str(value))


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad
