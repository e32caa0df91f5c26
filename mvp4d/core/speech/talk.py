"""Sound in, motion out."""

from __future__ import annotations

import numpy as np

from mvp4d.core.heads.motion import Motion
from mvp4d.core.sound import Sound, loudness
from mvp4d.core.speech.manner import manner
from mvp4d.core.speech.mouth import mouth
from mvp4d.core.speech.phones import Phone


def talk(sound: Sound, phones: list[Phone], *, fps: float = 30.0, seed: int = 0) -> Motion:
    """The motion of a head that says those phones: expressions [F, 52] in ARKit's order, F = ceil(duration fps).

    Args:
      phones: in order; empty for a face that listens.
      seed: of blinks, brows and head movement; the mouth does not depend on it.
    """
    frames = max(int(np.ceil(sound.duration * fps - 1e-6)), 1)
    loud = loudness(sound, fps, frames)
    spoken = [phone for phone in phones if phone.start < frames / fps]
    said = mouth(spoken, loud, fps) if spoken else np.zeros((frames, 52))
    face, neck, eyes = manner(spoken, loud, fps, seed)
    still = np.zeros((frames, 3), np.float32)
    return Motion(
        np.clip(said + face, 0, 1).astype(np.float32),
        still,
        still,
        neck.astype(np.float32),
        still,
        eyes.astype(np.float32),
        fps,
    )
