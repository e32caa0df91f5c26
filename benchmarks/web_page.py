"""The avatar's page in a headless browser: pictures against `mvp4d render`, frames a second, size of the file.

    python benchmarks/web_page.py AVATAR                           ten poses at 512 x 512, then the rates
    python benchmarks/web_page.py AVATAR --gaussians 20000         its Gaussians repeated up to that many
    python benchmarks/web_page.py --synthetic 60000                made up, of preset default's sizes

The browser is Chromium with SwiftShader, a renderer on the CPU: a lower bound for any GPU.
"""

import argparse
import base64
import io
import math
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mvp4d_export does, before torch is loaded

import numpy as np
import torch
from avatar_realtime import grow
from PIL import Image

from mvp4d.core.driving import load_motion
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.formats import Clip
from mvp4d_export.formats.html import page
from mvp4d_export.presets import preset
from mvp4d_export.render import plan_rendering, render_frames, to_bytes

POSES, SIZE = 10, 512
FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


def synthetic(count: int) -> Avatar:
    """An avatar of preset default's sizes on the builtin head: random skin-coloured Gaussians, a net of millimetres."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    config = preset("default").avatar
    torch.manual_seed(0)
    avatar = Avatar(config, load_head("builtin"), count)
    with torch.no_grad():
        avatar.net.head.weight.copy_(0.02 * normal(*avatar.net.head.weight.shape))
        coefficients = 0.03 * normal(count, config.harmonic_count, 3)
        coefficients[:, 0] = 0.5 * normal(count, 1) + 0.15 * normal(count, 3) + torch.tensor([0.9, 0.2, 0.0])
        binding = torch.randint(len(avatar.mesh_faces), (count,), generator=generator)
        tensors = {
            "position": 0.4 * normal(count, 3),
            "rotation": normal(count, 4),
            "harmonics": coefficients,
            "log_scale": 0.4 * normal(count, 3) - 0.7,
            "logit_opacity": 1.5 * normal(count),
        }
    avatar.set_gaussians(binding, {name: tensors[name] for name in GAUSSIAN_TENSORS})
    return avatar


def speaking(avatar: Avatar, frames: int = 60) -> Motion:
    """A made-up motion of every expression, joint and the head's pose."""
    rng = np.random.default_rng(1)
    count = len(avatar.rig.expression_names)
    waves = np.sin(
        np.linspace(0, 2 * np.pi, frames)[:, None] * rng.uniform(0.5, 3, count + 18) + rng.uniform(0, 6.28, count + 18)
    ).astype(np.float32)
    rigid = waves[:, count:]
    return Motion(
        np.clip(waves[:, :count], 0, 1) * (rng.random(count) < 0.3).astype(np.float32),
        0.2 * rigid[:, :3],
        0.01 * rigid[:, 3:6],
        0.1 * rigid[:, 6:9],
        np.abs(rigid[:, 9:12]) * np.float32([0.2, 0, 0]),
        0.2 * rigid[:, 12:18].reshape(frames, 2, 3),
        25.0,
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return 10 * math.log10(255**2 / max(error, 1e-9))


def compare(tab, avatar: Avatar, motion: Motion, keep: Path | None) -> list[float]:
    """PSNR in dB of the page's picture of each of ten poses from ten sides."""
    shot = plan_rendering(avatar, motion, f"orbit:360x{POSES}", (SIZE, SIZE))
    frames = np.linspace(0, motion.frame_count - 1, POSES).round().astype(int)
    shot.pairs[:] = [(int(frame), view) for view, frame in enumerate(frames)]
    values = []
    for (frame, view), (rgb, _) in zip(shot.pairs, render_frames(avatar, shot)):
        tab.evaluate(
            "([frame, turn]) => { avatar.orbit.azimuth = turn; avatar.player.seek(frame); }",
            [frame, 2 * math.pi * view / POSES],
        )
        url = tab.evaluate("() => avatar.settled().then(() => document.getElementById('stage').toDataURL())")
        ours = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))
        values.append(psnr(ours, to_bytes(rgb)))
        if keep:
            pair = np.concatenate([ours, to_bytes(rgb)], 1)
            Image.fromarray(pair).save(keep / f"pose_{view:02d}.png")
    return values


def rates(tab) -> dict[str, float]:
    """While the motion plays: frames a second, and milliseconds a frame of skinning, sorting, and of all processors.

    `ease` is how much larger pixels are drawn while it moves. `work` is the browser's processor time, which other
    programs on the machine hardly change.
    """
    tab.evaluate("() => { avatar.player.play(); }")
    tab.evaluate("() => avatar.settled()")
    time.sleep(4)  # until the size of moving pixels has settled
    began, before, worked = time.perf_counter(), tab.evaluate("() => avatar.state.draws"), processor_time()
    times = []
    while time.perf_counter() - began < 6:
        times.append(tab.evaluate("() => avatar.state.timings"))
        time.sleep(0.1)
    drawn = max(1, tab.evaluate("() => avatar.state.draws") - before)
    return {
        "fps": drawn / (time.perf_counter() - began),
        "ease": tab.evaluate("() => avatar.state.ease"),
        "work": 1000 * (processor_time() - worked) / drawn,
        **{name: float(np.median([entry[name] for entry in times])) for name in ("skin", "sort")},
    }


def processor_time() -> float:
    """Seconds that the children of this process, and theirs, have computed (Linux)."""
    children: dict[int, list[tuple[int, float]]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = entry.read_text().rpartition(")")
        except OSError:
            continue  # it has ended
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12])
        children.setdefault(int(fields[1]), []).append((int(number.split()[0]), ticks / os.sysconf("SC_CLK_TCK")))
    total, left = 0.0, [os.getpid()]
    while left:
        for number, seconds in children.get(left.pop(), []):
            total += seconds
            left.append(number)
    return total


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path, nargs="?")
    parser.add_argument("--synthetic", type=int, metavar="N", help="a made-up avatar of N Gaussians instead")
    parser.add_argument("--gaussians", type=int, help="repeat Gaussians up to this many")
    parser.add_argument("--motion", type=Path, help="default: the avatar's own; a made-up one with --synthetic")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where pictures (page left, render right) are kept")
    args = parser.parse_args()
    avatar = synthetic(args.synthetic) if args.synthetic else Avatar.load(args.avatar)
    if args.gaussians:
        grow(avatar, args.gaussians)
    source = args.motion or args.avatar
    motion = load_motion(source, avatar.head)[0] if source else speaking(avatar)
    text, baked = page(avatar, (Clip("motion", motion),), title="avatar")
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    print(
        f"{avatar.gaussian_count} Gaussians, harmonics of degree {avatar.config.sh_degree}: "
        f"{len(text) / 1e6:.2f} MB; deformation net baked to {1000 * baked.error[0]:.3f} mm "
        f"(99 %: {1000 * baked.error[1]:.3f} mm)"
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "avatar.html"
        file.write_text(text)
        browser = playwright.chromium.launch(executable_path=args.browser, args=FLAGS)
        tab = browser.new_page(viewport={"width": SIZE, "height": SIZE})
        tab.on("console", lambda message: print("console:", message.text))
        tab.goto(f"file://{file}?embed&paused&background=ffffff")
        tab.wait_for_selector("body.ready", timeout=120_000)
        values = compare(tab, avatar, motion, args.keep)
        print(
            f"against mvp4d render, {POSES} poses at {SIZE} x {SIZE}: {min(values):.1f} dB at least, "
            f"{np.mean(values):.1f} on average"
        )
        found = rates(tab)
        print(
            f"SwiftShader on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}: {found['fps']:.1f} frames a "
            f"second, {found['work']:.0f} ms of processor time each, pixels {found['ease']:.2f} times "
            f"as large while it moves; in the worker skinning {found['skin']:.1f} ms, "
            f"sorting {found['sort']:.1f} ms"
        )
        browser.close()


if __name__ == "__main__":
    main()
