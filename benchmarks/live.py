"""Live driving measured on a clip: frames a second, delay from picture to pose, error against the offline fit.

  python benchmarks/live.py CLIP [--side 256] [--frames 250] [--offline no]

The clip is made small first (`--side`: its shorter side in pixels). Three runs: every frame as fast as it goes
(frames a second); in real time with a page's socket connected (delay: from when the picture is there to when a page has
its pose; frames shown a second); and the offline fit of `mvp4d track`, which sees all frames at once (mean error of
expressions, of the head's rotation). MediaPipe's own share is printed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.video import VideoWriter, read_video, video_facts
from mvp4d_export.viewer import Viewer
from mvp4d_jax.tracking.live import follow, open_source, record
from mvp4d_jax.tracking.problem import SolveConfig
from mvp4d_jax.tracking.solve import solve
from mvp4d_jax.tracking.track import Source, find_landmarks


def shrink(clip: Path, out: Path, side: int, most: int) -> None:
    """The first `most` frames of a clip with a shorter side of `side` pixels."""
    (height, width), fps = video_facts(clip)
    factor = side / min(height, width)
    size = (round(height * factor / 2) * 2, round(width * factor / 2) * 2)
    with contextlib.closing(VideoWriter(out, size, fps, crf=10)) as writer:
        for index, frame in enumerate(read_video(clip)):
            if index == most:
                break
            writer.add(np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS)))


def listen(viewer: Viewer) -> socket.socket:
    """A page's socket, as a browser opens it."""
    here = f"127.0.0.1:{viewer.port}"
    connection = socket.create_connection(("127.0.0.1", viewer.port))
    connection.sendall(
        f"GET /poses HTTP/1.1\r\nHost: {here}\r\nOrigin: http://{here}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    while not connection.recv(4096).endswith(b"\r\n\r\n"):
        pass
    return connection


def throughput(source: Source, head: HeadModel) -> float:
    """Frames a second, every frame."""
    moments = [time.monotonic() for _ in follow(source, head, paced=False)]
    return (len(moments) - 1) / (moments[-1] - moments[0])


def delays(source: Source, head: HeadModel) -> tuple[np.ndarray, float]:
    """Seconds from each picture to a page's having its pose, in real time; poses a second."""
    viewer, ages, began = Viewer("127.0.0.1", 0), [], 0.0
    viewer.show("")
    with contextlib.closing(listen(viewer)) as page:
        for pose in follow(source, head):
            viewer.pose(pose.motion)
            page.recv(65536)
            now = time.monotonic()
            began = began or now
            ages.append(now - pose.came)
    rate = (len(ages) - 1) / (time.monotonic() - began)
    viewer.stop()
    return np.array(ages[1:]), rate  # the guest loads its models on the first


def against_offline(source: Source, head: HeadModel) -> None:
    ours = record(follow(source, head, paced=False), source)
    began = time.monotonic()
    found = find_landmarks(source)
    landmarks = time.monotonic() - began
    theirs = solve(head, found, SolveConfig()).motion
    error = np.abs(ours.expression - theirs.expression)
    turned = (Rotation.from_rotvec(ours.rotation) * Rotation.from_rotvec(theirs.rotation).inv()).magnitude()
    second = min(round(source.fps), len(error) - 1)
    used = theirs.expression > 0.1
    print(
        f"against the offline fit: expressions {error.mean():.3f} off on average ({error[second:].mean():.3f} after "
        f"the first second; {error[used].mean():.3f} where the offline fit is above 0.1), rotation "
        f"{np.degrees(turned).mean():.1f} degrees"
    )
    print(f"MediaPipe alone, offline: {1000 * landmarks / len(error):.0f} ms a frame, its start included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--offline", choices=("yes", "no"), default="yes")
    args = parser.parse_args()
    head = load_head("builtin")
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        shrink(args.clip, clip, args.side, args.frames)
        source = open_source(clip)
        assert isinstance(source, Source)
        height, width = source.image_size
        print(f"{source.frame_count} frames of {width} x {height} at {source.fps:g} a second, {os.cpu_count()} cores")
        print(f"every frame: {throughput(source, head):.1f} a second (load {os.getloadavg()[0]:.1f})")
        ages, rate = delays(source, head)
        middle, late = 1000 * np.percentile(ages, [50, 95])
        print(
            f"in real time: {rate:.1f} poses a second, delay {middle:.0f} ms (median), {late:.0f} ms (95 %), "
            f"{1000 * ages.mean():.0f} ms (mean) (load {os.getloadavg()[0]:.1f})"
        )
        if args.offline == "yes":
            against_offline(source, head)


if __name__ == "__main__":
    main()
