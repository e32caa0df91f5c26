"""The evaluation as a page: pictures side by side, plots, tables; one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvp4d.core.capture import Capture
from mvp4d.core.files import atomic_file

MEASURES = [("psnr", "PSNR (dB)"), ("ssim", "SSIM")]
STYLE = """
body{font:15px/1.55 system-ui,-apple-system,sans-serif;margin:2.2rem auto 4rem;max-width:1120px;padding:0 1.2rem;
  color:#1f2328}
h1{font-size:1.75rem;margin-bottom:.3rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:1rem;border-top:1px solid #e4e6ea}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.3rem .8rem;border-bottom:1px solid #e4e6ea;text-align:right}
th{font-weight:600}
th:first-child,td:first-child{text-align:left;white-space:nowrap}
td.best{font-weight:700;color:#0b6b35}
th.group{text-align:center}
figure{display:inline-block;margin:.3rem 1rem .3rem 0;text-align:center;vertical-align:top}
figcaption,.note{font-size:.85rem;color:#5b636d}
figcaption{max-width:300px;margin:.2rem auto 0}
img,video{border:1px solid #e4e6ea;border-radius:4px;background:#fff;vertical-align:top}
.pictures td,.pictures th{border:0;padding:1px;text-align:center;font-weight:400;font-size:.85rem;color:#5b636d}
.pictures td:first-child{text-align:right;padding-right:.6rem;white-space:nowrap}
.pictures img{display:block}
code,pre{background:#f4f5f7;border-radius:4px;font-size:.85rem}
code{padding:.1rem .3rem}
pre{padding:.7rem .9rem;overflow-x:auto}
.scroll{overflow-x:auto}
.bar{display:inline-block;height:.7rem;background:#4a7dbd;border-radius:2px;vertical-align:middle}
"""


def picture(image: np.ndarray, width: int = 160, alt: str = "") -> str:
    """An <img> tag with the picture [H, W, 3] (uint8, or float in [0, 1]) inside it, `width` pixels wide, and what it
    shows in words."""
    pixels = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    height = round(pixels.shape[0] * width / pixels.shape[1])
    drawn = Image.fromarray(pixels)
    if width > drawn.width:  # browsers enlarge with bilinear blur
        drawn = drawn.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return (
        f'<img width="{width}" height="{height}" alt="{html.escape(alt)}" '
        f'src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def figure(image: np.ndarray, caption: str, width: int = 160) -> str:
    """A captioned picture."""
    return f"<figure>{picture(image, width, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def pictures(rows: list[tuple[str, list[np.ndarray]]], headings: list[str], width: int) -> str:
    """Rows of pictures under headings, each row with a label."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    lines = [
        f"<tr><td>{html.escape(label)}</td>"
        + "".join(
            f"<td>{picture(image, width, ', '.join(filter(None, (label, heading))))}</td>"
            for image, heading in zip(images, headings)
        )
        + "</tr>"
        for label, images in rows
    ]
    return f'<div class="scroll"><table class="pictures"><tr><td></td>{head}</tr>{"".join(lines)}</table></div>'


def compare(rows: list[tuple[str, dict[str, dict[str, float]]]], measures: list[tuple[str, str]]) -> str:
    """A table of competitors, one group of columns per measure, the best of each row and measure marked.

    Args:
      rows: (label, {competitor: {measure: value}}), the same competitors in every row.
      measures: (key, heading) of measures of which more is better.
    """
    names = list(rows[0][1])
    top = "".join(f'<th colspan="{len(names)}" class="group">{html.escape(heading)}</th>' for _, heading in measures)
    head = "".join(f"<th>{html.escape(name)}</th>" for _ in measures for name in names)
    lines = []
    for label, values in rows:
        cells = [f"<td>{html.escape(label)}</td>"]
        for key, _ in measures:
            best = max(values[name][key] for name in names)
            digits = 2 if key == "psnr" else 3
            cells += [
                f"<td{' class=best' * (values[name][key] == best)}>{values[name][key]:.{digits}f}</td>"
                for name in names
            ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><tr><th></th>{top}</tr><tr><th></th>{head}</tr>{"".join(lines)}</table></div>'


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
        return (
            margin + (x - x_range[0]) / (x_range[1] - x_range[0]) * (width - 1.5 * margin),
            height - margin - (y - y_range[0]) / (y_range[1] - y_range[0]) * (height - 1.5 * margin),
        )

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
    parts.append(
        f'<text x="12" y="{height / 2}" transform="rotate(-90 12 {height / 2})" text-anchor="middle">'
        f"{html.escape(y_label)}</text></svg>"
    )
    return "".join(parts)


def write_page(path: str | os.PathLike, title: str, body: str) -> None:
    """Writes a whole HTML document; bytes of a file's name that are no text become question marks."""
    Path(path).write_text(_page(title, body), encoding="utf-8", errors="replace")


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="generator" content="mvp4d">'
        f"<title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>"
    )


def write_report(path: str | os.PathLike, scores: dict[str, Any], capture: Capture, truth: Capture) -> None:
    """Writes the page for what `evaluate` returned."""
    names = [view["name"] for view in scores["views"]]
    middle = scores["frames"] // 2
    rows = [figure(_beside(capture, truth, name, middle), name, 240) for name in names]
    error, true_error = (scores["consistency"][key]["error_px"] for key in ("capture", "truth"))
    more = [name for name in ("lpips", "csim", "jod") if name in scores["mean"]]
    columns = ["name", "angle", "psnr", "ssim", "flicker", *more]
    body = [
        f"<p>{html.escape(scores['capture'])} against {html.escape(scores['against'])}: {len(names)} views, "
        f"{scores['frames']} frames.</p>",
        "<h2>Measures</h2>",
        table(scores["views"] + [{"name": "mean", **scores["mean"]}], columns),
        '<p class="note">PSNR in dB, frames equal to the last bit count as 100; SSIM with an 11x11 Gaussian window; '
        "flicker: mean second difference of the residual in time, in 1/255; csim: cosine of dlib's face descriptors; "
        "jod: FovVideoVDP, 10 is no visible difference.</p>",
        "<h2>By angle from the reference</h2>",
        table(scores["by_angle"], ["from", "to", "views", "psnr", "ssim", *more]),
        plot([(view["angle"], view["psnr"]) for view in scores["views"]], "degrees from the reference", "PSNR (dB)"),
        *_baselines(scores),
        "<h2>Multi-view consistency</h2>",
        f"<p>Reprojection error of SIFT matches: {_cell(error)} px; the truth's own: {_cell(true_error)} px.</p>",
        f"<h2>Pictures (frame {middle}): ours, truth, difference x 4</h2>",
        *rows,
        "<h2>Left out</h2><ul>",
        *(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in scores["left_out"].items()),
        "</ul>",
    ]
    with atomic_file(path) as temporary:
        write_page(temporary, "Evaluation", "".join(body))


def _baselines(scores: dict[str, Any]) -> list[str]:
    """The measures beside those of the baselines, where they were made."""
    if "baselines" not in scores:
        return []
    competitors = {"this capture": scores, **scores["baselines"]}
    return [
        "<h2>Beside what any model must beat</h2>",
        compare(by_ring(competitors), MEASURES),
        '<p class="note">repeat: the reference image everywhere; project: the reference painted onto the head\'s '
        "mesh, mirrored where unseen, filled behind.</p>",
    ]


def by_ring(competitors: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """Rows for `compare`: all views, then rings of angle, of competitors with "mean" and "by_angle" as `evaluate`'s."""
    rows = [("all views", {name: scores["mean"] for name, scores in competitors.items()})]
    first = next(iter(competitors.values()))
    for index, ring in enumerate(first["by_angle"]):
        label = f"{ring['from']} to {ring['to']} degrees ({ring['views']} view{'s' if ring['views'] > 1 else ''})"
        rows.append((label, {name: scores["by_angle"][index] for name, scores in competitors.items()}))
    return rows


def _beside(capture: Capture, truth: Capture, name: str, frame: int) -> np.ndarray:
    ours = capture.frame(capture.names.index(name), frame)
    theirs = truth.frame(truth.names.index(name), frame)
    difference = np.minimum(np.abs(ours.astype(int) - theirs) * 4, 255).astype(np.uint8)
    return np.concatenate([ours, theirs, 255 - difference], axis=1)


def _cell(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else html.escape(str(value))


def number(value: float | None, digits: int = 3) -> str:
    """A measure in words; what was not measured (NaN, or null of a JSON file) is a dash."""
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad
