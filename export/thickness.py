"""How far hair and clothes reach beyond the rig: what the outlines of all pictures say, spread over its surface."""

from __future__ import annotations

import dataclasses

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import normalize

from mvp4d_export.avatar import Avatar

SPREAD = 0.02  # metres over the rig at rest across which one outline tells another place's thickness
BARE = 0.01  # metres of outline that count for nothing being there, beside those nearby
PLACES = 20_000  # of outlines, at most
MOST = 0.04  # metres; hair that reaches further hangs free
SKIN_HUE = 0.985  # least cosine between a colour of skin and the face's
SKIN_LIGHT = (0.4, 1.8)  # how dark and bright it may be beside the face's


def like_skin(colours: Tensor, skin: Tensor) -> Tensor:
    """Which colours [..., 3] may be skin of the colour `skin` [3] in some other light."""
    hue = normalize(colours, dim=-1) @ normalize(skin, dim=0)
    light = colours.mean(-1) / skin.mean().clamp(min=1e-3)
    return (hue > SKIN_HUE) & (light > SKIN_LIGHT[0]) & (light < SKIN_LIGHT[1])


@dataclasses.dataclass(frozen=True)
class Thickness:
    """What outlines say at M places.

    Attributes:
      places: [M, 3] metres, of the rig at rest. beyond: [M] metres from there to the outline. length: [M] metres of it.
    """

    places: Tensor
    beyond: Tensor
    length: Tensor

    @classmethod
    def of_outline(
        cls,
        avatar: Avatar,
        face: Tensor,
        depth: Tensor,
        mask: Tensor,
        colours: Tensor,
        focal: Tensor,
        skin: Tensor,
        known: Tensor | None = None,
    ) -> Thickness:
        """What one picture says.

        Args:
          face, depth: [H, W] the rig's triangles, -1 where there is none, and metres. mask: [H, W].
          colours: [H, W, 3]; where they are skin on the rig beside an outline, nothing lies on it.
          focal: pixels. skin: [3] its colour.
          known: [H, W] 0 where there is no picture: what ends there may go on.
        """
        solid = (mask > 0.5).cpu().numpy()
        edge = solid & ~ndimage.binary_erosion(solid, border_value=1)
        if not (face >= 0).any():  # a camera that looks past the head
            edge[:] = False
        if known is not None:
            edge &= ndimage.binary_erosion((known > 0).cpu().numpy(), border_value=1)
        away, nearest = ndimage.distance_transform_edt((face < 0).cpu().numpy(), return_indices=True)
        at = torch.from_numpy(nearest[:, edge]).to(face.device)
        pixel = depth[at[0], at[1]] / focal
        beyond = torch.from_numpy(away[edge]).to(depth) * pixel
        beyond = torch.where(like_skin(colours[at[0], at[1]], skin), 0, beyond)
        places = centres(avatar)[face[at[0], at[1]]]
        return cls(places, beyond.clamp(max=MOST), pixel)

    @classmethod
    def of_all(cls, parts: list[Thickness]) -> Thickness:
        """What all of them say: of very many places every so many-th, which then stands for more of its outline."""
        step = max(1, -(-sum(len(part.beyond) for part in parts) // PLACES))
        places, beyond, length = (
            torch.cat([getattr(part, field.name) for part in parts])[::step] for field in dataclasses.fields(cls)
        )
        return cls(places, beyond, length * step)

    def at(self, places: Tensor) -> Tensor:
        """[N] metres of what lies on the rig at `places` [N, 3] of it at rest."""
        weight = torch.exp(-torch.cdist(places, self.places).square() / (2 * SPREAD**2)) * self.length
        return weight @ self.beyond / (weight.sum(1) + BARE)


def centres(avatar: Avatar) -> Tensor:
    """[T, 3] of the rig's triangles at rest."""
    return avatar.rig.template[avatar.rig.faces].mean(1)
