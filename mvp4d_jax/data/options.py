"""What is chosen of how captures become records."""

from __future__ import annotations

import dataclasses

from mvp4d.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """How captures become records.

    Attributes:
      image_size: pixels a side of the square crops.
      frames: F of a window, 1 + s k where a latent frame holds s.
      stride: frames between the starts of neighbouring windows.
      images: single images encoded per view: references, and the frames of static samples.
      crop: "head" (a still square around the head, per view), "none" (the whole image), or "reference": whole images,
        but references cropped around the head, as a photo is when sampling.
      variants: crops per view: the plain one, and variants - 1 jittered ones.
      jitter_scale, jitter_shift: largest change of a jittered crop's size (relative), place (in its sides).
      colours: scenes made of each capture: one in its own colours, and colours - 1 recoloured ones (`small.recolour`).
      photos, photo_angle: where the model is shown painted photos: how many of each scene's images are painted, and how
        far from frontal they may be, in radians (`mvp4d prepare` gives `config.sampling.reference_angle`).
      fit_error: by how much photos' fits miss, as a share of the face's size (`data.photos`); trackers leave 0.015 to
        0.03. Above 0 `photos` of each scene's images serve as references, also where none is painted.
      photo_error: 0 .. 1, how badly those photos are cut out, blurred and compressed (`data.photos.degrade`).
      captures_per_shard: how many captures one file holds.
    """

    image_size: int
    frames: int
    stride: int
    images: int
    crop: str = "head"
    variants: int = 1
    jitter_scale: float = 0.15
    jitter_shift: float = 0.08
    colours: int = 1
    photos: int = 2
    photo_angle: float = 1.05
    fit_error: float = 0.0
    photo_error: float = 0.0
    captures_per_shard: int = 8

    def __post_init__(self):
        if self.crop not in ("head", "none", "reference"):
            raise UserError("prepare.crop", f"is '{self.crop}'", "choose 'head', 'none' or 'reference'")
        if (
            min(
                self.image_size,
                self.stride,
                self.images,
                self.variants,
                self.colours,
                self.photos,
                self.captures_per_shard,
            )
            < 1
        ):
            raise UserError(
                "prepare",
                "image_size, stride, images, variants, colours, photos and captures_per_shard must be at least 1",
            )
        if not 0 <= self.fit_error <= 0.2 or not 0 <= self.photo_error <= 1:
            raise UserError(
                "prepare.fit_error and prepare.photo_error",
                f"are {self.fit_error:g} and {self.photo_error:g}",
                "choose 0 to 0.2 and 0 to 1",
            )

    @property
    def disturbs(self) -> bool:
        """Whether references are made to look like photos and their fits."""
        return self.fit_error > 0 or self.photo_error > 0
