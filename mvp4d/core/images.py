"""Pictures on disk, whatever made them: the one reader of every command."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from mvp4d.core.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")  # no other decoder of Pillow is started (EPS runs Ghostscript)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".heic", ".heif")
MAX_PIXELS = 170_000_000
MIN_PHOTO_SIDE = 32  # pixels; below it no face can be seen
RENDERED_SIDES = range(8, 8193)  # pixels; a video's sides are rounded down to even ones
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_EXIF_IFD, _EXIF_WIDTH, _EXIF_HEIGHT, _EXIF_FOCAL_35MM = 0x8769, 0xA002, 0xA003, 0xA405
_DIAGONAL_35MM, _FOCAL_35MM = 43.27, (10, 400)  # millimetres: of the picture, and focal lengths that are believed
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, in sRGB.

    Attributes:
      rgb: uint8 [H, W, 3], straight (not premultiplied) colours.
      alpha: uint8 [H, W], or None where the file has no transparency.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None

    def on_white(self) -> np.ndarray:
        """uint8 [H, W, 3]: what a viewer shows."""
        return self.rgb if self.alpha is None else on_white(self.rgb, self.alpha)


def read_picture(path: str | os.PathLike, *, size: tuple[int, int] | None = None) -> Picture:
    """Decodes one picture, turned as its EXIF says, colours taken from its ICC profile to sRGB; of several frames the
    first. PNG, JPEG, WebP, AVIF, TIFF or BMP (HEIC where pillow-heif is installed); 1 to 16 bits, grey, palette, CMYK.

    Args:
      size: (H, W) that it must have, upright; told from the header, before anything is decoded.

    Raises:
      UserError: missing, no ordinary file, damaged, too large, of another format or another size.
    """
    path = Path(path)
    with _opened(path) as picture:
        check_size(path, _upright_size(picture), size)
        return _decode(picture, path)


def read_image(path: str | os.PathLike, *, mode: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """`read_picture` as one array.

    Args:
      mode: "RGB" (transparency laid on white), "RGBA" (straight alpha) or "L" (`read_mask`).
      size: (H, W) that it must have.

    Returns:
      uint8 [H, W, 3], [H, W, 4] or [H, W].
    """
    if mode == "L":
        return read_mask(path, size=size)
    picture = read_picture(path, size=size)
    if mode == "RGB":
        return picture.on_white()
    alpha = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
    return np.dstack([picture.rgb, alpha])


def read_mask(path: str | os.PathLike, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """A mask, uint8 [H, W]: the transparency of a picture that is not opaque, else how bright it is."""
    path = Path(path)
    with _opened(path) as picture:
        check_size(path, _upright_size(picture), size)
        found = _decode(picture, path, colours=False)
    if found.alpha is not None and found.alpha.min() < 255:
        return found.alpha
    return brightness(found.rgb)


def read_photo(path: str | os.PathLike, mask: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A photo of a person, and where it is opaque.

    Args:
      path: any picture that `read_picture` takes.
      mask: a picture of the same size (upright), white where the person is.

    Returns:
      rgb: uint8 [H, W, 3], straight colours.
      alpha: uint8 [H, W], the picture's own times the mask.

    Raises:
      UserError: not a picture, fewer than 32 pixels a side, or a mask that does not fit.
    """
    size = image_size(path)
    if min(size) < MIN_PHOTO_SIDE:
        raise UserError(
            path, f"{size[1]}x{size[0]} pixels are too few", f"give a photo of at least {MIN_PHOTO_SIDE} pixels a side"
        )
    picture = read_picture(path)
    alpha = np.full(size, 255, np.uint8) if picture.alpha is None else picture.alpha
    if mask is not None:
        found = read_mask(mask)
        if found.shape != size:
            raise UserError(
                mask,
                f"mask of {found.shape[1]}x{found.shape[0]} for a photo of {size[1]}x{size[0]}",
                "give a mask of the photo's size",
            )
        alpha = np.rint(alpha * (found / 255)).astype(np.uint8)
    return picture.rgb, alpha


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(H, W) of a picture, upright, from its header alone."""
    path = Path(path)
    with _opened(path) as picture:
        check_size(path, _upright_size(picture), None)
        return _upright_size(picture)


def has_alpha(path: str | os.PathLike) -> bool:
    """Whether a picture's file has transparency, from its header alone."""
    with _opened(Path(path)) as picture:
        return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3], [H, W, 4] or [H, W]."""
    Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=4)


def brightness(rgb: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of colours uint8 [H, W, 3]: ITU-R BT.601, exact for greys."""
    return ((rgb @ np.array([299, 587, 114]) + 500) // 1000).astype(np.uint8)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] over white; alpha uint8 [H, W] is straight (not premultiplied)."""
    weight = alpha[..., None].astype(np.float32) / 255
    return np.rint(rgb * weight + 255 * (1 - weight)).astype(np.uint8)


def check_size(path: Path, found: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """Refuses a picture or video of (H, W) = `found` that is not `expected`, or too large."""
    if expected is not None and tuple(found) != tuple(expected):
        raise UserError(path, f"is {found[0]} x {found[1]} (height x width), expected {expected[0]} x {expected[1]}")
    if found[0] * found[1] > MAX_PIXELS:
        raise UserError(
            path,
            f"is {found[0]} x {found[1]} pixels, too large to be a picture of this kind",
            f"scale it below {MAX_PIXELS // 10**6} megapixels",
        )


def check_rendered_size(image_size: tuple[int, int]) -> None:
    """Refuses (H, W) of a picture that nothing renders. Raises UserError."""
    if not all(side in RENDERED_SIDES for side in image_size):
        height, width = image_size
        sides = f"{RENDERED_SIDES[0]} to {RENDERED_SIDES[-1]}"
        raise UserError("`size`", f"{width} x {height} pixels", f"use for example 512 or 1920x1080, sides of {sides}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open picture of an allowed format; what its decoder raises in the block becomes a UserError."""
    if not path.is_file():  # a named pipe would be waited for
        raise UserError(path, "no such picture" if not path.exists() else "not a regular file", "give a picture file")
    if not path.stat().st_size:
        raise UserError(path, "is empty", "copy or download it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's: what matters ends in an error
        try:
            with Image.open(path, formats=_formats(path)) as picture:
                yield picture
        except UserError:
            raise
        except Exception as error:  # each of Pillow's decoders has its own set of errors for damaged data
            raise UserError(path, _why(error)) from None


def _why(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC picture"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: pictures of up to {MAX_PIXELS // 10**6} megapixels are read"
    return f"not a readable picture ({' '.join(str(error).split())[:100] or type(error).__name__})"


def _formats(path: Path) -> tuple[str, ...]:
    """The allowed formats; HEIC's decoder is a package of its own."""
    with open(path, "rb") as handle:
        start = handle.read(12)
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIF_BRANDS:
        return FORMATS
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports] (installed by who needs it)
    except ImportError:
        if start[8:12] in (b"mif1", b"msf1"):  # an AVIF may begin so, too
            return FORMATS
        raise UserError(
            path, "is a HEIC picture, whose decoder is not installed", "pip install pillow-heif, or save it as JPEG"
        ) from None
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def told_focal(path: str | os.PathLike) -> float | None:
    """Focal length over the longer side, as the camera wrote it into the file; None where it did not, or where the
    picture has other proportions than the camera made: it was cropped.

    Raises:
      UserError: as `read_picture`.
    """
    with _opened(Path(path)) as picture:
        told, sides = picture.getexif().get_ifd(_EXIF_IFD), sorted(picture.size)
    focal = told.get(_EXIF_FOCAL_35MM, 0)
    try:
        taken = sorted((told.get(_EXIF_WIDTH, 0), told.get(_EXIF_HEIGHT, 0)))
        whole = abs(sides[0] / sides[1] - taken[0] / taken[1]) < 0.01
        if not whole or not _FOCAL_35MM[0] <= focal <= _FOCAL_35MM[1]:
            return None
        return float(focal / _DIAGONAL_35MM * np.hypot(*taken) / taken[1])
    except (TypeError, ZeroDivisionError):  # what a file says need not be numbers
        return None


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    height, width = picture.size[::-1]
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        # Pillow turns these itself, and the size it tells beforehand depends on its version
        width, height = picture.tag_v2[256], picture.tag_v2[257]
    return (width, height) if picture.getexif().get(0x0112) in _TURNED else (height, width)


def _decode(picture: Image.Image, path: Path, *, colours: bool = True) -> Picture:
    """`colours` False leaves the numbers of a mask as they are: a profile is about colours."""
    profile = picture.info.get("icc_profile") if colours else None
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        upright = Image.fromarray(_to_bytes(np.asarray(upright), upright.mode, path))
    alpha = None
    if upright.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright.getchannel("A"))
    if upright.mode not in ("L", "RGB", "CMYK"):
        upright = upright.convert("RGB")
    rgb = np.asarray((_to_srgb(upright, profile) or upright).convert("RGB"))
    return Picture(rgb, alpha)


def _to_bytes(values: np.ndarray, mode: str, path: Path) -> np.ndarray:
    """16-bit (mode I;16 or I) and floating-point greys [H, W] as uint8."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(path, "has pixels that are not finite numbers", "save it again as PNG")
    top = 65535.0 if mode.startswith("I") else max(float(values.max(initial=0.0)), 1.0)
    if mode.startswith("I") and values.max(initial=0.0) > top:
        raise UserError(path, "has 32-bit pixels", "save it with 8 or 16 bits")
    return np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image | None:
    """L, RGB or CMYK by its ICC profile to sRGB; None where there is nothing to do, or the profile is unusable."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        profile_of: Any = source.profile  # Pillow's type says a file where it holds a core profile
        space = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}.get(profile_of.xcolor_space)
        if space != picture.mode or (space == "RGB" and "sRGB" in ImageCms.getProfileDescription(source)):
            return None
        return ImageCms.profileToProfile(
            picture,
            source,
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None
