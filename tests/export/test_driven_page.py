"""The page of a viewer that is driven, in browsers: poses are shown as they come, and memory stays where it is."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from marionette import Firefox
from PIL import Image

from mvp4d.avatar import open_avatar
from mvp4d.core.heads.motion import Motion
from mvp4d.core.video import VideoWriter
from mvp4d_export.viewer import Viewer

UNTIL = """async (value) => { for (let k = 0; k < 200 && avatar.state.shown.expression[0] !== value; k++) {
  await new Promise((resolve) => setTimeout(resolve, 100)); } }"""
PLAYBACK = float(os.environ.get("MVP4D_PLAYBACK", "180"))  # seconds of the test of memory


@pytest.fixture()
def viewer(fitted):
    viewer = Viewer("127.0.0.1", 0)
    viewer.show(open_avatar(fitted[0], device="cpu").page(live=True))
    yield viewer
    viewer.stop()


def pose(jaw):
    motion = Motion.still(1, 4)
    motion.expression[0, 0] = jaw
    motion.rotation[0, 1] = jaw / 2
    return motion


def test_pages_show_the_poses_that_come(chromium, viewer):
    """Two pages at once; their sliders add to what comes; when the viewer ends they hold its last pose and say so."""
    here = f"http://127.0.0.1:{viewer.port}/"
    asked, tabs = [], [chromium.new_page(viewport={"width": 300, "height": 300}) for _ in range(2)]
    errors = []
    for tab in tabs:
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("websocket", lambda socket: asked.append(socket.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(f"{here}?embed")
        tab.wait_for_selector("body.ready", timeout=60_000)
    shown = "() => avatar.settled().then(() => [avatar.state.shown.expression[0], avatar.state.shown.rotation[1]])"
    for value in (0.5, 0.25):
        viewer.pose(pose(value))
        for tab in tabs:
            tab.evaluate(UNTIL, value)
            np.testing.assert_allclose(tab.evaluate(shown), [value, value / 2])
    tabs[0].evaluate("() => avatar.set('jawOpen', 0.5)")
    np.testing.assert_allclose(tabs[0].evaluate(shown), [0.75, 0.125])
    np.testing.assert_allclose(tabs[1].evaluate(shown), [0.25, 0.125])
    assert all(url.startswith((here, f"ws{here[4:]}", "blob:")) for url in asked), asked
    viewer.stop()
    for tab in tabs:
        tab.wait_for_selector("text=the viewer has stopped", timeout=20_000)
        assert tab.evaluate(shown)[1] == 0.125
        tab.close()
    assert errors == []


def test_a_page_for_sharing_asks_nobody(chromium, fitted, tmp_path):
    """What `export` writes never opens a socket, and could not."""
    text = open_avatar(fitted[0], device="cpu").page()
    assert "connect-src" not in text
    (tmp_path / "me.html").write_text(text)
    tab = chromium.new_page()
    tab.goto((tmp_path / "me.html").as_uri())
    tab.wait_for_selector("body.ready", timeout=60_000)
    refused = """() => new Promise((resolve) => {
      addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
      new WebSocket('ws://127.0.0.1:9/').onerror = () => setTimeout(() => resolve('let through'), 1000); })"""
    assert tab.evaluate(refused) == "connect-src"
    tab.close()


@pytest.mark.slow
def test_firefox_is_driven_too(viewer, tmp_path):
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.skip("no firefox on this machine")
    with Firefox(program, tmp_path, 512) as browser:
        browser.open(f"http://127.0.0.1:{viewer.port}/?embed")
        ready = browser.script("""for (let k = 0; k < 600 && !document.body.classList.contains('ready'); k++) {
          await new Promise((resolve) => setTimeout(resolve, 100)); }
          return [document.body.className, document.getElementById('message').textContent];""")
        if "no WebGL" in ready[1]:
            pytest.skip("this Firefox has no WebGL 2")
        viewer.pose(pose(0.5))
        shown = browser.script("""const page = window.wrappedJSObject || window;
          for (let k = 0; k < 200 && page.avatar.state.shown.expression[0] !== 0.5; k++) {
            await new Promise((resolve) => setTimeout(resolve, 100)); }
          return page.avatar.state.shown.expression[0];""")
        assert shown == 0.5


# --- memory ---------------------------------------------------------------------------------------------------------
def family(root):
    """A process and all its descendants (Linux)."""
    children = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [root]
    for number in found:
        found += children.get(number, [])
    return found


def resident(root):
    """Megabytes that a process and its descendants hold in memory."""
    total = 0
    for number in family(root):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.timeout(PLAYBACK + 300)
def test_memory_is_flat(chromium, fitted, tmp_path):
    """A minute in and at the end (MVP4D_PLAYBACK seconds) viewer and guest hold the same memory within 5 %, and the
    page the same heap: one page is driven, another plays the avatar's motion."""
    live = pytest.importorskip("mvp4d_jax.tracking.live")
    data = pytest.importorskip("skimage.data")
    live.MEDIAPIPE.python()
    photo = Image.fromarray(data.astronaut()).crop((80, 0, 380, 300)).resize((256, 256))
    with contextlib.closing(VideoWriter(tmp_path / "v.mp4", (256, 256), 25.0)) as writer:
        for index in range(75):
            writer.add(np.asarray(photo.rotate(10 * np.sin(index * 2 * np.pi / 75))))
    words = ["view", str(fitted[0]), "--drive", str(tmp_path / "v.mp4"), "--port", "0"]
    process = subprocess.Popen([sys.executable, "-m", "mvp4d.cli", *words], stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
        tabs = []
        for query in ("embed", "embed&motion=0"):
            tab = chromium.new_page(viewport={"width": 200, "height": 200})
            tab.goto(f"{url}?{query}")
            tab.wait_for_selector("body.ready", timeout=60_000)
            tabs.append((tab, tab.context.new_cdp_session(tab)))
        heaps, memory = [], []
        began = time.monotonic()
        for moment in (min(60.0, PLAYBACK / 3), PLAYBACK):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            samples = []
            for _ in range(10):
                samples.append(resident(process.pid))
                time.sleep(0.5)
            memory.append(float(np.median(samples)))
            heaps.append([heap(session) for _, session in tabs])
        draws = [tab.evaluate("() => avatar.state.draws") for tab, _ in tabs]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        print(process.stderr.read())
    print(f"viewer and guest {memory} MB, pages {heaps} MB, {draws} pictures")
    assert min(draws) > PLAYBACK / 2
    assert memory[1] < 1.05 * memory[0]
    assert (np.array(heaps[1]) < 1.05 * np.array(heaps[0]) + 0.5).all()


def heap(session):
    """Megabytes of a page's JavaScript objects, after collection."""
    session.send("HeapProfiler.collectGarbage")
    return session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
