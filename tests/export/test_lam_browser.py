"""LAM's own browser renderer (npm, where NODE_PATH leads to it) opens our zip, and a morph moves the picture."""

import http.server
import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp4d_export.avatar import Avatar
from mvp4d_export.formats import export_avatar

MODULE = "gaussian-splat-renderer-for-lam/build/gaussian-splat-renderer-for-lam.module.js"
# The renderer scales the object that it is given, at every frame: it gets a copy.
PAGE = b"""<!doctype html><body style="margin:0"><div id="box" style="width:384px;height:384px"></div>
<script type="module">
import {GaussianSplatRenderer} from './module.js';
window.face = {}; window.progress = 0;
GaussianSplatRenderer.getInstance(document.getElementById('box'), location.origin + '/me.zip', {
  getChatState: () => 'Idle', getExpressionData: () => ({...window.face}),
  loadProgress: p => { window.progress = p; }});
</script></body>"""


@pytest.fixture()
def address(fitted, tmp_path):
    """Serves the page, the renderer and an avatar."""
    roots = os.environ.get("NODE_PATH", "").split(os.pathsep)
    module = next((Path(root) / MODULE for root in roots if (Path(root) / MODULE).is_file()), None)
    if module is None:
        pytest.skip("the npm package gaussian-splat-renderer-for-lam is not under NODE_PATH")
    export_avatar(Avatar.load(fitted[0]), tmp_path / "me.zip", "lam", None)
    files = {
        "/": ("text/html", PAGE),
        "/module.js": ("text/javascript", module.read_bytes()),
        "/me.zip": ("application/zip", (tmp_path / "me.zip").read_bytes()),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kind, data = files.get(self.path, ("text/plain", b""))
            self.send_response(200 if data else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.slow
def test_lams_renderer_opens_it_and_a_morph_moves(address, chromium):
    page = chromium.new_page(viewport={"width": 384, "height": 384})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_function("window.progress == 1", timeout=120_000)

    def picture():
        return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)

    page.evaluate("window.face = {jawOpen: 0}")
    before, deadline = picture(), time.monotonic() + 120
    while time.monotonic() < deadline:  # the renderer fades the head in, a step per frame
        time.sleep(5)
        after, before = before, picture()
        if (before < 200).any() and np.abs(before - after).max() < 2:
            break
    page.evaluate("window.face = {jawOpen: 1}")
    deadline = time.monotonic() + 120
    while True:
        time.sleep(5)
        change = np.abs(picture() - before).max(2)
        if (change > 20).sum() > 50 or time.monotonic() > deadline:
            break
    page.close()
    assert not errors
    seen, moved = np.argwhere(before.min(2) < 200), np.argwhere(change > 20)
    assert len(seen) > 1000 and len(moved) > 50
    assert moved[:, 0].mean() > seen[:, 0].mean()  # the jaw is in the lower half
    assert len(moved) < 0.6 * len(seen)  # and the rest stays
