"""Puts a person together: head, hair, clothes and glasses as one rig of fixed size, with what every vertex sees."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.model import HeadModel
from mvp4d_jax.studio import hair, wardrobe
from mvp4d_jax.studio.eyes import paint_eye
from mvp4d_jax.studio.lighting import harmonics
from mvp4d_jax.studio.rendering import Figure, faces_around
from mvp4d_jax.studio.ribbons import Ribbons
from mvp4d_jax.studio.shading import CLOTH, EYE, HAIR, METAL, MOUTH, SKIN, TRAITS
from mvp4d_jax.studio.skin_texture import SKIN_PARTS, paint
from mvp4d_jax.studio.surface import RadialSurface
from mvp4d_jax.studio.traits import Identity, random_for
from mvp4d_jax.studio.zbuffer import nearest_face, unpack

# One size for everybody, so that all identities share one compiled program; hair beyond it is thinned.
EXTRA_VERTICES, EXTRA_FACES = 26_000, 23_000
_BURIED = 0.10  # share of all directions
_HEAD_CENTRE = np.array([0.0, 0.010, 0.0])
_PART_COLOURS = {
    "mouth_inside": (0.16, 0.035, 0.03),
    "gums": (0.42, 0.13, 0.12),
    "tongue": (0.40, 0.12, 0.11),
    "upper_teeth": (0.86, 0.80, 0.69),
    "lower_teeth": (0.82, 0.76, 0.65),
    "lashes": (0.015, 0.012, 0.010),
    "lid_lining": (0.50, 0.22, 0.19),
}
_SUN_COUNT, _MAP_SIZE, _SPAN = 48, 112, 0.46


@dataclasses.dataclass
class _Extra:
    """Vertices and faces that the head model does not have; `bind` [m] the skin vertex that one follows, or -1."""

    vertices: np.ndarray
    normals: np.ndarray
    tangents: np.ndarray
    faces: np.ndarray
    corner_uv: np.ndarray
    looks: np.ndarray
    bind: np.ndarray
    rigid: np.ndarray


def build_figure(identity: Identity, head: HeadModel) -> Figure:
    """The figure of a person.

    Args:
      head: the built-in head, personalised with the identity's shape.
    """
    vertices, faces = np.asarray(head.template, np.float64), np.asarray(head.faces)
    canonical = np.asarray(head.canonical, np.float64)
    parts = np.asarray(head.face_parts)
    skin_faces = faces[parts == head.part_names.index("skin")]
    above = skin_faces[canonical[skin_faces, 1].min(1) > -0.14]  # seen from the head's middle, shoulders hide the neck
    head_surface = RadialSurface(vertices, above, _HEAD_CENTRE)
    torso = RadialSurface(vertices, skin_faces, wardrobe.TORSO, blur=1.5)
    rng = random_for(identity.number, "hair")
    ribbons = hair.grow(identity, vertices, canonical, skin_faces, head_surface, torso, rng)
    eyes = np.asarray(head.joints)[[head.joint_names.index(name) for name in ("left_eye", "right_eye")]]
    face_skin = vertices[np.unique(skin_faces)]
    ears = vertices[np.unique(faces[parts == head.part_names.index("ears")])]
    cloth = wardrobe.dress(identity, torso, random_for(identity.number, "cloth"))
    extra = _join(
        [
            *(_from_piece(piece, CLOTH, False) for piece in cloth),
            *(_from_piece(piece, METAL, True) for piece in wardrobe.glasses(identity, eyes, face_skin, ears)),
            *(_from_ribbons(item, rng) for item in ribbons),
        ]
    )
    extra = _pad(extra)
    tree = cKDTree(vertices[np.unique(skin_faces)])
    skin_index = np.unique(skin_faces)
    bind = skin_index[tree.query(extra.vertices)[1]]
    rig = _extend(head, extra, bind)
    looks, corner_uv = _own_looks(head, vertices, eyes)
    all_faces = np.concatenate([faces, extra.faces + head.vertex_count]).astype(np.int32)
    all_looks = np.concatenate([looks, extra.looks]).astype(np.float32)
    everything = np.concatenate([vertices, extra.vertices]).astype(np.float32)
    normals = np.concatenate([vertex_normals(vertices, faces), extra.normals]).astype(np.float32)
    transfer, visibility, share = _occlusion(everything, normals, all_faces, all_looks)
    buried = (all_looks[:, 0] == HAIR) & (share[all_faces].max(1) < _BURIED)
    all_faces[buried] = len(everything) - 1  # locks under locks: nothing of them is ever seen
    return Figure(
        rig=rig,
        faces=all_faces,
        two_sided=all_looks[:, 0] >= HAIR,
        corner_uv=np.concatenate([corner_uv, extra.corner_uv]).astype(np.float32),
        looks=all_looks,
        around=faces_around(faces, head.vertex_count),
        normals=_by_joint(extra.normals, rig),
        tangents=_by_joint(extra.tangents, rig),
        transfer=transfer,
        visibility=visibility,
        texture=paint(identity, head),
        eye=paint_eye(identity),
        traits=_traits(identity),
    )


def _own_looks(head: HeadModel, vertices: np.ndarray, eyes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    faces, parts = np.asarray(head.faces), np.asarray(head.face_parts)
    looks = np.zeros((len(faces), 6))
    corner_uv = np.asarray(head.uv, np.float64)[np.asarray(head.face_uvs)]
    for index, name in enumerate(head.part_names):
        chosen = parts == index
        if name in SKIN_PARTS:
            looks[chosen, 0] = SKIN
        elif name in ("sclera", "iris", "pupil"):
            looks[chosen, 0], looks[chosen, 5] = EYE, 1.0
            corners = vertices[faces[chosen]]  # [t, 3, 3]
            centre = np.where(corners[:, :1, :1].mean(1, keepdims=True) > 0, eyes[0], eyes[1])
            corner_uv[chosen] = (corners - centre)[..., :2] / np.linalg.norm(corners - centre, axis=-1).mean()
        else:
            looks[chosen, 0], looks[chosen, 1:4] = MOUTH, _PART_COLOURS.get(name, (0.4, 0.2, 0.18))
            looks[chosen, 5] = 1.3 if name in ("upper_teeth", "lower_teeth", "tongue", "gums") else 0.15
    return looks, corner_uv


def _traits(identity: Identity) -> np.ndarray:
    values = {
        "scatter": 0.42 - 0.25 * identity.melanin,
        "oiliness": identity.oiliness * (0.8 + 0.5 * identity.melanin),
        "hair_gloss": 1.0,
        "hair_streak": 1.0,
        "cloth_pattern": float(identity.stripes),
        "cloth_scale": 2 * np.pi / 0.028,
    }
    return np.array([values[name] for name in TRAITS], np.float32)


def _from_ribbons(item: Ribbons, rng: np.random.Generator) -> _Extra:
    """Two vertices a point, normals turned outwards at the edges as on a round lock."""
    count, number, _ = item.points.shape
    tangent = np.gradient(item.points, axis=1)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-12)
    outward = item.outward - np.sum(item.outward * tangent, -1, keepdims=True) * tangent
    outward /= np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-12)
    across = np.cross(tangent, outward)
    roll = rng.normal(0, 0.35, (count, 1, 1))
    across = np.cos(roll) * across + np.sin(roll) * outward
    sides = np.array([-1.0, 1.0])[None, None, :, None]
    vertices = item.points[:, :, None] + sides * across[:, :, None] * item.width[:, :, None, None] / 2
    normals = outward[:, :, None] + 0.75 * sides * across[:, :, None]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    index = np.arange(count * number * 2).reshape(count, number, 2)
    a, b, c, d = index[:, :-1, 0], index[:, :-1, 1], index[:, 1:, 1], index[:, 1:, 0]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2)  # [R, K-1, 2, 3]
    along = np.broadcast_to(np.linspace(0, 1, number)[:, None], (count, number, 2))
    side = np.broadcast_to(np.array([-1.0, 1.0]), (count, number, 2))
    uv = np.stack([side, along], -1).reshape(-1, 2)
    looks = np.zeros((count, number - 1, 2, 6))
    looks[..., 0], looks[..., 1:4] = HAIR, item.colour[:, None, None]
    looks[..., 4], looks[..., 5] = item.random[:, None, None], item.gloss[:, None, None]
    faces = faces.reshape(-1, 3)
    follow = np.repeat(item.follow, number * 2)
    return _Extra(
        vertices.reshape(-1, 3),
        normals.reshape(-1, 3),
        np.repeat(tangent.reshape(-1, 3), 2, 0),
        faces,
        uv[faces],
        looks.reshape(-1, 6),
        np.where(follow, 0, -1),
        np.zeros(len(follow), bool),
    )


def _from_piece(piece: wardrobe.Piece, material: int, rigid: bool) -> _Extra:
    looks = np.zeros((len(piece.faces), 6))
    looks[:, 0], looks[:, 1:4], looks[:, 5] = material, piece.colour, piece.gloss
    count = len(piece.vertices)
    return _Extra(
        piece.vertices,
        piece.normals,
        np.zeros((count, 3)),
        piece.faces,
        piece.uv[piece.faces],
        looks,
        np.full(count, -1),
        np.full(count, rigid),
    )


def _join(items: list[_Extra]) -> _Extra:
    first = np.cumsum([0] + [len(item.vertices) for item in items[:-1]])
    faces = np.concatenate([item.faces + start for item, start in zip(items, first)])
    fields = {
        field.name: np.concatenate([getattr(item, field.name) for item in items])
        for field in dataclasses.fields(_Extra)
        if field.name != "faces"
    }
    return _Extra(faces=faces, **fields)


def _pad(extra: _Extra) -> _Extra:
    """Fills up to the fixed size with triangles of no area; what is too much falls off the end (the last locks)."""
    keep_vertices = min(len(extra.vertices), EXTRA_VERTICES - 1)
    faces_kept = (extra.faces < keep_vertices).all(1)
    faces_kept[np.flatnonzero(faces_kept)[EXTRA_FACES:]] = False
    fields = {}
    for field in dataclasses.fields(_Extra):
        value = getattr(extra, field.name)
        per_face = field.name in ("faces", "corner_uv", "looks")
        value = value[faces_kept] if per_face else value[:keep_vertices]
        total = EXTRA_FACES if per_face else EXTRA_VERTICES
        fill = EXTRA_VERTICES - 1 if field.name == "faces" else -1 if field.name == "bind" else 0
        tail = np.full((total - len(value), *value.shape[1:]), fill, value.dtype)
        fields[field.name] = np.concatenate([value, tail])
    return _Extra(**fields)


def _extend(head: HeadModel, extra: _Extra, bind: np.ndarray) -> HeadModel:
    """The head with the extra vertices: those that follow the skin take its blendshapes and weights, others swing with
    the skull and rest on the shoulders."""
    follow = extra.bind >= 0
    neck, root = head.joint_names.index("neck"), head.joint_names.index("root")
    weights = np.asarray(head.skin_weights)[bind].copy()
    loose = ~follow & (np.abs(extra.tangents).sum(-1) > 0) | extra.rigid
    share = np.clip((extra.vertices[:, 1] + 0.215) / 0.10, 0, 1)
    share = np.where(extra.rigid, 1.0, share * share * (3 - 2 * share))
    weights[loose] = 0
    weights[loose, neck], weights[loose, root] = share[loose], 1 - share[loose]
    skin = np.where(follow, 1.0, 0.0)[:, None].astype(np.float32)
    return dataclasses.replace(
        head,
        template=np.concatenate([np.asarray(head.template), extra.vertices]).astype(np.float32),
        canonical=np.concatenate([np.asarray(head.canonical), extra.vertices]).astype(np.float32),
        expression_basis=np.concatenate(
            [
                np.asarray(head.expression_basis, np.float32),
                np.asarray(head.expression_basis, np.float32)[:, bind] * skin,
            ],
            1,
        ),
        pose_basis=np.concatenate(
            [np.asarray(head.pose_basis, np.float32), np.asarray(head.pose_basis, np.float32)[:, bind] * skin], 1
        ),
        shape_basis=np.zeros((0, head.vertex_count + len(bind), 3), np.float32),
        skin_weights=np.concatenate([np.asarray(head.skin_weights), weights]).astype(np.float32),
    )


def _by_joint(vectors: np.ndarray, rig: HeadModel) -> np.ndarray:
    """[M, J * 3]: vectors [M, 3] of the extra vertices times the weight of each joint."""
    weights = rig.skin_weights[-len(vectors) :]
    return (weights[:, :, None] * vectors[:, None]).reshape(len(vectors), -1).astype(np.float32)


def _suns() -> np.ndarray:
    """[K, 3] directions spread evenly over the sphere (Fibonacci lattice)."""
    k = np.arange(_SUN_COUNT) + 0.5
    height, turn = 1 - 2 * k / _SUN_COUNT, k * np.pi * (3 - np.sqrt(5.0))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.sin(turn), height, flat * np.cos(turn)], -1).astype(np.float32)


@functools.partial(jax.jit, static_argnames="blocks")
def _seen_from(vertices: jax.Array, shifted: jax.Array, faces: jax.Array, suns: jax.Array, blocks: int) -> jax.Array:
    """[K, N] share of light from each direction that reaches each vertex, by a depth map of that direction."""

    def one(sun: jax.Array) -> jax.Array:
        guide = jnp.where(jnp.abs(sun[1]) < 0.9, jnp.array([0.0, 1, 0]), jnp.array([1.0, 0, 0]))
        right = jnp.cross(guide, sun)
        right /= jnp.linalg.norm(right)
        axes = jnp.stack([right, jnp.cross(sun, right), -sun])

        def onto(points):
            local = (points - jnp.array([0.0, -0.06, 0.0])) @ axes.T
            return (local[:, :2] / _SPAN + 0.5) * _MAP_SIZE, local[:, 2] / (2 * _SPAN) + 0.5

        xy, depth = onto(vertices)
        ends = [jnp.concatenate([xy, depth[:, None]], -1)[faces[:, k]] for k in range(3)]
        packed, _ = nearest_face(
            [(end[:, 0], end[:, 1]) for end in ends],
            [end[:, 2] for end in ends],
            jnp.ones(faces.shape[0], bool),
            (_MAP_SIZE, _MAP_SIZE),
            blocks,
        )
        _, nearest, covered = unpack(packed)
        nearest = jnp.where(covered, nearest, 2.0).reshape(_MAP_SIZE, _MAP_SIZE)
        place, own = onto(shifted)
        low = jnp.floor(place - 0.5).astype(jnp.int32)
        part = place - 0.5 - low
        total = 0.0
        for dx in (0, 1):
            for dy in (0, 1):
                cell = jnp.clip(low + jnp.array([dx, dy]), 0, _MAP_SIZE - 1)
                weight = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
                total += weight * (own < nearest[cell[:, 1], cell[:, 0]] + 0.002 / (2 * _SPAN))
        return total

    return jax.lax.map(one, suns)


def _occlusion(
    vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, looks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transfer and visibility harmonics [N, 9] of a figure at rest, and the share of directions seen [N].

    What lies in the mouth is lit as if it were open.
    """
    suns = _suns()
    material = np.zeros(len(vertices))
    material[faces.ravel()] = np.repeat(looks[:, 0], 3)
    shift = np.where(material == HAIR, 0.006, 0.0025)[:, None]
    seen = np.asarray(
        _seen_from(vertices, (vertices + normals * shift).astype(np.float32), faces, suns, 90_000)
    ).T.copy()  # [N, K]
    share = seen.mean(1)
    seen = np.where((material == HAIR)[:, None], 0.22 + 0.78 * seen, seen)
    # The mouth opens to the front: light falls in from there, less the deeper it has to reach.
    reach = np.clip((vertices[:, 2] - 0.055) / 0.045, 0.03, 1.0)[:, None] ** 1.5
    mouth = np.clip(suns[:, 2] * 1.5, 0, 1) * reach
    seen = np.where((material == MOUTH)[:, None] & (np.abs(vertices[:, 1:2]) > 0.03), mouth, seen)
    basis = harmonics(suns)  # [K, 9]
    cosine = normals @ suns.T
    soft = np.where((material == HAIR)[:, None], np.clip(0.7 * cosine + 0.3, 0, 1) * 0.9, np.clip(cosine, 0, 1))
    scale = 4 * np.pi / _SUN_COUNT
    transfer = (seen * soft) @ basis * (scale / np.pi)
    # Visibility itself: a projection of a function in [0, 1] on nine harmonics.
    return transfer.astype(np.float32), (seen @ basis * scale).astype(np.float32), share
