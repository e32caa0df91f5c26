"""The avatar's page: its arrays decoded by an independent reader, and the page itself in a headless browser."""

import base64
import dataclasses
import io
import json
import math
import shutil
import struct
import wave
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from export_world import make_head
from marionette import Firefox
from PIL import Image
from scipy.spatial.transform import Rotation

from mvp4d.avatar import open_avatar
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d.core.video import VideoWriter
from mvp4d_export.avatar import Avatar, AvatarConfig
from mvp4d_export.bake import bake
from mvp4d_export.deformation import NetConfig
from mvp4d_export.formats import Clip
from mvp4d_export.formats.html import WEB, page
from mvp4d_export.render import plan_rendering, render_frames, to_bytes
from mvp4d_export.rig import Pose

HOSTILE = "</script><img src=x onerror=alert(1)>{{script}}"
SIZE, WIDE = 256, {"width": 900, "height": 600}


def decode(text: str) -> tuple[dict, dict]:
    """Header and arrays of a page, written from the format's description alone."""
    block = text.split('id="payload">')[1].split("</script>")[0]
    data = zlib.decompress(base64.b64decode(block, validate=True))
    (length,) = struct.unpack("<I", data[:4])
    header, body, arrays = json.loads(data[4 : 4 + length]), data[4 + length :], {}
    for name, entry in header["arrays"].items():
        raw = np.frombuffer(body[entry["offset"] : entry["offset"] + entry["bytes"]], np.uint8)
        width = int(entry["type"][1])
        joined = np.ascontiguousarray(raw.reshape(width, -1).T).reshape(-1)
        arrays[name] = joined.view(f"<{entry['type']}").astype(np.float64)
    return header, arrays


def rotation(axis_angle):
    return Rotation.from_rotvec(axis_angle).as_matrix()


@pytest.fixture(scope="module")
def avatar(fitted):
    return open_avatar(fitted[0], device="cpu")


@pytest.fixture(scope="module")
def text(avatar):
    return page(avatar.module, (Clip("as filmed", avatar.motion()),), title="egg")[0]


def test_the_arrays_pose_the_same_vertices(avatar, text):
    """Blendshapes, baked net, joints and skinning in numpy against the avatar's own vertices, to 0.1 mm."""
    header, arrays = decode(text)
    motion, module = avatar.motion(), avatar.module
    count = len(arrays["template"]) // 3
    shapes = arrays["shapes"].reshape(-1, count, 3) * arrays["shape_scale"][:, None, None]
    weights, joints = arrays["weights"].reshape(count, -1) / 65535, arrays["joints"].reshape(-1, 3)
    for frame in range(motion.frame_count):
        features = np.concatenate([arrays["motion_0"].reshape(motion.frame_count, -1)[frame], motion.jaw[frame]])
        rest = arrays["template"].reshape(-1, 3) + np.einsum("s,spk->pk", features, shapes)
        turns = {
            "neck": motion.neck[frame],
            "jaw": motion.jaw[frame],
            "left_eye": motion.eyes[frame, 0],
            "right_eye": motion.eyes[frame, 1],
        }
        matrices, places = [], []
        for name, parent, joint in zip(header["joints"], header["parents"], joints):
            turn = rotation(turns.get(name, np.zeros(3)))
            matrices.append(turn if parent < 0 else matrices[parent] @ turn)
            places.append(joint if parent < 0 else places[parent] + matrices[parent] @ (joint - joints[parent]))
        posed = sum(weights[:, j, None] * ((rest - joints[j]) @ matrices[j].T + places[j]) for j in range(len(joints)))
        with torch.no_grad():
            truth = module.vertices(Pose.of(motion)[frame : frame + 1]).numpy()
        assert np.linalg.norm(posed - truth, axis=1).max() < 1e-4


def test_an_eye_turns_about_where_the_deformation_has_it():
    avatar = Avatar(AvatarConfig(48, 0, NetConfig((4, 4), 1, 1)), load_head("builtin"), 1)
    with torch.no_grad():
        avatar.rotation[:, 0] = 1
        avatar.net.head.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    motion = Motion.still(1, len(avatar.rig.expression_names))
    motion.eyes[:] = (0.2, 0.5, 0.0)
    arrays = decode(page(avatar, (Clip("gaze", motion),), title="x")[0])[1]
    template, joints = (arrays[name].reshape(-1, 3) for name in ("template", "joints"))
    with torch.no_grad():
        truth = avatar.vertices(Pose.of(motion)).numpy()
    for name in ("left_eye", "right_eye"):
        index = avatar.head.joint_names.index(name)
        own = (avatar.mesh.follows > 0) & (avatar.mesh_skin[:, index].numpy() > 0.99)
        assert np.linalg.norm(template - avatar.gather(avatar.rig.template).numpy(), axis=1)[own].min() > 1e-4
        posed = (template[own] - joints[index]) @ rotation(motion.eyes[0, 0]).T + joints[index]
        np.testing.assert_allclose(posed, truth[own], rtol=0, atol=1e-5)


def test_the_arrays_hold_the_gaussians(avatar, text):
    header, arrays = decode(text)
    module = avatar.module
    order = np.argsort(module.binding.numpy(), kind="stable")
    assert header["gaussians"] == module.gaussian_count == len(arrays["binding"])
    for name, ours in (("position", module.position), ("scale", module.log_scale), ("harmonics", module.harmonics)):
        truth = ours.detach().numpy()[order].reshape(-1)
        np.testing.assert_allclose(arrays[name], truth, rtol=1e-3, atol=1e-4, err_msg=name)
    faces = arrays["faces"].reshape(-1, 3)[arrays["binding"].astype(int)]
    np.testing.assert_array_equal(faces, module.mesh_faces[module.binding].numpy()[order])


def test_correctives_are_blendshapes_too():
    """A head whose joints move the skin beyond the skinning: the shapes of R - 1, to the metre."""
    head = make_head()
    rng = np.random.default_rng(0)
    basis = 0.01 * rng.standard_normal((9 * 4, len(head.template), 3)).astype(np.float32)
    avatar = Avatar(AvatarConfig(24, 0), dataclasses.replace(head, pose_basis=basis), 1)
    baked = bake(avatar, [])
    assert baked.shapes.shape[0] == len(head.expression_names) + 3 + 36
    np.testing.assert_allclose(baked.shapes[-36:], avatar.gather(torch.from_numpy(basis)).numpy(), atol=1e-7)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, tuple(sorted(name for name, _ in attributes))))


def _tags(text):
    parser = _Tags()
    parser.feed(text)
    return parser.seen


@pytest.fixture(scope="module")
def hostile(avatar):
    head = dataclasses.replace(make_head(), expression_names=("jawOpen", HOSTILE, f"mouth{HOSTILE}", "browInnerUp"))
    evil = Avatar(avatar.module.config, head, avatar.module.gaussian_count, 0, avatar.module.mesh)
    tensors = {
        name: getattr(avatar.module, name)
        for name in ("position", "rotation", "log_scale", "logit_opacity", "harmonics")
    }
    evil.set_gaussians(avatar.module.binding, tensors)
    return page(evil, (Clip(HOSTILE, avatar.motion()),), title=HOSTILE)[0]


def test_names_are_never_markup(text, hostile):
    assert _tags(hostile) == _tags(text)
    assert "<img" not in hostile


def test_the_page_is_small_and_speaks_to_nobody(text):
    assert sum(len(path.read_text().splitlines()) for path in WEB.iterdir()) <= 1200
    assert "default-src 'none'" in text and "unsafe" not in text
    assert not any(word in text for word in ("http://", "https://", "import ", "eval("))


def test_export_command_and_its_refusals(fitted, avatar, tmp_path, capsys):
    out = tmp_path / "me.html"
    avatar.export(out, motion=[fitted[0], fitted[0] / "motion.npz"], audio=[_wav(tmp_path / "a.wav", 0.2)])
    header, _ = decode(out.read_text())
    assert [(motion["name"], motion["sound"]) for motion in header["motions"]] == [
        (fitted[0].name, "audio/wav"),
        ("motion", None),
    ]
    assert "mm off" in capsys.readouterr().err
    avatar.export(out, overwrite=True)
    (tmp_path / "no.wav").write_bytes(b"RIFFnot sound at all")
    mute = tmp_path / "mute.mp4"
    with VideoWriter(mute, (32, 32), 25.0) as writer:
        writer.add(np.zeros((32, 32, 3), np.uint8))
    for options, field in (
        ({"audio": ["a", "b"]}, "audio"),
        ({"audio": str(tmp_path / "none.wav"), "motion": []}, "none.wav"),
        ({"audio": [tmp_path / "no.wav"]}, "no.wav"),
        ({"audio": [tmp_path / "none.wav"]}, "none.wav"),
        ({"audio": [mute]}, "pictures without sound"),
    ):
        with pytest.raises(UserError, match=field):
            avatar.export(tmp_path / "other.html", **options)
    for options in ({"motion": [fitted[0], fitted[0]]}, {"audio": ["a.wav"]}):
        with pytest.raises(UserError, match="one motion"):
            avatar.export(tmp_path / "other.ply", **options)
    assert not (tmp_path / "other.html").exists()


def _wav(path: Path, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((3000 * np.sin(np.arange(int(8000 * seconds)))).astype("<i2").tobytes())
    return path


# --- in a browser ---------------------------------------------------------------------------------------------------
def picture(tab):
    """The canvas as it was drawn, read before the browser takes the buffer: a screenshot may show the frame before."""
    url = tab.evaluate("() => avatar.settled().then(() => document.getElementById('stage').toDataURL())")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(float)


def test_pictures_are_those_of_the_renderer(visit, avatar, text):
    """Six poses from six sides, at least 40 dB: in the fit's size and larger, where the blur grows."""
    motion = avatar.motion()
    tab = visit(text, "embed&paused&background=ffffff")
    shot = plan_rendering(avatar.module, motion, "orbit:360x6@10", (SIZE, SIZE))
    for (frame, view), (rgb, _) in zip(shot.pairs, render_frames(avatar.module, shot)):
        tab.evaluate(
            "([frame, turn]) => { Object.assign(avatar.orbit, { azimuth: turn, elevation: Math.PI / 18 });"
            "avatar.player.seek(frame); }",
            [frame, view * math.pi / 3],
        )
        error = np.square(picture(tab) - to_bytes(rgb)).mean()
        assert 10 * math.log10(255**2 / error) > 40


def test_a_slider_moves_its_region(visit, text):
    tab = visit(text, "embed&paused&background=ffffff")
    tab.evaluate("() => avatar.choose(-1)")
    rest = picture(tab)
    tab.evaluate("() => avatar.set('jawOpen', 1)")
    jaw = np.abs(picture(tab) - rest).mean(-1)
    tab.evaluate("() => { avatar.set('jawOpen', 0); avatar.set('browInnerUp', 1); }")
    brow = np.abs(picture(tab) - rest).mean(-1)
    rows = np.arange(SIZE)
    assert jaw.max() > 30 and brow.max() > 30
    assert (jaw.sum(1) @ rows) / jaw.sum() > SIZE / 2 + 20  # the mouth lies below the middle, the brows above
    assert (brow.sum(1) @ rows) / brow.sum() < SIZE / 2 - 10
    assert np.abs(rest - (tab.evaluate("() => avatar.set('browInnerUp', 0)"), picture(tab))[1]).max() == 0


@pytest.mark.parametrize(("asked", "colour", "clear"), [
    ("zzz", "#16181d", False), ("", "#16181d", False), ("%23A0B0C0", "#a0b0c0", False), ("transparent", None, True),
])  # fmt: skip
def test_a_background_that_is_none_leaves_the_readers_scheme(visit, text, asked, colour, clear):
    tab = visit(text, f"embed&paused&background={asked}", color_scheme="dark")
    assert colour is None or tab.input_value("#background") == colour
    assert tab.evaluate("() => document.body.classList.contains('clear')") == clear


def test_a_motion_plays_to_its_end_and_is_scrubbed(visit, text):
    tab = visit(text, viewport=WIDE)
    tab.evaluate("() => { avatar.player.motion.once = true; }")
    tab.click("#play")
    tab.wait_for_selector('#play[aria-label="Play"]', timeout=20_000)
    assert tab.evaluate("() => avatar.player.position") == 5
    tab.fill("#scrub", "2")
    tab.evaluate("() => avatar.settled()")
    shown = tab.evaluate("() => Array.from(avatar.state.shown.expression)")
    np.testing.assert_allclose(shown, decode(text)[1]["motion_0"].reshape(6, -1)[2], atol=1e-6)


def test_what_moves_may_be_coarser_and_what_stands_still_is_drawn_in_full(visit, avatar, text):
    motion, tab = avatar.motion(), visit(text, "embed&paused&background=ffffff")
    tab.evaluate("""() => { const { splats } = avatar, draw = splats.draw.bind(splats); window.drawn = [];
      splats.draw = (...given) => { drawn.push(given); draw(...given); }; avatar.state.ease = 1.5; }""")
    tab.evaluate("() => { avatar.player.play(); }")
    tab.wait_for_function("() => drawn.length > 5")
    tab.evaluate("() => { avatar.player.pause(); avatar.player.seek(3); }")
    full = picture(tab)
    coarse = tab.evaluate(
        "() => { avatar.splats.draw(...drawn.at(-1).slice(0, 3), 1.5);"
        "return [drawn.map((given) => given[3]), document.getElementById('stage').toDataURL()]; }"
    )
    assert min(coarse[0][:5]) > 1.2 and coarse[0][-2:] == [1, 1.5]
    shot = plan_rendering(avatar.module, motion, "orbit:360x1", (SIZE, SIZE))
    shot.pairs[:] = [(3, 0)]
    truth = to_bytes(next(render_frames(avatar.module, shot))[0]).astype(float)
    eased = np.asarray(Image.open(io.BytesIO(base64.b64decode(coarse[1].split(",")[1]))).convert("RGB")).astype(float)
    assert 10 * math.log10(255**2 / np.square(full - truth).mean()) > 40
    assert 10 * math.log10(255**2 / np.square(eased - truth).mean()) > 30


def test_sound_leads_the_motion(visit, avatar, tmp_path):
    motion = avatar.motion()
    slow = Motion(**{**vars(motion), "fps": 6.0})  # a second
    sound = _wav(tmp_path / "tone.wav", 1.0)
    spoken = page(avatar.module, (Clip("speech", slow, sound),), title="egg")[0]
    tab = visit(spoken, "", viewport=WIDE)
    assert not tab.evaluate("() => avatar.player.playing")  # not before a click
    assert tab.is_visible("#mute")
    tab.click("#play")
    both = """() => { const p = avatar.player; p.advance(performance.now());
      return [p.position, Math.min(5, p.sound.currentTime * 6)]; }"""
    seen = np.array([tab.evaluate(both) for _ in range(12)])
    np.testing.assert_allclose(seen[:, 0], seen[:, 1], atol=0.05)
    tab.wait_for_selector('#play[aria-label="Play"]', timeout=20_000)
    assert tab.evaluate("() => avatar.player.position") == 5


def test_embedded_transparent_and_named(visit, text, hostile):
    tab = visit(text, "embed&background=transparent&motion=as%20filmed")
    assert not tab.is_visible("aside") and not tab.is_visible("#bar")
    tab.wait_for_timeout(200)
    alpha = np.asarray(Image.open(io.BytesIO(tab.screenshot(omit_background=True))))[..., 3]
    assert alpha[4, 4] == 0 and alpha[SIZE // 2, SIZE // 2] > 200
    assert tab.evaluate("() => avatar.player.playing")
    tab = visit(hostile, viewport=WIDE)
    assert tab.title() == HOSTILE and tab.inner_text("#title") == HOSTILE
    assert tab.locator("img").count() == 0
    nameless = tab.evaluate("""() => [...document.querySelectorAll('input, select, button, canvas')].filter((element) =>
      !(element.getAttribute('aria-label') || element.textContent.trim() || element.labels?.[0]?.textContent.trim()))
      .map((element) => element.outerHTML)""")
    assert nameless == []


@pytest.mark.slow
def test_firefox_shows_the_same_pictures(avatar, text, tmp_path):
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.skip("no firefox on this machine")
    file, profile = tmp_path / "avatar.html", tmp_path / "profile"
    file.write_text(text)
    profile.mkdir()
    motion, side = avatar.motion(), 512  # its window gets no narrower than 500 pixels
    shot = plan_rendering(avatar.module, motion, "orbit:360x3", (side, side))
    with Firefox(program, profile, side) as browser:
        browser.open(f"{file.as_uri()}?embed&paused&background=ffffff")
        state = browser.script("""for (let k = 0; k < 600 && !document.body.classList.contains('ready'); k++) {
          await new Promise((resolve) => setTimeout(resolve, 100)); }
          return [document.body.className, document.getElementById('message').textContent, innerWidth, innerHeight];""")
        if "no WebGL" in state[1]:
            pytest.skip("this Firefox has no WebGL 2")
        assert state == ["embed ready", "", side, side]
        for (frame, view), (rgb, _) in zip(shot.pairs, render_frames(avatar.module, shot)):
            browser.script(
                "const page = window.wrappedJSObject || window; page.avatar.orbit.azimuth = arguments[1];"
                "page.avatar.player.seek(arguments[0]); await page.avatar.settled();",
                frame,
                view * 2 * math.pi / 3,
            )
            ours = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB")).astype(float)
            error = np.square(ours - to_bytes(rgb)).mean()
            assert 10 * math.log10(255**2 / error) > 40
