"""The avatar's page where it is put: phones on their side, frames of sites, recordings from anywhere, lost graphics."""

import io

import numpy as np
import pytest
from PIL import Image

from mvp4d.avatar import open_avatar
from mvp4d_export.formats import Clip
from mvp4d_export.formats.html import page

COLUMNS = "Timecode,BlendShapeCount,JawOpen,EyeBlinkLeft,HeadYaw"


@pytest.fixture(scope="module")
def text(fitted):
    avatar = open_avatar(fitted[0], device="cpu")
    return page(avatar.module, (Clip("as filmed", avatar.motion()),), title="egg")[0]


def test_the_bar_stays_on_its_stage_and_touch_finds_its_targets(visit, text):
    """A phone on its side: beside the panel little room is left."""
    tab = visit(text, viewport={"width": 844, "height": 390}, is_mobile=True, has_touch=True)
    stage, bar = (tab.locator(name).bounding_box() for name in ("main", "#bar"))
    boxes = [child.bounding_box() for child in tab.locator("#bar > *").all()]
    ends = [box["x"] + box["width"] for box in boxes if box is not None]
    assert max(ends) <= bar["x"] + bar["width"] <= stage["x"] + stage["width"]
    assert tab.locator("#play").bounding_box()["width"] == 40
    assert min(row.bounding_box()["height"] for row in tab.locator("details[open] .row input").all()) >= 40


def test_a_frame_on_a_light_site_is_transparent_to_readers_of_dark_ones(chromium, text, tmp_path):
    (tmp_path / "avatar.html").write_text(text)
    (tmp_path / "site.html").write_text(
        '<body style="background: #ccddee"><iframe src="avatar.html?embed&background=transparent&paused"></iframe>'
    )
    context = chromium.new_context(color_scheme="dark", viewport={"width": 400, "height": 240})
    tab = context.new_page()
    tab.goto((tmp_path / "site.html").as_uri())
    tab.frames[1].wait_for_selector("body.ready", timeout=60_000)
    seen = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"))
    context.close()
    assert seen[14, 14].tolist() == [0xCC, 0xDD, 0xEE]  # a corner of the frame


def test_line_ends_and_columns_without_end(visit, text, tmp_path):
    """A recording with the line ends of old Macs plays; 30 million columns are refused at once."""
    tab, recording = visit(text, viewport={"width": 900, "height": 600}), tmp_path / "take.csv"
    recording.write_bytes("\r".join([COLUMNS, "00:00:00:00,61,0.5,0,0", "00:00:00:01,61,0.5,0,0"]).encode())
    tab.set_input_files("#recording", recording)
    tab.wait_for_selector("text=playing take.csv")
    assert tab.evaluate("() => avatar.player.motion.frames") == 2
    recording.write_text(COLUMNS + "," * 30_000_000 + "\n0" + "," * 1_000_000)
    tab.set_input_files("#recording", recording)
    tab.wait_for_selector("text=take.csv has 0 frames", timeout=4000)


def test_lost_graphics_and_unknown_sliders_are_told(visit, text):
    tab = visit(text)
    told = tab.evaluate("() => { try { avatar.set('nose', 1); } catch (error) { return error.message; } }")
    assert told == "no slider is called nose"
    tab.evaluate("() => { window.lose = avatar.splats.gl.getExtension('WEBGL_lose_context'); lose.loseContext(); }")
    tab.wait_for_selector("text=The browser stopped the graphics")
    tab.evaluate("() => lose.restoreContext()")
    tab.wait_for_function("() => !window.lose && document.body.classList.contains('ready')")
