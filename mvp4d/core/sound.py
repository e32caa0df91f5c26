"""Sound files as samples, by the ffmpeg that imageio-ffmpeg brings: any container, rate and number of channels."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from scipy.ndimage import gaussian_filter1d

from mvp4d.core.errors import UserError
from mvp4d.core.progress import say

RATE = 16000  # samples per second: what the recogniser wants
LONGEST = 1800  # seconds
SPARE = 0.25  # seconds of a sound that may be cut unsaid: a frame of the motion, what encoders add
_KINDS = "give a WAV, FLAC, MP3 or M4A file"
# Playlists, which may name other files or the network, are left out.
_CONTAINERS = "wav,w64,aiff,flac,mp3,ogg,aac,caf,au,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
_GUARD = ("-protocol_whitelist", "file,pipe", "-format_whitelist", _CONTAINERS)


# A mean of the channels: by itself ffmpeg adds more than that up, and loud sound clips.
_MIXED = f"aresample={RATE}:out_chlayout=mono:rematrix_maxval=1.0"


@dataclasses.dataclass(frozen=True)
class Sound:
    """Mono sound.

    Attributes:
      samples: float32 [N] in [-1, 1] at `RATE`.
      source_rate: samples per second of the file.
    """

    samples: np.ndarray
    source_rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / RATE


def read_sound(path: str | os.PathLike) -> Sound:
    """Decodes a sound file, its channels mixed, at 16 kHz.

    Raises:
      UserError: missing, damaged, without sound, empty or longer than half an hour.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such sound file", _KINDS)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-hide_banner",
        *_GUARD,
        "-i",
        str(path.resolve()),
        "-vn",
        "-t",
        str(LONGEST + 1),
        "-af",
        _MIXED,
        "-f",
        "f32le",
        "pipe:1",
    ]
    done = subprocess.run(command, capture_output=True)
    told = done.stderr.decode("utf-8", "replace")
    rate = re.search(r"Audio: .*?(\d+) Hz", told)
    if "Video: " in told and "Audio: " not in told:
        raise UserError(path, "holds pictures without sound", _KINDS)
    if done.returncode or rate is None:
        raise UserError(path, f"not a readable sound file ({_reason(told)})", _KINDS)
    samples = np.frombuffer(done.stdout, "<f4")
    if len(samples) < RATE // 20:
        raise UserError(path, f"holds {len(samples) / RATE:.3f} s of sound", "at least 0.05 s are needed")
    if len(samples) > LONGEST * RATE:
        raise UserError(path, f"is longer than {LONGEST // 60} minutes", "cut it into parts")
    if not np.isfinite(samples).all():
        raise UserError(path, "holds samples that are not finite", "convert it to 16-bit WAV")
    return Sound(samples.clip(-1, 1), int(rate[1]))


def note_cut(path: str | os.PathLike, sound: Sound, seconds: float) -> None:
    """Says how much of a sound a motion of so many seconds cuts."""
    if sound.duration > seconds + SPARE:
        say(
            f"note: {path}: {sound.duration - seconds:.1f} of its {sound.duration:.1f} s are cut, the motion lasts "
            f"{seconds:.1f} s; 'mvp4d speak {shlex.quote(str(path))} --out NAME.npz' makes one that speaks it"
        )


def loudness(sound: Sound, fps: float, frames: int) -> np.ndarray:
    """Root mean square [F] over about 60 ms around each frame."""
    power = gaussian_filter1d(sound.samples.astype(np.float64) ** 2, 0.03 * RATE, truncate=3)
    places = np.minimum(np.round(np.arange(frames) / fps * RATE).astype(int), len(power) - 1)
    return np.sqrt(power[places])


def add_sound(video: Path, sound: str | os.PathLike, start: float = 0.0) -> None:
    """Lays a sound file under a video that nobody reads yet: AAC, the pictures untouched.

    The video's length stays: a longer sound is cut, after a shorter one there is silence.

    Args:
      start: seconds of the sound that are left out at its beginning.

    Raises:
      UserError: no sound file, or one that holds no sound.
    """
    seconds = imageio_ffmpeg.count_frames_and_secs(str(video.resolve()))[1]
    mixed = video.with_name(f"{video.stem}.sound{video.suffix}")
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-y",
        "-loglevel",
        "error",
        "-i",
        str(video.resolve()),
        *_GUARD,
        "-ss",
        f"{start:.6f}",
        "-i",
        str(Path(sound).resolve()),
        "-map",
        "0:v:0",
        "-map",
        "1:a:0",
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        "-b:a",
        "160k",
        "-af",
        "apad",
        "-t",
        f"{seconds:.6f}",
        "-movflags",
        "+faststart",
        "-fflags",
        "+bitexact",
        "-flags:a",
        "+bitexact",
        "-map_metadata",
        "-1",
        str(mixed.resolve()),
    ]
    try:
        done = subprocess.run(command, capture_output=True)
        if done.returncode:
            raise UserError(
                sound,
                f"cannot be laid under the video ({_reason(done.stderr.decode(errors='replace'))})",
                _KINDS,
            )
        os.replace(mixed, video)
    finally:
        mixed.unlink(missing_ok=True)


def _reason(told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return (lines[-1] if lines else "no sound in it")[:120]
