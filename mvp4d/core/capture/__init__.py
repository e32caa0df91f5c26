"""Captures: the one on-disk format between the parts, and adapters to and from other tools' layouts."""

from mvp4d.core.capture.format import Capture, validate
from mvp4d.core.capture.writer import CaptureWriter

__all__ = ["Capture", "CaptureWriter", "validate"]
