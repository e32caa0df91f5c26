"""A rig's fit made finer by its pictures: landmarks that are all off in their own way, colours that are right."""

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import project, resize
from mvp4d.core.cameras.crops import head_vertices
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.heads import load_head
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking import outline, photometric
from mvp4d_jax.tracking.landmarks import Landmarks
from mvp4d_jax.tracking.problem import Layout, SolveConfig, landmark_rig
from mvp4d_jax.tracking.rig import solve_rig
from tests.tracking.test_solve import moving

SIZE, VIEWS = (256, 256), 5


def painted(head, vertices, camera, seed=0):
    """A picture of the head in colours that are a smooth function of the place on it."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.normal(0, 90, (12, 3)), rng.uniform(0, 6, 12)
    colours = 0.5 + np.sin(np.asarray(head.template) @ waves.T + phases) @ rng.normal(0, 0.1, (12, 3))  # [n, 3]
    seen = rasterize(camera, vertices, head.faces, SIZE)
    face, weights = np.asarray(seen.face), np.asarray(seen.barycentric)
    corners = colours[np.asarray(head.faces)[np.maximum(face, 0)]]  # [H, W, 3, 3]
    picture = np.where(face[..., None] >= 0, (corners * weights[..., None]).sum(-2), 1.0)
    return np.uint8(np.rint(255 * np.clip(picture, 0, 1)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pictures_decide_where_landmarks_are_off():
    head, rng = load_head("builtin"), np.random.default_rng(1)
    shape = np.float32(rng.normal(0, 0.7, head.shape_count))
    motion = moving(head, [[0.05, 0.1, 0.0]], {"jawOpen": 0.2})
    motion = type(motion)(**{**vars(motion), "translation": np.zeros((1, 3), np.float32)})
    true = np.asarray(skin(head, motion, shape), np.float64)
    cameras = camera_rig("arc:120x5", SIZE)
    marks = np.asarray(landmarks(head, true), np.float64) + rng.normal(0, 2.5e-3, (1, 68, 3))  # 4 mm
    nothing = np.full((1, 2, 2), np.nan)
    seen = [Landmarks(project(cameras[view], marks)[0], nothing, SIZE) for view in range(VIEWS)]
    views = [painted(head.personalise(shape), true[0], cameras[view]) for view in range(VIEWS)]
    skull = head_vertices(head)

    def error(solution):
        found = np.asarray(skin(head, solution.motion, solution.shape), np.float64)[0, skull]
        turn, _ = Rotation.align_vectors(found - found.mean(0), true[0, skull] - true[0, skull].mean(0))
        return 1e3 * np.linalg.norm(found - true[0, skull], axis=-1).mean(), np.degrees(turn.magnitude())

    before, after = (
        error(solve_rig(head, seen, cameras)),
        error(solve_rig(head, seen, cameras, pictures=lambda: [views])),
    )
    assert after[0] < 2.0 and after[1] < 0.5
    assert after[0] < 0.8 * before[0]


def refiner_of(head, cameras):
    config = SolveConfig()
    layout = Layout.of(head, config)
    boxes = np.full(len(cameras.fx), 100.0)
    return photometric.Refiner.of(head, landmark_rig(head), layout, config, cameras, boxes), layout


def test_points_that_the_nose_hides_do_not_count():
    """Depth maps of 512 pixels, against those of 192 that the fit draws."""
    head, cameras = load_head("builtin"), camera_rig("arc:120x3", SIZE)
    refiner, layout = refiner_of(head, cameras)
    shared, frame = np.zeros(layout.shapes + 1), np.zeros(layout.frame_size)
    seen, _ = refiner.seen(shared, frame, [SIZE] * 3)
    places = np.asarray(refiner.points.rig.template, np.float64)
    hidden, edge = [], []
    for view in range(3):
        camera = resize(cameras[view], SIZE, (512, 512))
        depth = np.asarray(rasterize(camera, np.asarray(head.template), head.faces, (512, 512)).depth)
        pixels, own = project(camera, places)
        x, y = np.int64(pixels).T
        hidden.append(own > depth[y, x] + 0.01)
        filled = np.where(np.isfinite(depth), depth, 9.0)
        nearest, furthest = (find(filled, 9)[y, x] for find in (ndimage.minimum_filter, ndimage.maximum_filter))
        edge.append((own - nearest > photometric.EDGE[0]) | (furthest - own > photometric.EDGE[1]))
    towards = photometric.centre(cameras)[:, None] - places
    facing = (towards * vertex_normals(places, refiner.points.triangles)).sum(-1) / np.linalg.norm(
        towards, axis=-1
    ) > photometric.FACING[0]
    alone = np.array(hidden) & facing  # what only the depth maps tell
    assert alone.sum() > 50 and (alone & (seen > 0)).sum() < 0.25 * alone.sum()  # a pixel of depth around the edges
    inside = facing & ~np.array(hidden) & ~np.array(edge)
    inside &= inside.sum(0) >= 2
    assert inside.sum() > 1000 and (seen > 0)[inside].mean() > 0.98
    assert (seen > 0)[np.array(edge)].mean() < 0.5


def test_derivatives_of_pixels_and_colours():
    camera, rng = camera_rig("arc:120x3", SIZE)[0], np.random.default_rng(0)
    places = rng.uniform(-0.05, 0.05, (20, 3))
    picture = rng.uniform(0, 1, (*SIZE, 3)).astype(np.float64)
    pixels, by_place = outline.projected(camera, places)
    _, by_pixel = outline.sampled(picture, pixels)
    for axis in range(3):
        step = 1e-7 * np.eye(3)[axis]
        moved = project(camera, places + step)[0] - project(camera, places - step)[0]
        np.testing.assert_allclose(by_place[..., axis], moved / 2e-7, rtol=1e-5, atol=1e-3)
    for axis in range(2):
        step = 1e-6 * np.eye(2)[axis]
        moved = outline.sampled(picture, pixels + step)[0] - outline.sampled(picture, pixels - step)[0]
        np.testing.assert_allclose(by_pixel[..., axis], moved / 2e-6, rtol=1e-5, atol=1e-6)


def test_smoothing_leaves_what_is_smooth_and_what_is_sure():
    """Straight movement stays; of a frame that the pictures know well little is taken, of another much."""
    rng = np.random.default_rng(0)
    straight = np.linspace(0, 1, 7)[:, None] * rng.normal(size=4)
    blocks = np.tile(np.eye(4), (7, 1, 1))
    np.testing.assert_allclose(photometric._smoothed(straight, blocks, np.ones(4)), straight, atol=1e-9)
    bent = straight.copy()
    bent[3] += 1.0
    for trust, kept in ((1e6, 1.0), (1e-6, 0.0)):
        blocks[3] = trust * np.eye(4)
        found = photometric._smoothed(bent, blocks, 100 * np.ones(4) if trust < 1 else 1e-3 * np.ones(4))
        assert np.abs(found[3] - straight[3] - kept).max() < 0.05


SKIN, HAIR = np.array([0.8, 0.55, 0.42]), np.array([0.1, 0.09, 0.085])


def test_skin_is_told_from_hair_in_light_and_in_shade():
    rng = np.random.default_rng(0)
    lit = rng.uniform(0.6, 1.1, (300, 1))
    known = outline.Skin.of(np.concatenate([SKIN * lit, np.tile(HAIR, (30, 1))]))  # a tenth is something else
    assert known.likeness(SKIN * lit).min() > 0.8
    assert known.likeness(HAIR * lit).max() < 0.1 and known.likeness(np.ones(3)) < 0.1


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.1, 0.3, 0.2)])
def test_the_line_of_a_disc_is_the_heads_outline(background):
    """A sphere before a plain background: its mesh, 3 pixels too small, is told so all around; none where hair is."""
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.1)
    camera = camera_rig("arc:120x3", SIZE)[1]
    middle = np.linalg.inv(camera.world_to_camera) @ [0, 0, np.linalg.norm(photometric.centre(camera)), 1]
    place = middle[:3]
    depth = np.linalg.norm(photometric.centre(camera) - place)
    pixels, _ = project(camera, place[None])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    radius = float(camera.fx) * 0.1 / np.sqrt(depth**2 - 0.1**2)
    away = np.hypot(x - pixels[0, 0], y - pixels[0, 1])[..., None]
    cover = np.clip(radius - away + 0.5, 0, 1)
    colour = np.where((y < pixels[0, 1])[..., None], HAIR, SKIN)
    person = outline.Person.of(
        np.float32(cover * colour + (1 - cover) * background), outline.Skin.of(np.tile(SKIN, (50, 1))), 100.0
    )
    places = place + np.asarray(sphere.vertices) * (radius - 3) / radius
    faces = np.asarray(sphere.faces)
    small = resize(camera, SIZE, (192, 192))
    found = np.asarray(rasterize(small, places, faces, (192, 192)).depth)
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    line = outline.contour(
        places, np.asarray(sphere.vertices), edges, camera, np.where(np.isfinite(found), found, 0), SIZE[0]
    )
    off, slope = outline.beyond(line, places, camera, person)
    weights = outline.trust(line, places, camera, person)
    low = line.between(places)[:, 1] < place[1] - 0.02
    high = line.between(places)[:, 1] > place[1] + 0.02
    assert len(off) > 50 and np.abs(off[low | high] + 3).max() < 0.6 and abs(np.median(off) + 3) < 0.2
    assert weights[low].min() > 0.6 and weights[high].max() < 0.1
    moved = places + 1e-4 * np.array([0.3, -0.5, 0.2])
    change = outline.beyond(line, moved, camera, person)[0] - off
    np.testing.assert_allclose(change, slope @ (1e-4 * np.array([0.3, -0.5, 0.2])), atol=0.02)


def test_skin_beside_hair_does_not_count():
    """Nor does what lies within a margin of it, which the box's side gives."""
    picture = np.tile(SKIN, (60, 60, 1)).astype(np.float32)
    picture[:, 30:] = HAIR
    found = outline.Person.of(picture, outline.Skin.of(np.tile(SKIN, (50, 1))), 400.0).skin[..., 0]
    assert found[:, :24].min() > 0.9 and found[:, 26:].max() < 0.01


def test_a_background_of_many_colours_has_no_line():
    picture = np.random.default_rng(0).uniform(0, 1, (*SIZE, 3)).astype(np.float32)
    assert outline.Person.of(picture, outline.Skin.of(np.tile(SKIN, (50, 1))), 100.0).distance is None
