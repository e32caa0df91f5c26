"""The reference photo: any image file a user has, as a square crop around the head on white."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mvp4d.core.errors import UserError

MAX_PIXELS = 170_000_000  # just below where Pillow itself suspects a decompression bomb
MIN_SIDE = 32  # pixels; below it no face can be seen


def load_photo(path: str | os.PathLike, mask: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads a photo of any mode and size; transparency and an optional mask put it on white.

    Args:
      path: PNG, JPEG, WebP, TIFF ...; 8 or 16 bit; grey, palette, RGB(A), CMYK; EXIF orientation is applied.
      mask: an image of the same size (after EXIF rotation), white where the person is.

    Returns:
      rgb: [H, W, 3] float32 in [0, 1], on white.
      alpha: [H, W] float32 in [0, 1], one where the picture is opaque.

    Raises:
      UserError: the file is missing, empty, not an image, too small or too large, or the mask does not fit it.
    """
    image = _open(path)
    colour, alpha = _straight(image, path)
    if mask is not None:
        matte = np.asarray(_open(mask).convert("L"), np.float32) / 255
        if matte.shape != alpha.shape:
            raise UserError(mask, f"mask of shape {matte.shape} for a photo of shape {alpha.shape}",
                            "give a mask of the photo's size")
        alpha = alpha * matte
    return colour * alpha[..., None] + (1 - alpha[..., None]), alpha


def _open(path: str | os.PathLike) -> Image.Image:
    if not Path(path).is_file():
        raise UserError(path, "no such file")
    try:
        with warnings.catch_warnings():  # Pillow warns of large images; the limit below decides
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UserError(path, f"{width}x{height} pixels are too many",
                            f"scale it below {MAX_PIXELS // 10**6} megapixels")
        if min(width, height) < MIN_SIDE:
            raise UserError(path, f"{width}x{height} pixels are too few",
                            f"give a photo of at least {MIN_SIDE} pixels a side")
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise UserError(path, "not an image", "give a PNG or JPEG photo") from None
    except Image.DecompressionBombError:
        raise UserError(path, "too many pixels", f"scale it below {MAX_PIXELS // 10**6} megapixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(path, f"cannot be read as an image ({error})", "save it again as PNG or JPEG") from None


def _straight(image: Image.Image, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Colour [H, W, 3] and alpha [H, W] in [0, 1], whatever the mode."""
    if image.mode.startswith(("I;16", "I", "F")):
        values = np.asarray(image, np.float32)
        top = 65535.0 if image.mode.startswith("I") else max(float(np.nanmax(values)), 1.0)
        if not np.isfinite(values).all():
            raise UserError(path, "has pixels that are not finite numbers", "save it again as PNG")
        grey = np.clip(values / top, 0, 1)
        return np.repeat(grey[..., None], 3, -1), np.ones(grey.shape, np.float32)
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    return rgba[..., :3], rgba[..., 3]
