"""Closed lids have the colours of the skin around them, whatever photos show of open eyes, lashes and brows."""

import copy

import pytest
import torch
from test_hidden import SIDE, avatar, camera, drawn, of_parts, pose_of  # noqa: F401

from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.harmonics import colour_of_sh, sh_of_colour
from mvp4d_export.hidden import NOT_SKIN, lid_triangles
from mvp4d_export.laid import bind
from mvp4d_export.lids import _lay_bright_lashes, _plane, finish_lids
from mvp4d_export.photos import Picture
from mvp4d_export.projection import quaternion_to_matrix
from mvp4d_export.seeding import project_points
from mvp4d_export.triangles import to_local, triangle_frames
from mvp4d_export.visibility import gaussians_of, light, parts_named, triangle_parts

LEFT, RIGHT, BROW, GREEN = (0.7, 0.5, 0.4), (0.4, 0.3, 0.25), (0.05, 0.04, 0.04), (0.0, 1.0, 0.0)
EYE = ("sclera",)


@pytest.fixture(scope="module")
def face(avatar):  # noqa: F811
    """A face in two colours, one to each side, dark 8 mm above the eyes, with green lids; and which those are, [G]."""
    own = copy.deepcopy(avatar)
    kept = ~lid_triangles(own) & ~parts_named(own.rig.part_names, INTERIOR)[triangle_parts(own)]
    skin = ~gaussians_of(own, (*INTERIOR, *EYES))
    lids = skin & (torch.arange(own.gaussian_count) >= int(kept.sum()))
    with torch.no_grad():
        means = own.splats(own.gather(own.rig.template)).means
        colours = torch.where(means[:, :1] > 0, torch.tensor(LEFT), torch.tensor(RIGHT))
        above = means[:, 1] - means[gaussians_of(own, EYE), 1].max()
        colours[(above > 0.008) & (above < 0.02)] = torch.tensor(BROW)
        colours[lids] = torch.tensor(GREEN)
        own.harmonics[skin, 0] = sh_of_colour(colours)[skin]
    return own, lids


def test_lids_take_the_colour_of_the_skin_beside_each_eye(face):
    """Of either side, none of the brow; along their edge they are in the lashes' shade."""
    own, lids = copy.deepcopy(face[0]), face[1]
    assert int(lids.sum()) > 500
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.ones(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    others = own.harmonics[~lids].clone()
    finish_lids(own, lids, picture, pose_of(own), viewmat)
    torch.testing.assert_close(own.harmonics[~lids], others, rtol=0, atol=0)
    means = own.splats(own.gather(own.rig.template)).means
    for side, colour in ((means[:, 0] > 0, LEFT), (means[:, 0] <= 0, RIGHT)):
        rgb = colour_of_sh(own.harmonics[lids & side, 0].detach())
        shade = (rgb / torch.tensor(colour)).mean(1, keepdim=True)
        torch.testing.assert_close(rgb, shade * torch.tensor(colour), rtol=0, atol=0.025)  # the hue is the skin's
        plain = (shade > 0.93).float().mean()
        assert float(shade.max()) < 1.02 and float(shade.min()) > 0.3
        assert 0.4 < float(plain) < 0.95


def test_a_shut_eye_looks_like_skin(face):
    """From before the eyes: green before, then skin but for a line of lashes."""
    own, lids = copy.deepcopy(face[0]), face[1]
    shut = pose_of(own, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    before, _ = drawn(own, shut, EYE)
    assert int((before[..., 1] > 0.9).sum()) > 200
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.ones(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    finish_lids(own, lids, picture, pose_of(own), viewmat)
    after, _ = drawn(own, shut, EYE)
    patch = before[..., 1] > 0.9
    off = torch.stack([(after - torch.tensor(colour)).abs().amax(-1) for colour in (LEFT, RIGHT)]).amin(0)
    assert float((off[patch] < 0.03).float().mean()) > 0.5


def test_open_eyes_leave_nothing_to_see_that_is_brighter_than_the_photo(face):
    """A dark photo darkens the lids that it shows, and none that are folded away."""
    found = {}
    viewmat, K = camera(face[0], EYE)
    for bright in (1.0, 0.1):
        own, lids = copy.deepcopy(face[0]), face[1]
        picture = Picture(torch.full((SIDE, SIDE, 3), bright), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
        finish_lids(own, lids, picture, pose_of(own), viewmat)
        found[bright] = colour_of_sh(own.harmonics[lids, 0].detach())
    splats = own.splats(own.vertices(pose_of(own)))
    depth = float((splats.means[lids] @ viewmat[2, :3] + viewmat[2, 3]).mean().detach())
    footprint = 2 * torch.pi * splats.scales[lids].sort(1).values[:, 1:].prod(1) * (float(K[0, 0]) / depth) ** 2
    share = light(own, splats, pose_of(own), viewmat, K, torch.ones(SIDE, SIDE))[lids] / footprint
    shown, folded = share > 0.3, share < 0.1
    assert shown.sum() > 10 and folded.sum() > 500
    torch.testing.assert_close(found[0.1][shown], found[1.0][shown].clamp(max=0.1), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[0.1][folded], found[1.0][folded], rtol=0, atol=1e-6)


def test_the_tone_is_that_of_what_is_lit():
    """A third of a shaded plane in shadow: its colours stay the plane's; few pixels tell nothing beyond their range."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    plane = torch.stack((0.5 + 0.004 * columns, 0.6 - 0.003 * rows, torch.full_like(rows, 0.4)), -1)
    shadow = torch.rand(40, 60, generator=generator) < 0.33
    rgb = torch.where(shadow[..., None], 0.3 * plane, plane)
    ring = (rows - 20).abs().maximum((columns - 30).abs() / 1.5) > 12
    pixels = torch.tensor([[30.0, 20.0], [22.0, 15.0], [38.0, 25.0]])
    wanted = plane[(pixels[:, 1] - 0.5).long(), (pixels[:, 0] - 0.5).long()]
    torch.testing.assert_close(_plane(rgb, ring, pixels), wanted, rtol=0.15, atol=0)
    assert (_plane(rgb, ring & ~shadow, pixels) - wanted).abs().max() < 0.01
    few = torch.zeros_like(ring)
    few[2, 3:40] = True
    noisy = plane + 0.1 * torch.randn(40, 60, 3, generator=generator)
    found = _plane(noisy, few, torch.tensor([[0.0, 40.0], [60.0, 40.0]]))
    assert (found >= noisy[few].amin(0)).all() and (found <= noisy[few].amax(0)).all()


def test_binding_to_other_triangles_moves_nothing(face):
    """On any vertices, as a net leaves them: means, sizes and turns are the same before and after."""
    own = copy.deepcopy(face[0])
    generator = torch.Generator().manual_seed(0)
    vertices = own.gather(own.rig.template)
    vertices = vertices + 0.002 * torch.randn(vertices.shape, generator=generator)
    chosen = torch.arange(0, own.gaussian_count, 97)
    with torch.no_grad():
        own.rotation.copy_(torch.randn(own.rotation.shape, generator=generator))
        own.log_scale.add_(torch.randn(own.log_scale.shape, generator=generator))
    before = own.splats(vertices)
    other = (own.binding[chosen] + 1) % len(own.mesh_faces)
    bind(own, chosen, other, vertices)
    after = own.splats(vertices)
    assert torch.equal(own.binding[chosen], other)
    torch.testing.assert_close(after.means, before.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(after.scales, before.scales, rtol=1e-4, atol=0)
    turned = [quaternion_to_matrix(splats.quaternions) for splats in (after, before)]
    torch.testing.assert_close(*turned, rtol=0, atol=1e-3)


def test_a_head_without_lids_stays_as_it_is(avatar):  # noqa: F811
    own = copy.deepcopy(avatar)
    before = own.harmonics.clone()
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.ones(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    finish_lids(own, torch.zeros(own.gaussian_count, dtype=torch.bool), picture, pose_of(own), viewmat)
    torch.testing.assert_close(own.harmonics, before, rtol=0, atol=0)


def test_shut_lids_hide_eyes_that_a_fit_left_before_them(face):
    """And a speck on their middle; the picture of open eyes stays as it was."""
    own, lids = copy.deepcopy(face[0]), face[1]
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.ones(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    shut, eyes = pose_of(own, eyeBlinkLeft=1.0, eyeBlinkRight=1.0), gaussians_of(own, EYES)
    vertices = own.vertices(shut)
    means = own.splats(vertices).means.detach()
    middle = means[lids & (means[:, 0] > 0)].mean(0)
    away = torch.where(lids | eyes, torch.inf, (means - middle).norm(dim=1))
    covered = torch.cdist(means[:, :2], means[lids][:, :2]).amin(1) < 0.001
    chosen = (eyes & covered) | (torch.arange(len(eyes)) == away.argmin())
    forward = viewmat[2, :3]
    sight = means + viewmat[:3, :3].T @ viewmat[:3, 3]
    nearer = means - 0.002 / (sight @ forward)[:, None] * sight  # by 2 mm of depth
    nearer[away.argmin()] = middle - 0.003 * forward
    with torch.no_grad():
        frames = triangle_frames(vertices, own.mesh_faces)
        own.position[chosen] = to_local(nearer[chosen], frames, own.binding[chosen])
        own.harmonics[chosen, 0] = sh_of_colour(torch.tensor([0.0, 0, 1]))
    blue = [(drawn(own, pose, EYE)[0] @ torch.tensor([-1.0, 0, 1]) > 0.3).sum() for pose in (pose_of(own), shut)]
    assert min(blue) > 500
    others = ~gaussians_of(own, ("lash",))  # which are as bright as skin here
    at = (own.splats(own.vertices(shut)).means @ viewmat[:3, :3].T + viewmat[:3, 3])[others]
    finish_lids(own, lids, picture, pose_of(own), viewmat)
    after = (own.splats(own.vertices(shut)).means @ viewmat[:3, :3].T + viewmat[:3, 3])[others]
    torch.testing.assert_close(after[:, :2] / after[:, 2:], at[:, :2] / at[:, 2:], rtol=0, atol=1e-5)
    farther = (after - at).detach()[:, 2]
    assert float(farther.min()) > -1e-5 and float(farther.max()) > 0.002
    open_eyes = drawn(own, pose_of(own), EYE)[0] @ torch.tensor([-1.0, 0, 1]) > 0.3
    assert open_eyes.sum() > 0.8 * blue[0]
    still = drawn(own, shut, EYE)[0] @ torch.tensor([-1.0, 0, 1]) > 0.3
    assert still.sum() < 0.03 * blue[1]


@pytest.mark.parametrize("off, gone", [(0.005, True), (0.0005, False)])
def test_hair_that_lids_carry_is_no_spot_on_them(face, off, gone):
    """Bound to what a blink moves and `off` metres before a shut lid: gone; skin, which lies nearer, stays."""
    own, lids = copy.deepcopy(face[0]), face[1]
    viewmat, K = camera(own, EYE)
    picture = Picture(torch.ones(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    shut = pose_of(own, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    with torch.no_grad():
        vertices = own.vertices(shut)
        rest, closed = own.splats(own.gather(own.rig.template)).means, own.splats(vertices).means
        skin = ~lids & ~gaussians_of(own, (*INTERIOR, *EYES, "lash", "lining"))
        hair = int(torch.where(skin, (closed - rest).norm(dim=1), 0.0).argmax())
        assert float((closed - rest)[hair].norm()) > 0.003
        lid = lids & ((closed[:, 0] > 0) == (closed[hair, 0] > 0))
        middle = closed[lid].mean(0)
        place = closed[lid][(closed[lid] - middle)[:, :2].norm(dim=1).argmin()] + torch.tensor([0.0, 0, off])
        own.position[hair] = to_local(
            place[None], triangle_frames(vertices, own.mesh_faces), own.binding[hair : hair + 1]
        )[0]
    finish_lids(own, lids, picture, pose_of(own), viewmat)
    opacity = own.logit_opacity.detach().sigmoid()
    assert float(opacity[hair]) < 0.001 if gone else float(opacity[hair]) > 0.9
    others = torch.arange(own.gaussian_count) != hair
    assert torch.equal(own.logit_opacity[others], face[0].logit_opacity[others])


def test_lashes_that_a_photo_shows_beside_the_rigs_go_along(face):
    """Dark, 2 mm above the lid's edge and bound to a brow: at rest it stays as it is, a blink carries it with the edge;
    as bright as skin, or 2 mm below, it is left where it is."""
    viewmat, K = camera(face[0], EYE)
    picture = Picture(torch.ones(SIDE, SIDE, 3), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), K)
    rig = face[0].rig
    blink = rig.template + rig.expression_basis[list(rig.expression_names).index("eyeBlinkLeft")]
    lashes = rig.faces[parts_named(rig.part_names, ("lash",))[rig.face_parts]].unique()
    most = lashes[(blink - rig.template)[lashes].norm(dim=1).argmax()]
    way = (blink - rig.template)[most]
    for share, above, carried in ((0.1, 0.002, True), (1.0, 0.002, False), (0.1, -0.002, False)):
        place = rig.template[most] + torch.tensor([0.0, above, 0.0])
        own, lids = copy.deepcopy(face[0]), face[1]
        still = (own.splats(own.gather(blink)).means - own.splats(own.gather(rig.template)).means).norm(dim=1) < 1e-4
        skin = ~lids & ~gaussians_of(own, (*INTERIOR, *EYES, "lash", "lining"))
        away = (own.splats(own.gather(rig.template)).means - place).norm(dim=1)
        chosen = int(torch.where(still & skin, away, torch.inf).argmin())
        with torch.no_grad():
            frames = triangle_frames(own.gather(rig.template), own.mesh_faces)
            own.position[chosen] = to_local(place[None], frames, own.binding[chosen : chosen + 1])[0]
            own.rotation[chosen] = torch.tensor([0.9, 0.1, -0.3, 0.2])
            own.log_scale[chosen] = torch.tensor([0.0, -0.5, -1.0])
            own.harmonics[chosen, 0] = sh_of_colour(share * torch.tensor(LEFT))
        before = own.splats(own.gather(rig.template))
        finish_lids(own, lids, picture, pose_of(own), viewmat)
        after, shut = (own.splats(own.gather(head)) for head in (rig.template, blink))
        torch.testing.assert_close(after.scales[chosen], before.scales[chosen], rtol=1e-4, atol=0)
        torch.testing.assert_close(after.means[chosen], before.means[chosen], rtol=0, atol=0.0011)  # tucked by 1 mm
        same = (after.quaternions[chosen] * before.quaternions[chosen]).sum() / before.quaternions[chosen].norm() ** 2
        assert abs(float(same.detach())) > 0.9999
        moved = (shut.means - after.means)[chosen].detach()
        assert float((moved - way * carried).norm()) < 0.25 * float(way.norm())


def test_skin_on_lashes_lies_on_the_lid_behind(face):
    """Bright lashes are none: they go along the sight, to where they slide over no eye. Dark ones stay."""
    own = copy.deepcopy(face[0])
    lash = gaussians_of(own, ("lash",))
    bright = lash & (torch.arange(own.gaussian_count) % 2 == 0)
    with torch.no_grad():
        own.harmonics[lash & ~bright, 0] = sh_of_colour(torch.tensor(BROW))
        viewmat, K = camera(own, EYE)
        pose = pose_of(own)
        vertices = own.vertices(pose)
        skin = ~parts_named(own.rig.part_names, NOT_SKIN)[triangle_parts(own)]
        corners = vertices[own.mesh_faces[skin]]
        before = own.splats(vertices).means
        _lay_bright_lashes(own, torch.ones_like(lash), pose, viewmat)
        after = own.splats(vertices).means
    assert int(bright.sum()) > 20
    assert torch.equal(before[~bright], after[~bright])
    moved = bright & ((after - before).norm(dim=1) > 1e-5)
    assert int(moved.sum()) > 0.6 * int(bright.sum())  # the rest stands before the eye itself
    pixels, depth = (value[moved] for value in project_points(before, viewmat, K))
    pixels_after, depth_after = (value[moved] for value in project_points(after, viewmat, K))
    torch.testing.assert_close(pixels, pixels_after, rtol=0, atol=0.02)
    assert (depth_after > depth).all()
    planes = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    planes = planes / planes.norm(dim=1, keepdim=True)
    off = ((after[moved][:, None] - corners[None, :, 0]) * planes).sum(-1).abs()
    near = (after[moved][:, None] - corners.mean(1)[None]).norm(dim=-1) < 0.004
    assert torch.where(near, off, torch.inf).amin(1).max() < 1e-4
