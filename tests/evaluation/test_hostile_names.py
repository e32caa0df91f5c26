"""Names with HTML in them (views, photos, files) never become markup in a report."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_world import write_scene

from mvp4d.core.capture import Capture
from mvp4d.core.video import VideoWriter
from mvp4d_jax.evaluation import demo_report
from mvp4d_jax.evaluation.evaluate import evaluate
from mvp4d_jax.evaluation.likeness_report import write_likeness
from mvp4d_jax.evaluation.report import write_report

HOSTILE = "</td></script><img src=x onerror=alert(1)>\"'&lt;{{x}}\udcff"
PLAIN = "front"


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, tuple(sorted(name for name, _ in attributes))))

    def handle_data(self, data):
        self.text += data


def parsed(path):
    parser = _Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def same_markup(write, tmp_path):
    """Writes a report with plain and with hostile names: the tags and attributes must be the same."""
    pages = []
    for name in (PLAIN, HOSTILE):
        (tmp_path / "page.html").unlink(missing_ok=True)
        write(tmp_path / "page.html", name)
        pages.append(parsed(tmp_path / "page.html"))
    assert pages[0].seen == pages[1].seen
    assert HOSTILE.replace("\udcff", "?") in pages[1].text  # shown as it is written


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Capture.open(write_scene(tmp_path_factory.mktemp("scene") / "capture", views=4, frames=2))


def test_an_evaluations_report(scene, tmp_path):
    measured = evaluate(scene, scene, baselines=True)

    def write(path, name):
        scores = copy.deepcopy(measured)
        scores["capture"] = scores["against"] = name
        scores["left_out"] = {name: name}
        for view in scores["views"]:
            view["name"] = name + view["name"]
        names = [name + camera for camera in scene.names]
        write_report(path, scores, *[SimpleNamespace(names=names, frame=scene.frame)] * 2)

    same_markup(write, tmp_path)


def likeness(name):
    row = {"name": name, "distance": 0.4, "csim": 0.9, "faces": 1, "frames": 1}
    return {
        "photos": [{"name": name, "psnr": 30.0, "ssim": 0.9}],
        "left_out": {},
        "likeness": {"views": [{**row, "angle": 0.0}], "all": row, "photos": [row], "reference": name},
    }


def test_a_likeness_report(tmp_path):
    pair = (np.zeros((8, 8, 3), np.uint8),) * 2
    same_markup(lambda path, name: write_likeness(path, likeness(name), [pair]), tmp_path)


def test_the_demos_report(scene, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for folder in ("likeness", "avatar"):
        (out / folder).mkdir(parents=True)
    (out / "generated").symlink_to(scene.path)
    (out / "avatar" / "report.json").write_text(json.dumps({"scores": {"fitted": {"psnr": 30.0, "ssim": 0.9}}}))
    for picture in ("likeness/photo_00.png", "person_overlay.png"):
        Image.new("RGB", (16, 8)).save(out / picture)
    for video in ("talk.mp4", "orbit.mp4"):
        with VideoWriter(out / video, (16, 16), 25.0) as writer:
            for _ in range(8):
                writer.add(np.zeros((16, 16, 3), np.uint8))

    def write(path, name):
        (out / "avatar.html").write_text(f"<title>{name}</title>", encoding="utf-8", errors="replace")
        (out / "likeness" / "evaluation.json").write_text(json.dumps(likeness(name)))
        person = SimpleNamespace(reference=0, sources=(name,), on_background=lambda index: np.zeros((8, 8, 3)))
        monkeypatch.setattr(demo_report, "open_person", lambda path: person)
        commands = [("track", f"fit {name}", ("track", name), 1.0)]
        demo_report.write_demo_report(out, [Path(name)], commands, f"machine {name}")
        (out / "report.html").rename(path)

    same_markup(write, tmp_path)
