"""The avatar's page where it is put: fingers and keys, frames of sites, recordings from anywhere, lost graphics."""

import io

import numpy as np
import pytest
from export_world import make_head
from PIL import Image

from mvp4d.avatar import open_avatar
from mvp4d.core.driving import load_motion
from mvp4d_export.formats import Clip
from mvp4d_export.formats.html import page

WIDE = {"width": 900, "height": 600}
COLUMNS = "Timecode,BlendShapeCount,JawOpen,EyeBlinkLeft,HeadYaw"


@pytest.fixture(scope="module")
def text(fitted):
    avatar = open_avatar(fitted[0], device="cpu")
    return page(avatar.module, (Clip("as filmed", avatar.motion()),), title="egg")[0]


def test_keys_mouse_and_touch_move_the_camera(visit, text):
    tab = visit(text, viewport={"width": 390, "height": 700}, is_mobile=True, has_touch=True)

    def orbit():
        return np.array(tab.evaluate("() => { const o = avatar.orbit; return [o.azimuth, o.elevation, o.distance]; }"))

    tab.focus("#stage")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("+")
    np.testing.assert_allclose(orbit(), [0.1, 0, 1.2 * 0.9])
    session = tab.context.new_cdp_session(tab)

    def touch(kind, *points):
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]},
        )

    touch("touchStart", (200, 200))
    touch("touchMove", (150, 200))
    touch("touchEnd")
    np.testing.assert_allclose(orbit(), [0.1 + 50 * 0.008, 0, 1.2 * 0.9], atol=1e-6)
    touch("touchStart", (180, 200), (220, 200))
    touch("touchMove", (140, 200), (260, 200))
    touch("touchEnd")
    assert orbit()[2] < 1.2 * 0.9 / 2  # fingers three times as far apart
    tab.tap("summary:has-text('Mouth')")
    slider = tab.locator("input[title='mouthSmile_L']")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box["height"] >= 40 and box["x"] + box["width"] <= 390
    tab.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    assert 0.6 < float(slider.input_value()) < 0.95


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


def test_recordings_are_read_or_refused(visit, text, tmp_path):
    """A Live Link CSV plays as our reader reads it; a gigabyte and nonsense are refused in one line."""
    names = [
        "Timecode",
        "BlendShapeCount",
        "JawOpen",
        "EyeBlinkLeft",
        "MouthSmileLeft",
        "HeadYaw",
        "HeadPitch",
        "HeadRoll",
        "LeftEyeYaw",
        "LeftEyePitch",
        "LeftEyeRoll",
        "RightEyeYaw",
        "RightEyePitch",
        "RightEyeRoll",
    ]
    values = np.random.default_rng(0).uniform(0, 0.6, (4, len(names) - 2)).round(4)
    rows = [f"00:00:00:{k:02d}.000,61,{','.join(map(str, row))}" for k, row in enumerate(values)]
    recording = tmp_path / "take.csv"
    recording.write_text("\n".join([",".join(names), *rows]))
    tab = visit(text, viewport=WIDE)
    tab.set_input_files("#recording", recording)
    tab.wait_for_selector("text=playing take.csv")
    tab.evaluate("() => { avatar.player.pause(); avatar.player.seek(2); }")
    tab.evaluate("() => avatar.settled()")
    pose = tab.evaluate(
        "() => { const { expression, rotation, eyes } = avatar.state.shown;"
        "return [Array.from(expression), rotation, eyes]; }"
    )
    truth = load_motion(recording, make_head())[0][2:3]
    for ours, theirs in zip(pose, (truth.expression, truth.rotation, truth.eyes)):
        np.testing.assert_allclose(ours, np.ravel(theirs), atol=1e-5)
    large = tmp_path / "large.csv"
    with open(large, "wb") as file:
        file.truncate(1 << 30)
    tab.set_input_files("#recording", large)
    tab.wait_for_selector("text=large.csv is larger than 32 MB", timeout=5000)
    large.unlink()
    words = "\n".join([",".join(names), ",".join("x" * len(names))])
    for content, word in (("a,b\n1,2", "no Live Link"), (words, "not a number")):
        recording.write_text(content)
        tab.set_input_files("#recording", recording)
        tab.wait_for_selector(f"text={word}", timeout=5000)


def test_line_ends_and_columns_without_end(visit, text, tmp_path):
    """A recording with the line ends of old Macs plays; 30 million columns are refused at once."""
    tab, recording = visit(text, viewport=WIDE), tmp_path / "take.csv"
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
