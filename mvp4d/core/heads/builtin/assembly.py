"""Puts the halves of the built-in head together: mirrored vertices, parts, one uv atlas."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from mvp4d.core.heads.builtin import parts
from mvp4d.core.heads.builtin.skin_mesh import WRAP_RADIUS, Patch, build_half

INNER_PARTS = (  # what lies behind lips and lids, and what rims the eyes
    "mouth_inside",
    "gums",
    "upper_teeth",
    "lower_teeth",
    "tongue",
    "sclera",
    "iris",
    "pupil",
    "lashes",
    "lid_lining",
)
PART_NAMES = ("skin", "lips", "nostrils", "ears", *INNER_PARTS)


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The mesh with what its makers know of it. N vertices, T triangles, U uv points.

    Attributes:
      vertices [N, 3] float64; faces, face_uvs [T, 3] int32; uv [U, 2]; face_parts [T] uint8 into PART_NAMES.
      mirror: [N] the vertex on the other side.
      piece: [N] uint8 into `pieces`: which piece of geometry a vertex belongs to.
      domain: [N, 2] place of skin vertices in the unrolled domain (across signed: positive on the head's left), NaN
        elsewhere.
      left: [N] bool, x > 0. rings: vertex indices of the left half by name ("eye", "lips", "nostril", "mouth_up"...).
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    face_uvs: np.ndarray
    face_parts: np.ndarray
    mirror: np.ndarray
    piece: np.ndarray
    domain: np.ndarray
    extra: np.ndarray
    rings: dict[str, np.ndarray]

    pieces = ("skin", "eye", "lashes", "mouth", "upper_teeth", "lower_teeth", "upper_gum", "lower_gum", "tongue", "ear")

    def of(self, *names: str) -> np.ndarray:
        """Mask [N] of the vertices of some pieces."""
        return np.isin(self.piece, [self.pieces.index(name) for name in names])


class _Builder:
    def __init__(self):
        self.vertices, self.faces, self.uv, self.face_uvs, self.parts = [], [], [], [], []
        self.mirror, self.piece, self.domain, self.extra = [], [], [], []
        self.count = self.uv_count = 0

    def add(
        self,
        patch: Patch,
        piece: str,
        face_parts: np.ndarray,
        uv: np.ndarray,
        shared: np.ndarray | None = None,
        domain: np.ndarray | None = None,
        extra: np.ndarray | None = None,
    ) -> np.ndarray:
        """Adds a half and its mirror image; returns where the half's vertices went [n].

        `shared` [n]: vertices that exist already (their index), or -1.
        """
        number = len(patch.vertices)
        shared = np.full(number, -1) if shared is None else shared
        new = shared < 0
        middle = (patch.vertices[:, 0] == 0.0) & new
        left = np.where(new, self.count + np.cumsum(new) - 1, shared)
        sided = new & ~middle
        right_new = self.count + new.sum() + np.cumsum(sided) - 1
        mirror_so_far = np.concatenate(self.mirror) if self.mirror else np.zeros(0, int)
        right = np.where(sided, right_new, left)
        right[~new] = mirror_so_far[shared[~new]]
        flip = np.array([-1.0, 1.0, 1.0])
        self.vertices += [patch.vertices[new], patch.vertices[sided] * flip]
        self.mirror += [right[new], left[sided]]
        total = int(new.sum() + sided.sum())
        self.piece.append(np.full(total, Assembly.pieces.index(piece)))
        domain = np.full((number, 2), np.nan) if domain is None else domain
        self.domain += [domain[new], domain[sided] * np.array([-1.0, 1.0])]
        extra = np.zeros(number) if extra is None else extra
        self.extra += [extra[new], extra[sided]]
        self.faces += [left[patch.faces], right[patch.faces][:, ::-1]]
        self.uv += [uv, np.array([1.0, 0.0]) + uv * np.array([-1.0, 1.0])]
        self.face_uvs += [self.uv_count + patch.faces, self.uv_count + number + patch.faces[:, ::-1]]
        self.parts += [face_parts, face_parts]
        self.count += total
        self.uv_count += 2 * number
        return left


def skin_uv(flat: np.ndarray) -> np.ndarray:
    """Atlas place of the left half of the skin: the face large, the back of the head and the bust small. [n, 2]."""
    angle = flat[:, 0] / WRAP_RADIUS / np.pi
    knots = np.array([0.0, 0.36, 0.55, 1.0])
    across = np.interp(angle, knots, [0.0, 0.30, 0.39, 0.498])
    down = np.interp(
        flat[:, 1], [-0.40, -0.235, -0.165, -0.125, 0.065, 0.12, 0.20], [0.172, 0.235, 0.30, 0.36, 0.83, 0.925, 0.998]
    )
    return np.stack([0.5 + across, down], -1)


def _part(name: str, count: int) -> np.ndarray:
    return np.full(count, PART_NAMES.index(name), np.uint8)


def _skin_parts(half: Patch) -> np.ndarray:
    """Lips, nostrils and the rest of the skin, by which rings a triangle joins."""
    names = np.full(len(half.faces), PART_NAMES.index("skin"), np.uint8)
    lips = np.isin(half.faces, half.tags["lips"][:5]).all(1)
    deep = np.append(half.tags["nostril"][1:], half.tags["nostril_end"])
    nostril = np.isin(half.faces, deep).any(1)
    names[lips] = PART_NAMES.index("lips")
    names[nostril] = PART_NAMES.index("nostrils")
    names[np.isin(half.faces, half.tags["eye"][:3]).all(1)] = PART_NAMES.index("lid_lining")
    return names


def _shrunk_holes(half: Patch) -> np.ndarray:
    """Flat places for what lies behind the openings of eyes and nostrils: inside their holes, nested."""
    flat = half.flat.copy()
    eye = half.tags["eye"]
    centre = flat[eye[2]].mean(0)
    for row, scale in ((1, 0.86), (0, 0.68)):
        flat[eye[row]] = centre + (flat[eye[2]] - centre) * scale
    nostril = half.tags["nostril"]
    centre = flat[nostril[0]].mean(0)
    for row, scale in ((1, 0.8), (2, 0.58), (3, 0.32)):
        flat[nostril[row]] = centre + (flat[nostril[0]] - centre) * scale
    return flat


@functools.lru_cache(maxsize=1)
def assemble() -> Assembly:
    """Builds the whole head once per process."""
    half, builder = build_half(), _Builder()
    flat = _shrunk_holes(half)
    uv = skin_uv(flat)
    builder.add(half, "skin", _skin_parts(half), uv, domain=flat)
    rings = {name: half.tags[name] for name in ("eye", "lips", "nostril", "crown")}
    ball = parts.eyeball()
    pupil, iris, sclera = ball.tags["counts"]
    rings["eyeball"] = builder.add(
        ball, "eye", np.concatenate([_part("pupil", pupil), _part("iris", iris), _part("sclera", sclera)]), ball.flat
    )
    lash = parts.lashes(half.vertices[half.tags["eye"][2]])
    rings["lashes"] = builder.add(lash, "lashes", _part("lashes", len(lash.faces)), lash.flat)
    rings["lash_roots"] = half.tags["eye"][2][lash.tags["root"]]
    contact = half.tags["lips"][0]
    bag = parts.mouth_inside(half.vertices[contact])
    shared = np.full(len(bag.vertices), -1)
    shared[: len(contact)] = contact
    rings["mouth"] = builder.add(
        bag, "mouth", _part("mouth_inside", len(bag.faces)), bag.flat, shared, extra=bag.tags["up"]
    )
    for name, piece, patch in (
        ("upper_teeth", "upper_teeth", parts.teeth(True)),
        ("lower_teeth", "lower_teeth", parts.teeth(False)),
        ("gums", "upper_gum", parts.gum(True)),
        ("gums", "lower_gum", parts.gum(False)),
        ("tongue", "tongue", parts.tongue()),
        ("ears", "ear", parts.ear()),
    ):
        rings[piece] = builder.add(patch, piece, _part(name, len(patch.faces)), patch.flat)
    return Assembly(
        vertices=np.concatenate(builder.vertices),
        faces=np.concatenate(builder.faces).astype(np.int32),
        uv=np.concatenate(builder.uv),
        face_uvs=np.concatenate(builder.face_uvs).astype(np.int32),
        face_parts=np.concatenate(builder.parts),
        mirror=np.concatenate(builder.mirror),
        piece=np.concatenate(builder.piece).astype(np.uint8),
        domain=np.concatenate(builder.domain),
        extra=np.concatenate(builder.extra),
        rings=rings,
    )
