"""Pictures on disk, checked before they are decoded."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mvp4d.core.errors import UserError

MAX_PIXELS = 16384 * 8192


def read_image(path: str | os.PathLike, *, mode: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes one picture.

    Args:
      mode: "RGB", "RGBA" or "L".
      size: (H, W) that it must have; told from the header, before anything is decoded.

    Returns:
      uint8 [H, W, 3], [H, W, 4] or [H, W].

    Raises:
      UserError: missing, damaged, too large or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF")) as picture:
                check_size(path, picture.size[::-1], size)
                return np.asarray(picture.convert(mode))
    except UserError:
        raise
    except Exception as error:  # each of Pillow's decoders has its own set of errors for damaged data
        raise UserError(path, f"not a readable picture ({str(error)[:100] or type(error).__name__})") from None


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(H, W) of a picture, from its header alone."""
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF")) as picture:
                check_size(path, picture.size[::-1], None)
                return picture.size[::-1]
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(path, f"not a readable picture ({str(error)[:100] or type(error).__name__})") from None


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3], [H, W, 4] or [H, W]."""
    Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=4)


def check_size(path: Path, found: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """Refuses a picture or video of (H, W) = `found` that is not `expected`, or too large."""
    if expected is not None and tuple(found) != tuple(expected):
        raise UserError(path, f"is {found[0]} x {found[1]} (height x width), expected {expected[0]} x {expected[1]}")
    if found[0] * found[1] > MAX_PIXELS:
        raise UserError(path, f"is {found[0]} x {found[1]} pixels, too large to be a picture of this kind")
