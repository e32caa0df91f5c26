"""Damaged and hostile pictures and videos of a capture: each ends in one clear line; nothing is executed or fetched."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from mvp4d.core.video import VideoWriter
from tests.capture.damage import (
    content,
    cut,
    dangling_link,
    folder_in_place,
    link_out,
    missing,
    other_size,
    pipe_in_place,
)
from tests.capture.refusals import assert_one_line, copy

# A warning of numpy's would be a second line on the user's terminal.
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error::RuntimeWarning:mvp4d_jax")]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 12\n(SENTINEL) (w) file closefile\nshowpage\n"
PICTURES = {
    "missing": missing,
    "empty": content(b""),
    "half": cut(0.5),
    "text": content(b"GIF89a nothing"),
    "size": other_size,
    "bomb": content(png_header(60000, 60000)),
    "claims its size": content(png_header(10, 12)),
    "PostScript": content(POSTSCRIPT),
    "folder": folder_in_place,
    "pipe": pipe_in_place,
    "dangling": dangling_link,
    "link out": link_out,
}


@pytest.mark.parametrize("where", ["images/cam0/00000.png", "images/cam2/00003.png", "masks/cam1/00002.png"])
@pytest.mark.parametrize("case", PICTURES)
def test_pictures(originals, sandbox, capsys, where, case):
    path = copy(originals, "capture", sandbox)
    PICTURES[case](path / where)
    assert_one_line(capsys, path)


def linked_folder(path: Path) -> None:
    shutil.move(path / "images" / "cam1", path.parent / "outside.png")
    (path / "images" / "cam1").symlink_to(path.parent / "outside.png")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: shutil.rmtree(path / "images"), id="no images"),
        pytest.param(lambda path: shutil.rmtree(path / "masks" / "cam0"), id="no masks of one camera"),
        pytest.param(lambda path: (path / "images" / "cam1" / "00001.png").rename(path / "1.png"), id="moved"),
        pytest.param(linked_folder, id="folder linked out"),
        pytest.param(lambda path: shutil.rmtree(path), id="no capture"),
        pytest.param(lambda path: [item.unlink() for item in path.glob("*.*")], id="pictures alone"),
    ],
)
def test_folders(originals, sandbox, capsys, damage):
    path = copy(originals, "capture", sandbox)
    damage(path)
    assert_one_line(capsys, path)


def short_video(path: Path) -> None:
    writer = VideoWriter(path, (12, 10), 24.0)
    writer.add(np.zeros((12, 10, 3), np.uint8))
    writer.close()


def large_video(path: Path) -> None:
    writer = VideoWriter(path, (16, 10), 24.0)
    for _ in range(4):
        writer.add(np.zeros((16, 10, 3), np.uint8))
    writer.close()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/SENTINEL.ts\n#EXT-X-ENDLIST\n"
VIDEOS = {
    "missing": missing,
    "empty": content(b""),
    "half": cut(0.5),
    "text": content(b"not a video" * 100),
    "playlist": content(PLAYLIST),
    "script": content(b"ffconcat version 1.0\nfile '/etc/passwd'\n"),
    "short": short_video,
    "size": large_video,
    "folder": folder_in_place,
    "pipe": pipe_in_place,
    "dangling": dangling_link,
}


@pytest.mark.parametrize("case", VIDEOS)
def test_videos(originals, sandbox, capsys, case):
    path = copy(originals, "video", sandbox)
    VIDEOS[case](path / "videos" / "cam1.mp4")
    assert_one_line(capsys, path)
