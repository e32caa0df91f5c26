"""What lips and lids hide: the head's own Gaussians, which a fit leaves alone.

No photo of an open-eyed, closed-mouthed person shows them, and generated views show lips and skin where they are.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.dataset import Dataset
from mvp4d_export.harmonics import colour_of_sh
from mvp4d_export.initialise import moved_vertices, nearest
from mvp4d_export.laid import areas_of, followed, scattered, surface_tensors
from mvp4d_export.rig import Rig
from mvp4d_export.triangles import normals_of, triangle_frames
from mvp4d_export.visibility import TEETH, gaussians_of, parts_named, shows_parts, triangle_parts

# Straight colours of the mouth at its lips, in the light of a face as bright as `BRIGHT`.
MOUTH_COLOURS = {
    "inside": (0.42, 0.17, 0.16),
    "gum": (0.66, 0.36, 0.34),
    "teeth": (0.86, 0.82, 0.75),
    "tongue": (0.66, 0.34, 0.33),
}
BRIGHT, COLOURED = 0.6, 0.3  # mean and saturation of a face's colours in the light that the mouth's are meant for
FACE, TINGE = (0.78, 0.6, 0.5), 0.5  # one in white light, and how far the mouth's hue follows that of another face
DEEP, DARKEST = 0.05, 0.2  # metres behind the teeth's front over which light fades, to this share
SIDEWAYS = 0.55  # share of light on a surface that is seen edge-on
WET = 0.8  # exponent of that light on the tongue, which shines
TEETH_LIT, TEETH_DEEP = 0.008, 0.027  # metres of teeth behind their front that are lit, and over which light fades then
EDGE = 0.75  # share of light where teeth bite
TEETH_PIXELS = 50  # of a photo that tell their colour
TEETH_QUANTILE = 0.75  # of their brightness, which tells it: lips and gaps are darker
TEETH_DIMMEST = 0.85  # brightness over a face's below which it is none of teeth
SPACING, FRONT_SPACING = 0.0014, 0.0008  # metres between Gaussians of the teeth, and where they face the lips
FRONT = 0.02  # metres behind the front within which they do
GAP, GAP_SHADE = 0.0009, 0.42  # metres over which the gap between two teeth is dark, and what light is left in it
LOWER = 0.003  # metres that motions of the rig move lower teeth at least, and upper ones never
MOUTH_SHARE = 4000  # Gaussians of the rest of the mouth at most, but for ...
VESTIBULE, LINING = 0.006, 0.0008  # ... metres behind the front within which lips and gums face each other, and between
# Gaussians there: coarse ones would cover teeth from before, and reach beyond lips
CLOSED = 1.5  # times as broad, those of the rest: scattered at random they must leave no gaps to the back of the head
NOT_SKIN = (*INTERIOR, *EYES, "lash", "lining", "nostril")  # parts
UNFOLDS = 1.5  # growth of an area from which it counts as a fold
LID_REACH = 0.012  # metres from the eyes within which folds may be lids ...
LID_COVER = 0.004  # ... which lie so near to them where they unfold: a brow that is raised does not
FOLD_SPACING, FOLD_SIZE = 0.0006, 0.0009  # metres between Gaussians on unfolded lids, and those they are as large for
RING = (0.010, 0.020)  # metres from an eye's middle sideways of it in which skin below it tells a lid's colour
FOLD_MISS = 0.0008  # metres by which they may miss the rig's lid at rest
LID_LIFT = 0.0006  # metres that they lie before it: eyes have thickness
SOCKET = (0.008, 0.014)  # the same above it, where a deep-set eye is in shadow
SKIN_QUANTILE = 0.7  # of the colours there, which is skin's
FEW = 8  # Gaussians that tell no colour
LID_SHADE = 0.9  # of a lid's light beside that skin's


@torch.no_grad()
def lid_triangles(avatar: Avatar) -> Tensor:
    """[T] bool: triangles of the UV remesh on the skin that a blink unfolds over the eyes."""
    rig, part = avatar.rig, triangle_parts(avatar)
    eyes = parts_named(rig.part_names, EYES).to(avatar.device)
    skin = ~parts_named(rig.part_names, NOT_SKIN).to(avatar.device)[part]
    if not eyes.any() or not len(rig.expression_basis):
        return torch.zeros_like(skin)
    rest = avatar.gather(rig.template)
    areas = areas_of(rest[avatar.mesh_faces])
    eye = rig.template[rig.faces[eyes[rig.face_parts]].flatten().unique()]
    most = torch.zeros_like(areas)
    unfolded = corners = rest[avatar.mesh_faces]
    near = nearest(corners.mean(1), eye)[0] < LID_REACH
    for basis in rig.expression_basis:
        posed = avatar.gather(rig.template + basis)[avatar.mesh_faces]
        grown = areas_of(posed)
        unfolded = torch.where((grown > most)[:, None, None], posed, unfolded)
        most = torch.maximum(most, grown)
    over = nearest(unfolded.mean(1), eye)[0] < LID_COVER
    return skin & near & over & (most > UNFOLDS * areas)


@torch.no_grad()
def seed_hidden(avatar: Avatar, lids: Tensor, face: Tensor, teeth: Tensor | None = None, longer: float = 0.0) -> int:
    """Puts the head's own Gaussians in the place of those of mouth and lids.

    Args:
      lids: [T] bool, `lid_triangles`. face: [3] the skin's colour in the photo, which tells its light.
      teeth: [3] their colour where a photo shows them. longer: metres that the upper ones are, than the head's.

    Returns:
      how many there are: the last ones.
    """
    colours = skin_beside_eyes(avatar, face)
    parts = [*_mouth(avatar, face, teeth, longer), *_lids(avatar, colours)]
    keep = ~(gaussians_of(avatar, INTERIOR) | lids[avatar.binding])
    binding = torch.cat([avatar.binding[keep], *(binding for binding, _ in parts)])
    tensors = {
        name: torch.cat([getattr(avatar, name).detach()[keep], *(part[name] for _, part in parts)])
        for name in GAUSSIAN_TENSORS
    }
    avatar.set_gaussians(binding, tensors)
    return int(len(binding) - keep.sum())


class OwnMouths:
    """The head's own mouth in generated views where the rig has it open.

    Their few pixels of it tell nothing, and lips that cover it have to learn to part.
    """

    def __init__(self, avatar: Avatar, data: Dataset):
        self.avatar, self.data = avatar, data
        # (frame, view) -> rows and columns of the mouth and what `_look` has there; None where none shows.
        # Whole pictures would fill a GPU.
        self._found: dict[tuple[int, int], tuple[slice, slice, Tensor, Tensor] | None] = {}

    @torch.no_grad()
    def __call__(
        self, pictures: Tensor, frame: int, views: list[int], fixed: Tensor, gain: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pictures [B, h, w, 3] of a frame with it, and [B, h, w] where it is.

        Args:
          fixed: [G] bool, the head's own Gaussians. gain: [B, 1, 1, 3] that turns their colours into the views'.
        """
        size = pictures.shape[1:3]
        whole = pictures.new_zeros(len(views), 4, *self.data.size)  # mouth, and its colours
        for index, view in enumerate(views):
            if (frame, view) not in self._found:
                self._found[frame, view] = self._look(frame, view, fixed)
            found = self._found[frame, view]
            if found is not None:
                rows, columns, inside, colours = found
                whole[index, 0, rows, columns] = inside
                whole[index, 1:, rows, columns] = colours.permute(2, 0, 1)
        whole = adaptive_avg_pool2d(whole, size).permute(0, 2, 3, 1)
        mouths, own = whole[..., :1], whole[..., 1:] * gain
        # Averaged over pixels with and without a mouth, colours carry its share already.
        return pictures * (1 - mouths) + own, mouths[..., 0]

    def _look(self, frame: int, view: int, fixed: Tensor) -> tuple[slice, slice, Tensor, Tensor] | None:
        """Where a view has the inside of the mouth, [h, w] 1 there, and [h, w, 3] how the head has it, 0 beside it."""
        (height, width), data, avatar = self.data.size, self.data, self.avatar
        pose, viewmat, K = data.pose[frame : frame + 1], data.viewmats[view, frame], data.Ks[view, frame]
        inside = shows_parts(avatar, pose, viewmat, K, max(height, width), INTERIOR)[:height, :width].float()
        places = inside.nonzero()
        if not len(places):
            return None
        splats = avatar.splats(avatar.vertices(pose, torch.zeros_like(avatar.mesh_weights)))
        own = dataclasses.replace(splats, opacities=splats.opacities * fixed)
        dark = torch.zeros(3, device=avatar.device)
        colours = avatar.render(own, pose, viewmat[None], K[None], width, height, dark).rgb[0] * inside[..., None]
        (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
        rows, columns = slice(top, bottom + 1), slice(left, right + 1)
        return rows, columns, inside[rows, columns].clone(), colours[rows, columns].clone()


def in_light(colour: tuple[float, float, float], face: Tensor) -> Tensor:
    """[3] a colour of the mouth in the light that a face of colour [3] is in; grey where the photo is grey."""
    white = face.new_tensor(FACE)
    hue = face / face.mean().clamp(min=1e-3) * white.mean() / white
    own = face.new_tensor(colour) * hue**TINGE
    brightness = (face.mean() / BRIGHT).clamp(0.55, 1.1)
    saturation = (_saturation(face) / COLOURED).clamp(0, 1)
    return torch.lerp(own.mean().expand(3), own, saturation) * brightness


def teeth_colour(rgb: Tensor, teeth: Tensor, face: Tensor) -> Tensor | None:
    """[3] the colour of teeth in a photo [S, S, 3] where it shows them, [S, S] bool; None where it shows too few or
    what is there is darker or more colourful than they are beside a face of colour [3]."""
    pixels = rgb[teeth]
    if len(pixels) < TEETH_PIXELS:
        return None
    brightness = pixels.mean(1)
    colour = pixels[brightness >= brightness.quantile(TEETH_QUANTILE)].median(0).values
    dim = colour.mean() < TEETH_DIMMEST * face.mean()
    return None if dim or _saturation(colour) > _saturation(face) else colour


def _saturation(colour: Tensor) -> Tensor:
    return (colour.amax() - colour.amin()) / colour.amax().clamp(min=1e-3)


def upper_teeth(rig: Rig) -> Tensor:
    """[F] bool: the rig's triangles on teeth that motions do not move with the jaw; some heads have all in one part."""
    teeth = parts_named(rig.part_names, TEETH).to(rig.faces.device)[rig.face_parts]
    return teeth & (moved_vertices(rig)[rig.faces].mean(1) <= LOWER)


def _mouth(
    avatar: Avatar, face: Tensor, teeth_seen: Tensor | None, longer: float = 0.0
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Binding and tensors of the mouth's Gaussians, a part at a time, lit from before the lips."""
    rig = avatar.rig
    hidden = parts_named(rig.part_names, INTERIOR).to(avatar.device)
    chosen = hidden[rig.face_parts].nonzero()[:, 0]
    if not len(chosen):
        return []
    corners = rig.template[rig.faces[chosen]]
    teeth = parts_named(rig.part_names, TEETH).to(avatar.device)[rig.face_parts[chosen]]
    upper = upper_teeth(rig)[chosen]
    if longer and upper.any():
        height = corners[upper][..., 1]
        gums = height.amax()
        corners[upper, :, 1] = gums - (gums - height) * (1 + longer / (gums - height.amin()).clamp(min=1e-3))
    normal, middle = normals_of(corners), corners.mean(1)
    front = middle[teeth if teeth.any() else slice(None), 2].quantile(0.98)
    coarse = max(SPACING, float((areas_of(corners[~teeth]).sum() / MOUTH_SHARE).sqrt()))
    spacing = torch.where((normal[:, 2] > 0) & (middle[:, 2] > front - FRONT), FRONT_SPACING, SPACING)
    before = middle[:, 2] > front - VESTIBULE
    spacing = torch.where(teeth, spacing, torch.where(before, min(LINING, coarse), coarse))
    generator = torch.Generator().manual_seed(0)
    points, triangle, _ = scattered(corners, spacing, generator)
    tooth = _pieces(rig.faces[chosen])[triangle]  # of the mesh: points lie on some of its triangles alone
    row = torch.where(teeth, 2 * rig.face_parts[chosen] + ~upper, -1)
    gaps = _gaps(points, tooth, row[triangle])
    part, teeth, spacing, normal = (value[triangle] for value in (rig.face_parts[chosen], teeth, spacing, normal))
    behind = front - points[:, 2]
    light = _dimmed(behind / DEEP) * (SIDEWAYS + (1 - SIDEWAYS) * normal[:, 2].clamp(min=0))
    edges = 1 - (1 - EDGE) * normal[:, 1].square()
    wet = torch.tensor(["tongue" in name.lower() for name in rig.part_names], device=avatar.device)[part]
    light = torch.where(
        teeth, gaps * edges * _dimmed((behind - TEETH_LIT) / TEETH_DEEP), light ** torch.where(wet, WET, 1.0)
    )
    breadth = torch.where(teeth, spacing, CLOSED * spacing)
    mesh_part = triangle_parts(avatar)
    centre = triangle_frames(avatar.gather(rig.template), avatar.mesh_faces)[2]
    found = []
    for index in part.unique().tolist():
        own = (mesh_part == index).nonzero()[:, 0]
        if not len(own):
            continue
        at = part == index
        name = rig.part_names[index].lower()
        word = next(word for word in MOUTH_COLOURS if word in name)
        own_colour = in_light(MOUTH_COLOURS[word], face)
        if word == "teeth" and teeth_seen is not None:
            own_colour = teeth_seen
        colours = own_colour * light[at, None]
        binding = own[nearest(points[at], centre[own])[1]]
        found.append(
            (
                binding,
                surface_tensors(avatar, rig.template, binding, points[at], normal[at], colours, breadth[at]),
            )
        )
    return found


def _dimmed(depth: Tensor) -> Tensor:
    """Light at a depth in shares of that at which it has faded to `DARKEST`."""
    return 1 - (1 - DARKEST) * depth.clamp(0, 1)


def _gaps(points: Tensor, tooth: Tensor, row: Tensor) -> Tensor:
    """[M] light on points [M, 3] of teeth [M]: less near the next tooth of the same row [M]; row -1: no tooth."""
    light = torch.ones_like(points[:, 0])
    for own in tooth[row >= 0].unique():
        here = (row >= 0) & (tooth == own)
        others = (row == row[here][0]) & (tooth != own)
        if others.any():
            away = nearest(points[here], points[others])[0]
            light[here] = 1 - (1 - GAP_SHADE) * (-(away / GAP).square()).exp()
    return light


def _pieces(triangles: Tensor) -> Tensor:
    """[M] which of the pieces that hang together by their vertices each triangle [M, 3] belongs to."""
    edges = torch.cat((triangles[:, :2], triangles[:, 1:])).cpu().numpy()
    count = int(edges.max(initial=-1)) + 1
    joined = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (count, count))
    piece = connected_components(joined, directed=False)[1]
    return torch.from_numpy(piece).to(triangles.device)[triangles[:, 0]]


def _lids(avatar: Avatar, colours: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Binding and tensors of the lids' Gaussians, laid on the rig in the expression that unfolds each triangle most."""
    rig = avatar.rig
    eyes = parts_named(rig.part_names, EYES).to(avatar.device)
    if not colours or not len(rig.expression_basis):
        return []
    skin = ~parts_named(rig.part_names, NOT_SKIN).to(avatar.device)
    eye = rig.template[rig.faces[eyes[rig.face_parts]].flatten().unique()]
    rest = rig.template[rig.faces]
    near = skin[rig.face_parts] & (nearest(rest.mean(1), eye)[0] < LID_REACH)
    chosen = near.nonzero()[:, 0]
    areas = torch.stack([areas_of((rig.template + offset)[rig.faces[chosen]]) for offset in rig.expression_basis])
    most, which = areas.max(0)
    folds = most > UNFOLDS * areas_of(rest[chosen])
    own = skin[triangle_parts(avatar)].nonzero()[:, 0]
    middles = torch.stack([middle for middle, _ in colours])
    shades = torch.stack([colour for _, colour in colours]) * LID_SHADE
    generator = torch.Generator().manual_seed(0)
    found = []
    for expression in which[folds].unique().tolist():
        faces = chosen[folds & (which == expression)]
        posed = rig.template + rig.expression_basis[expression]
        points, triangle, inside = scattered(posed[rig.faces[faces]], FOLD_SPACING, generator)
        at_rest = (inside[..., None] * rest[faces[triangle]]).sum(1)
        binding, off = followed(avatar, [posed, rig.template], [points, at_rest], own)
        kept = (off < FOLD_MISS) & (nearest(points, eye)[0] < LID_COVER)
        normal = normals_of(posed[rig.faces[faces]])[triangle]
        points = points + LID_LIFT * normal
        colour = shades[torch.cdist(points, middles).argmin(1)]
        tensors = surface_tensors(avatar, posed, binding, points, normal, colour, FOLD_SIZE)
        found.append((binding[kept], {name: value[kept] for name, value in tensors.items()}))
    return found


def skin_beside_eyes(avatar: Avatar, face: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Middle [3] of each eye and colour [3] of the skin around it, lids and brows left out."""
    rig = avatar.rig
    eyes = parts_named(rig.part_names, EYES).to(avatar.device)
    vertices = rig.template[rig.faces[eyes[rig.face_parts]].flatten().unique()]
    if not len(vertices):
        return []
    skin = ~gaussians_of(avatar, NOT_SKIN)
    means = avatar.splats(avatar.gather(rig.template)).means
    rgb = colour_of_sh(avatar.harmonics[:, 0])
    found = []
    for side in (vertices[:, 0] < 0, vertices[:, 0] >= 0):
        if not side.any():
            continue
        middle = vertices[side].mean(0)
        offset = means - middle
        away = offset[:, :2].norm(dim=1)
        near = skin & (offset[:, 2].abs() < 0.04)
        below = near & (away > RING[0]) & (away < RING[1]) & (offset[:, 1] < 0)
        above = near & (away > SOCKET[0]) & (away < SOCKET[1]) & (offset[:, 1] > 0)
        # The upper quantile: lashes, brows and creases are darker.
        colour = rgb[below].quantile(SKIN_QUANTILE, 0) if below.sum() > FEW else face
        if above.sum() > FEW:
            colour = (colour + rgb[above].quantile(SKIN_QUANTILE, 0)) / 2
        found.append((middle, colour))
    return found
