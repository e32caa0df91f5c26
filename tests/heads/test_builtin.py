"""The built-in head as a mesh, a rig and an atlas. Pictures are drawn by a rasteriser of this file's own."""

from __future__ import annotations

import builtin_regions
import numpy as np
import pytest

from mvp4d.core.heads import builtin, load_head
from mvp4d.core.heads.builtin.assembly import Assembly
from mvp4d.core.heads.builtin.field import head_field
from mvp4d.core.heads.check import check_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import skin


@pytest.fixture(scope="session")
def head():
    return load_head("builtin")


def expressive(head, **weights: float) -> np.ndarray:
    chosen = [head.expression_names.index(name) for name in weights]
    return head.template + np.tensordot(list(weights.values()), head.expression_basis[chosen], 1)


def triangle_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def draw_ids(points: np.ndarray, depth: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Brute force over every pixel of every triangle's box: the nearest (largest depth) triangle at each pixel centre,
    and how many cover it. points [N, 2] in pixels -> [size, size] ids (-1 where none), [size, size] counts."""
    corners = points[faces]  # [T, 3, 2]
    low = np.clip(np.floor(corners.min(1) - 0.5).astype(int), 0, size)
    high = np.clip(np.ceil(corners.max(1) + 0.5).astype(int), 0, size)
    wide, tall = (high - low).clip(0).T
    best, ids = np.full(size * size, -np.inf), np.full(size * size, -1)
    count = np.zeros(size * size, int)
    for chunk in np.array_split(np.arange(len(faces)), max(1, int((wide * tall).sum() // 400_000))):
        number = (wide * tall)[chunk]
        triangle = np.repeat(chunk, number)
        inner = np.arange(len(triangle)) - np.repeat(np.cumsum(number) - number, number)
        column = low[triangle, 0] + inner % wide[triangle]
        row = low[triangle, 1] + inner // wide[triangle]
        p, q, r = (corners[triangle, k] for k in range(3))
        x, y = column + 0.5 - p[:, 0], row + 0.5 - p[:, 1]
        q, r = q - p, r - p
        area = q[:, 0] * r[:, 1] - r[:, 0] * q[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            v = (x * r[:, 1] - r[:, 0] * y) / area
            w = (q[:, 0] * y - x * q[:, 1]) / area
        inside = (v > 1e-7) & (w > 1e-7) & (v + w < 1 - 1e-7)
        v, w, triangle, pixel = v[inside], w[inside], triangle[inside], (row * size + column)[inside]
        np.add.at(count, pixel, 1)
        z = np.einsum("tk,kt->t", depth[faces[triangle]], np.stack([1 - v - w, v, w]))
        order = np.argsort(z, kind="stable")  # of several writes to a pixel the last, nearest one stays
        nearer = order[z[order] > best[pixel[order]]]
        best[pixel[nearer]], ids[pixel[nearer]] = z[nearer], triangle[nearer]
    return ids.reshape(size, size), count.reshape(size, size)


def front_view(
    head, vertices: np.ndarray, centre: tuple, extent: float, size: int, *, lashes: bool = True
) -> np.ndarray:
    """[size, size] part index seen from the front (orthographic), -1 where there is nothing."""
    pixels = (vertices[:, :2] - np.asarray(centre)) / extent * size + size / 2
    faces, parts = np.asarray(head.faces), np.asarray(head.face_parts)
    near = (np.abs(vertices[faces][:, :, :2].mean(1) - centre) < extent).all(1)
    if not lashes:
        near &= parts != head.part_names.index("lashes")
    ids, _ = draw_ids(pixels, vertices[:, 2], faces[near], size)
    return np.where(ids >= 0, parts[near][ids].astype(int), -1)


def test_head_is_sound_and_of_the_promised_size(head):
    check_head(head, "builtin")
    assert 5000 <= head.vertex_count <= 12000
    # Captures and trained weights speak of these vertices: a change of topology is a new head, not a refinement.
    assert (head.vertex_count, len(head.faces)) == (9934, 19074)
    assert head.expression_count == 52
    assert head.shape_count >= 32
    assert head.joint_names == ("root", "neck", "jaw", "left_eye", "right_eye")
    assert set(head.part_names) >= {
        "skin",
        "lips",
        "upper_teeth",
        "lower_teeth",
        "tongue",
        "mouth_inside",
        "sclera",
        "iris",
        "pupil",
        "ears",
        "nostrils",
        "lashes",
    }
    assert np.isfinite(head.template).all()
    skull = builtin_regions.piece_mask("skin") & (head.template[:, 1] > 0.03)
    height, width = np.ptp(head.template[:, 1]), np.ptp(head.template[skull, 0])
    assert 0.35 < height < 0.45  # with the bust
    assert 0.145 < width < 0.165


def test_no_degenerate_or_doubled_triangles(head):
    assert triangle_areas(head.template, head.faces).min() > 1e-9  # a thousandth of a square millimetre
    edges = np.concatenate([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges), "two triangles run along an edge in the same direction"
    _, uses = np.unique(np.sort(edges, 1), axis=0, return_counts=True)
    assert uses.max() == 2
    assert set(head.faces.ravel()) == set(range(head.vertex_count)), "vertices that no triangle uses"


def test_skin_is_open_at_the_bust_alone(head):
    """The surface of skin and lips, lid lining and the bag of the mouth has one boundary apart from the lid linings."""
    pieces = np.isin(
        head.face_parts, [head.part_names.index(n) for n in ("skin", "lips", "nostrils", "mouth_inside", "lid_lining")]
    )
    faces = head.faces[pieces]
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    border = np.unique(unique[uses == 1])
    points = head.template[border]
    eye = np.linalg.norm(np.abs(points) - [0.032, 0.0, 0.08], axis=1) < 0.016
    assert (eye | (points[:, 1] < -0.28)).all()


@pytest.mark.parametrize(
    ("part", "sign"),
    [
        ("skin", 1),
        ("upper_teeth", 1),
        ("lower_teeth", 1),
        ("tongue", 1),
        ("ears", 1),
        ("sclera", 1),
        ("lashes", 1),
        ("mouth_inside", -1),
    ],
)
def test_parts_face_outwards(head, part, sign):
    """Signed volume; the bag of the mouth shows its inside."""
    faces = head.faces[head.face_parts == head.part_names.index(part)]
    for side in (faces[head.template[faces].mean(1)[:, 0] > 0], faces[head.template[faces].mean(1)[:, 0] < 0]):
        points = head.template[side].astype(float)
        points = points - points.mean((0, 1))
        volume = np.einsum("ij,ij->", points[:, 0], np.cross(points[:, 1], points[:, 2])) / 6
        assert volume * sign > 0


def test_front_of_the_face_looks_forwards(head):
    """Of what an orthographic front view sees, next to nothing is a back side."""
    size, faces = 160, np.asarray(head.faces)
    pixels = (head.template[:, :2] - np.array([0, -0.02])) / 0.26 * size + size / 2
    ids, _ = draw_ids(pixels, head.template[:, 2], faces, size)
    a, b, c = (head.template[faces[:, k]] for k in range(3))
    forwards = np.cross(b - a, c - a)[:, 2] > 0
    seen = ids[ids >= 0]
    assert (~forwards[seen]).mean() < 0.005


def test_skin_has_no_folds(head):
    """No triangle of the skin lies against the slope of the surface that the mesh was made from."""
    faces = head.faces[np.isin(head.face_parts, [head.part_names.index("skin")])]
    a, b, c = (head.template[faces[:, k]].astype(float) for k in range(3))
    normal, centre, step = np.cross(b - a, c - a), (a + b + c) / 3, 3e-4
    slope = np.stack([head_field(centre + step * e) - head_field(centre - step * e) for e in np.eye(3)], 1)
    assert (np.einsum("ij,ij->i", normal, slope) < 0).sum() == 0


def test_uv_triangles_do_not_overlap(head):
    size = 1024
    assert head.uv.min() >= 0 and head.uv.max() <= 1
    _, count = draw_ids(head.uv * size, np.zeros(len(head.uv)), head.face_uvs, size)
    assert (count > 1).sum() == 0
    assert (count > 0).mean() > 0.85
    face = head.faces[np.isin(head.face_parts, [head.part_names.index("skin"), head.part_names.index("lips")])]
    face_uvs = head.face_uvs[np.isin(head.face_parts, [head.part_names.index("skin"), head.part_names.index("lips")])]
    centre = head.template[face].mean(1)
    front = (centre[:, 2] > 0.03) & (centre[:, 1] > -0.115) & (centre[:, 1] < 0.07)
    uv = head.uv[face_uvs[front]]
    side = uv[:, 1:] - uv[:, :1]
    area = 0.5 * np.abs(side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0]).sum()
    assert area > 0.22, "the face should take most of the atlas"


def test_head_is_mirror_symmetric(head):
    mirror = builtin_regions.mirror_map()
    assert np.array_equal(mirror[mirror], np.arange(head.vertex_count))
    assert np.allclose(head.template[mirror] * [-1, 1, 1], head.template, atol=1e-7)
    swapped = head.skin_weights[mirror][:, [0, 1, 2, 4, 3]]
    assert np.allclose(swapped, head.skin_weights, atol=1e-6)


def test_eyes_show_and_blinks_cover_them(head):
    parts = [head.part_names.index(name) for name in ("sclera", "iris", "pupil")]
    for name, x in (("eyeBlinkLeft", 0.032), ("eyeBlinkRight", -0.032)):
        opened, half, closed = (
            np.isin(front_view(head, expressive(head, **{name: amount}), (x, 0), 0.04, 120, lashes=False), parts).sum()
            for amount in (0.0, 0.5, 1.0)
        )
        assert opened > 1300  # 0.11 mm^2 each: more than 144 mm^2
        assert closed <= 0.05 * opened
        assert 0.2 * opened < half < 0.8 * opened


def test_teeth_and_tongue_hide_behind_closed_lips(head):
    inside = [head.part_names.index(n) for n in ("upper_teeth", "lower_teeth", "tongue", "mouth_inside", "gums")]
    closed = front_view(head, head.template, (0, -0.07), 0.08, 160)
    assert np.isin(closed, inside).mean() < 0.001
    opened = front_view(head, expressive(head, jawOpen=1.0), (0, -0.07), 0.08, 160)
    for name in ("upper_teeth", "lower_teeth", "tongue", "mouth_inside"):
        assert (opened == head.part_names.index(name)).sum() > 60, name


def test_jaw_joint_and_jaw_open_do_the_same(head):
    motion = Motion.still(1, 52)
    motion.jaw[0, 0] = builtin.JAW_OPEN_ANGLE
    by_joint = np.asarray(skin(head, motion))[0] - head.template
    by_shape = expressive(head, jawOpen=1.0) - head.template
    upper, lower = builtin_regions.lip_lines()
    middle = len(upper) // 2
    for offset in (by_joint, by_shape):
        assert 0.02 < offset[upper[middle], 1] - offset[lower[middle], 1] < 0.05
    # A blend of rotations and a rotation by a share differ slightly, and jawOpen also draws the corners in.
    assert np.abs(by_joint - by_shape).max() < 0.006
    teeth = builtin_regions.piece_mask("lower_teeth")
    assert np.abs(by_joint - by_shape)[teeth].max() < 1e-4
    assert np.abs(by_shape[builtin_regions.piece_mask("upper_teeth")]).max() < 1e-9


def test_eyes_turn_about_their_centres(head):
    motion = Motion.still(1, 52)
    motion.eyes[0, 0] = [0.3, 0.2, 0.0]
    turned = np.asarray(skin(head, motion))[0]
    left = builtin_regions.piece_mask("eye") & (head.template[:, 0] > 0)
    centre = head.joints[head.joint_names.index("left_eye")]
    before = np.linalg.norm(head.template[left] - centre, axis=1)
    assert np.allclose(np.linalg.norm(turned[left] - centre, axis=1), before, atol=1e-6)
    assert np.ptp(before) < 0.001  # a ball, but for the cornea
    assert np.array_equal(turned[~left], head.template[~left]) or np.abs(turned - head.template)[~left].max() < 1e-6
    pupil = turned[np.unique(head.faces[head.face_parts == head.part_names.index("pupil")])]
    assert pupil[pupil[:, 0] > 0].mean(0)[0] > 0.033 and pupil[pupil[:, 0] > 0].mean(0)[1] < -0.002


def test_neck_turns_the_head_and_leaves_the_shoulders(head):
    motion = Motion.still(1, 52)
    motion.neck[0, 1] = 0.5
    moved = np.linalg.norm(np.asarray(skin(head, motion))[0] - head.template, axis=1)
    assert moved[builtin_regions.piece_mask("skin") & (head.template[:, 1] < -0.23)].max() < 1e-6
    assert moved[builtin_regions.piece_mask("upper_teeth")].min() > 0.02


def test_identity_modes_are_independent_and_of_human_size(head):
    flat = head.shape_basis.reshape(head.shape_count, -1).astype(float)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    assert np.linalg.svd(unit, compute_uv=False).min() > 0.05
    largest = np.linalg.norm(head.shape_basis, axis=2).max(1)
    assert largest.min() > 0.0004 and largest.max() < 0.013
    assert len(set(head.shape_names)) == head.shape_count


def test_people_drawn_at_random_keep_eyes_and_mouth_in_order(head):
    """Of 40 people: eyeballs stay round and a human distance apart, triangles of the face do not flip."""
    rng = np.random.default_rng(0)
    front = head.template[head.faces].mean(1)[:, 2] > 0.06
    skin_faces = head.faces[front & (head.face_parts == 0)]

    def normals(vertices):
        a, b, c = (vertices[skin_faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)

    rest = normals(head.template)
    eye = builtin_regions.piece_mask("eye") & (head.template[:, 0] > 0)
    for _ in range(40):
        shape = rng.normal(size=head.shape_count)
        person = head.personalise(shape)
        turned = np.einsum("ij,ij->i", normals(person.template), rest)
        assert (turned < 0).mean() < 0.004
        centre = person.joints[3]
        radius = np.linalg.norm(person.template[eye] - centre, axis=1)
        assert np.ptp(radius) < 0.0016
        assert 0.009 < radius.mean() < 0.016
        assert 0.050 < person.joints[3, 0] - person.joints[4, 0] < 0.078


def test_landmarks_are_in_multi_pie_order(head):
    corners = head.template[head.faces[head.landmark_faces]]
    points = np.einsum("kc,kcd->kd", head.landmark_barycentric, corners) * 1000
    assert points.shape == (68, 3)
    x, y, z = points.T
    assert (np.diff(x[:17]) > -1).all() and x[0] < -65 and x[16] > 65  # jaw, picture left to right
    assert y[8] == y[:17].min() and abs(x[8]) < 0.5
    assert (np.diff(x[17:27]) > 0).all() and (y[17:27] > 10).all()  # brows
    assert (np.diff(y[27:31]) < 0).all() and np.abs(x[27:31]).max() < 0.5 and z[30] == z.max()  # nose
    assert (np.diff(x[31:36]) > 0).all()
    assert x[36] < x[37] < x[38] < x[39] < 0 < x[42] < x[43] < x[44] < x[45]  # eyes
    assert (y[[37, 38, 43, 44]] > y[[36, 39, 42, 45]]).all() and (y[[40, 41, 46, 47]] < y[[36, 39, 42, 45]]).all()
    assert (np.diff(x[48:55]) > 0).all() and (np.diff(x[54:60]) < 0).all()  # outer lips
    assert (np.diff(x[60:65]) > 0).all() and (np.diff(x[64:68]) < 0).all()
    assert (y[50:53] > y[48]).all() and (y[56:59] < y[48]).all()
    # A mirrored face has its landmarks in mirrored order.
    order = [
        *range(16, -1, -1),
        *range(26, 16, -1),
        27,
        28,
        29,
        30,
        35,
        34,
        33,
        32,
        31,
        45,
        44,
        43,
        42,
        47,
        46,
        39,
        38,
        37,
        36,
        41,
        40,
        54,
        53,
        52,
        51,
        50,
        49,
        48,
        59,
        58,
        57,
        56,
        55,
        64,
        63,
        62,
        61,
        60,
        67,
        66,
        65,
    ]
    assert np.allclose(points[order] * [-1, 1, 1], points, atol=0.01)


def test_pieces_and_lines_lie_where_their_names_say(head):
    p = head.template
    lips = builtin_regions.lip_mask()
    assert np.abs(p[lips == 1][:, 0]).max() < 0.027 and p[lips == 1][:, 2].min() > 0.09
    lids = builtin_regions.eyelid_lines()
    assert (p[lids[0, 0, 1:-1], 1] > p[lids[0, 1, 1:-1], 1]).all() and (p[lids[0], 0] > 0).all()
    upper, lower = builtin_regions.lip_lines()
    assert (np.diff(p[upper, 0]) > 0).all() and np.abs(p[upper] - p[lower]).max() < 0.001
    assert set(Assembly.pieces) > {"skin", "eye", "tongue"}
