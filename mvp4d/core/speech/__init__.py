"""Speech to motion: phones with times, a mouth that says them, and blinks, brows and head that go along."""

from __future__ import annotations

from mvp4d.core.speech.phones import Phone, read_phones
from mvp4d.core.speech.sound import Sound, read_sound
from mvp4d.core.speech.talk import talk

__all__ = ["Phone", "Sound", "read_phones", "read_sound", "talk"]
