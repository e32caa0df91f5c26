"""Videos as they are seen: upright, square pixels, each frame when it is shown."""

import os
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from mvp4d.core.capture import convert
from mvp4d.core.errors import UserError
from mvp4d.core.video import VideoWriter, count_frames, look_at_video, read_video, video_facts


def ffmpeg(*arguments: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Forty frames of 64 x 48; frame k is a grey of 6 k."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, (48, 64), 25, crf=1) as writer:
        for frame in range(40):
            picture = np.full((48, 64, 3), 6 * frame, np.uint8)
            picture[:10, :10] = 255 - 6 * frame
            writer.add(picture)
    return path


def shown(frames) -> list[int]:
    """Which frames of the clip these are, by their grey."""
    return [round(float(frame[20:-5, 20:-5].mean()) / 6) for frame in frames]


def test_every_frame_in_order(clip):
    assert video_facts(clip) == ((48, 64), 25.0)
    assert shown(read_video(clip)) == list(range(40)) and count_frames(clip) == 40
    assert shown(read_video(clip, start=35)) == list(range(35, 40))
    facts = look_at_video(clip)
    np.testing.assert_allclose(facts.times, np.arange(40) / 25, atol=1e-5)
    assert facts.steady and facts.fps == 25 and facts.resampled(25).tolist() == list(range(40))


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_the_display_matrix_is_applied(clip, tmp_path, turn):
    ffmpeg("-display_rotation", turn, "-i", clip, "-c", "copy", tmp_path / "turned.mp4")
    expected = np.rot90(next(read_video(clip)), turn // 90)
    np.testing.assert_array_equal(next(read_video(tmp_path / "turned.mp4", size=expected.shape[:2])), expected)
    assert video_facts(tmp_path / "turned.mp4")[0] == expected.shape[:2]


@pytest.mark.parametrize("ratio, size", [("4/3", (48, 85)), ("3/4", (64, 64)), ("1/1", (48, 64))])
def test_pixels_become_square(clip, tmp_path, ratio, size):
    ffmpeg("-i", clip, "-vf", f"setsar={ratio}", "-crf", "1", tmp_path / "wide.mp4")
    assert video_facts(tmp_path / "wide.mp4")[0] == next(read_video(tmp_path / "wide.mp4")).shape[:2] == size
    assert shown(read_video(tmp_path / "wide.mp4")) == list(range(40))


def test_frames_of_varying_length_are_resampled(clip, tmp_path):
    """The first 16 frames as they are, then every third: what is on the screen every 40 ms is the last one shown."""
    ffmpeg("-i", clip, "-vf", "select=lt(n\\,16)+not(mod(n\\,3))", "-fps_mode", "vfr", "-crf", "1", tmp_path / "v.mp4")
    kept = [frame for frame in range(40) if frame < 16 or frame % 3 == 0]
    facts = look_at_video(tmp_path / "v.mp4")
    assert shown(read_video(tmp_path / "v.mp4")) == kept and not facts.steady and facts.fps == 25
    on_screen = [max(frame for frame in kept if frame <= moment) for moment in range(40)]
    assert shown(read_video(tmp_path / "v.mp4", frames=facts.resampled(25))) == on_screen
    assert shown(read_video(tmp_path / "v.mp4", frames=facts.resampled(12.5))) == on_screen[::2]


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.avi"])
def test_milliseconds_are_no_varying_length(clip, tmp_path, name):
    ffmpeg("-r", "30", "-i", clip, "-frames:v", "30", tmp_path / name)
    facts = look_at_video(tmp_path / name)
    assert facts.steady and facts.fps == pytest.approx(30, abs=0.01) and len(facts.times) == 30


def test_imports_take_a_video_of_the_fits_length_or_resample_it(clip, tmp_path, capsys):
    assert convert.pick_frames(clip, 30.0, 40).tolist() == list(range(40))  # frame by frame, whatever the rates
    assert convert.pick_frames(clip, 50.0, 79).tolist() == sorted([*range(40), *range(39)])
    assert "resampled" in capsys.readouterr().err
    with pytest.raises(UserError, match="40 frames at 25 a second, 79 at 50, expected 60"):
        convert.pick_frames(clip, 50.0, 60)


@pytest.mark.timeout(30)
def test_what_is_no_video(tmp_path, clip):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:100])
    (tmp_path / "list.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("text", "cut", "list", "pipe", "none"):
        for read in (video_facts, look_at_video, lambda path: list(read_video(path))):
            with pytest.raises(UserError) as caught:
                read(tmp_path / f"{name}.mp4")
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected 10 x 10"):
        next(read_video(clip, size=(10, 10)))
