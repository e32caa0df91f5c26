"""What lips and lids hide: there when they open and close, and out of sight when they do not."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar, AvatarConfig
from mvp4d_export.harmonics import colour_of_sh, sh_of_colour
from mvp4d_export.hidden import MOUTH_COLOURS, OwnMouths, _mouth, in_light, lid_triangles, seed_hidden, teeth_colour
from mvp4d_export.lids import lids_among
from mvp4d_export.lips import seed_lips
from mvp4d_export.mouth_mask import grown
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import triangle_frames
from mvp4d_export.visibility import OTHERS, TEETH, claims, gaussians_of, rig_surface, triangle_parts

SKIN, BLUE = (0.78, 0.6, 0.5), (0.0, 0.0, 1.0)
SIDE = 160


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """The built-in head: one opaque Gaussian per triangle, skin-coloured and so inside the mouth; eyes are blue."""
    avatar = Avatar(AvatarConfig(144, 0, antialiased=True, pitch=0.001), load_head("builtin"))
    count = len(avatar.mesh_faces)
    tensors = {
        name: getattr(avatar, name).new_zeros(count, *getattr(avatar, name).shape[1:]) for name in GAUSSIAN_TENSORS
    }
    scale = triangle_frames(avatar.gather(avatar.rig.template), avatar.mesh_faces)[1]
    tensors["rotation"][:, 0] = 1
    tensors["log_scale"] += ((0.6 * scale).clamp(max=0.003) / scale).log()[:, None]
    tensors["log_scale"][:, 1] -= 1.5
    tensors["logit_opacity"] += 4
    avatar.set_gaussians(torch.arange(count), tensors)
    with torch.no_grad():
        avatar.harmonics[:, 0] = sh_of_colour(torch.tensor(SKIN))
        avatar.harmonics[gaussians_of(avatar, EYES), 0] = sh_of_colour(torch.tensor(BLUE))
        seed_hidden(avatar, lid_triangles(avatar), torch.tensor(SKIN))
    return avatar


def pose_of(avatar: Avatar, **expression: float) -> Pose:
    values = torch.zeros(1, len(avatar.rig.expression_names))
    for name, value in expression.items():
        values[0, avatar.rig.expression_names.index(name)] = value
    return Pose(values, *(torch.zeros(1, 3) for _ in range(4)), torch.zeros(1, 2, 3))


def camera(avatar: Avatar, words: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """From 0.6 m before the parts that hold one of the words, near enough that a pixel spans half a millimetre."""
    rig = avatar.rig
    chosen = [any(word in name for word in words) for name in rig.part_names]
    middle = rig.template[rig.faces[torch.tensor(chosen)[rig.face_parts]]].mean((0, 1))
    viewmat = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    viewmat[:3, 3] = viewmat[:3, :3] @ -middle + torch.tensor([0.0, 0, 0.6])
    K = torch.tensor([[1200.0, 0, SIDE / 2], [0, 1200.0, SIDE / 2], [0, 0, 1]])
    return viewmat, K


def drawn(avatar: Avatar, pose: Pose, words: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours [S, S, 3] and the rig's part [S, S] of each pixel, by its triangles alone."""
    viewmat, K = camera(avatar, words)
    with torch.no_grad():
        splats = avatar.splats(avatar.vertices(pose))
        rgb = avatar.render(splats, pose, viewmat[None], K[None], SIDE, SIDE, torch.ones(3)).rgb[0]
    face = rig_surface(avatar, pose, viewmat, K, SIDE).face
    return rgb, torch.where(face >= 0, avatar.rig.face_parts[face.clamp(min=0)], -1)


def of_parts(avatar: Avatar, part: torch.Tensor, words: tuple[str, ...]) -> torch.Tensor:
    return torch.stack(
        [part == i for i, name in enumerate(avatar.rig.part_names) if any(w in name for w in words)]
    ).any(0)


def test_an_open_mouth_is_dark_with_bright_teeth(avatar):
    rgb, part = drawn(avatar, pose_of(avatar, jawOpen=0.8), INTERIOR)
    inside, tongue, teeth = (of_parts(avatar, part, (name,)) for name in ("inside", "tongue", "teeth"))
    assert int(inside.sum() + tongue.sum()) > 300 and int(teeth.sum()) > 30
    assert float(rgb[inside | tongue].mean()) < 0.25  # skin is 0.63
    assert float(rgb[teeth].mean()) > 2 * float(rgb[inside].mean())
    assert float(rgb[inside].mean()) < float(rgb[tongue].mean()) < 0.6 * float(rgb[teeth].mean())


def test_teeth_and_the_tongue_are_darker_further_back(avatar):
    """Light comes from before the lips."""
    with torch.no_grad():
        places = avatar.splats(avatar.gather(avatar.rig.template)).means
        brightness = colour_of_sh(avatar.harmonics[:, 0]).mean(1)
    for name, deep in (("upper_teeth", 0.015), ("lower_teeth", 0.015), ("tongue", 0.015)):
        own = gaussians_of(avatar, (name,))
        depth = places[own, 2].max() - places[own, 2]
        near, far = brightness[own][depth < 0.006], brightness[own][depth > 2 * deep]
        assert len(near) > 20 and len(far) > 20
        assert float(far.mean()) < 0.6 * float(near.mean())


def test_lower_teeth_show_as_far_as_the_rig_shows_them(avatar):
    """The lining between them and the lip covers none of them from before."""
    pose = pose_of(avatar, jawOpen=0.3, mouthLowerDownLeft=1.0, mouthLowerDownRight=1.0)
    viewmat, K = camera(avatar, TEETH)
    seeded = copy.deepcopy(avatar)
    seed_lips(seeded)
    lower = gaussians_of(seeded, ("lower_teeth",))
    with torch.no_grad():
        splats = seeded.splats(seeded.vertices(pose))
        white = lower[:, None].float().expand(-1, 3)
        share = seeded.render(splats, pose, viewmat[None], K[None], SIDE, SIDE, colours=white).rgb[0, ..., 0]
    face = rig_surface(seeded, pose, viewmat, K, SIDE).face
    part = torch.where(face >= 0, seeded.rig.face_parts[face.clamp(min=0)], -1)
    teeth = of_parts(seeded, part, ("lower_teeth",))
    assert int(teeth.sum()) > 300
    assert float(share[teeth].mean()) > 0.6  # 0.45 behind a lining as coarse as the rest


@pytest.mark.parametrize("wide", [0.4, 0.8])
def test_an_open_mouth_does_not_show_the_back_of_the_head(avatar, wide):
    pose = pose_of(avatar, jawOpen=wide)
    viewmat, K = camera(avatar, INTERIOR)
    with torch.no_grad():
        splats = avatar.splats(avatar.vertices(pose))
        front = avatar.rig.template[:, 2].max()
        behind = ~gaussians_of(avatar, INTERIOR) & (splats.means[:, 2] < front - 0.09)
        white = behind[:, None].float().expand(-1, 3)
        through = avatar.render(splats, pose, viewmat[None], K[None], SIDE, SIDE, torch.zeros(3), colours=white)
    inside = of_parts(avatar, drawn(avatar, pose, INTERIOR)[1], INTERIOR)
    assert int(inside.sum()) > 300
    assert float(through.rgb[0, ..., 0][inside].max()) < 0.1


def test_a_closed_mouth_shows_nothing_of_it(avatar):
    rgb, _ = drawn(avatar, pose_of(avatar), INTERIOR)
    other = (rgb - torch.tensor(SKIN)).abs().amax(-1) > 0.12
    assert float(other.float().mean()) < 0.02  # a line where the lips meet


@pytest.mark.parametrize(
    "expression",
    [
        {},
        {"jawOpen": 1.0},
        {"jawOpen": 0.8},
        {"jawOpen": 0.3, "mouthSmileLeft": 0.8},
        {"mouthFunnel": 0.8, "jawOpen": 0.2},
    ],
)
def test_lips_stay_on_the_rigs_lips(avatar, expression):
    """Where the rig shows lips they are, and nowhere in the open mouth, on triangles that are coarser than they."""
    own = copy.deepcopy(avatar)
    count = seed_lips(own)
    assert count > 500
    lips = torch.arange(own.gaussian_count) >= own.gaussian_count - count
    pose = pose_of(own, **expression)
    viewmat, K = camera(own, INTERIOR)
    with torch.no_grad():
        own.harmonics.zero_()
        own.harmonics[:, 0] = sh_of_colour(lips.float()[:, None] * torch.tensor([1.0, 0, 0]))  # red on black
        splats = own.splats(own.vertices(pose))
        red = own.render(splats, pose, viewmat[None], K[None], SIDE, SIDE, torch.zeros(3)).rgb[0, ..., 0]
    _, part = drawn(own, pose, INTERIOR)
    truth, inside = of_parts(own, part, ("lips",)), of_parts(own, part, INTERIOR)
    assert float(red[truth].mean()) > 0.9 and float(red[truth].min()) > 0.5
    if expression:
        well = ~grown(~inside, 4)  # two millimetres from the lips' edge
        assert well.sum() > 100
        assert float(red[well].mean()) < 0.05


def test_lips_are_not_lids(avatar):
    """Not even those that follow triangles of the skin; what lies on the lids is one."""
    own = copy.deepcopy(avatar)
    count = seed_lips(own)
    lips = torch.arange(own.gaussian_count) >= own.gaussian_count - count
    assert (lips & ~gaussians_of(own, ("lips",))).sum() > 10
    lids = lid_triangles(own)[own.binding] & ~lips
    assert lids.sum() > 100
    assert (lids_among(own, lips | lids) == lids).all()


def test_lids_close_over_the_eyes_and_leave_them_open(avatar):
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        assert name in avatar.rig.expression_names
    blue = []
    for blink in (0.0, 1.0):
        pose = pose_of(avatar, eyeBlinkLeft=blink, eyeBlinkRight=blink)
        rgb, part = drawn(avatar, pose, EYES)
        blue.append((rgb[..., 2] - rgb[..., 0] > 0.3).float().sum().item())
        if not blink:
            shown = of_parts(avatar, part, EYES).float().sum().item()
    assert blue[0] > 0.7 * shown  # open eyes stay open
    assert blue[1] < 0.02 * blue[0]


def test_lids_lie_on_the_eyes_and_leave_no_holes(avatar):
    """Where they unfold, and nowhere else; they alone hide the middle of an eye."""
    rig, lids = avatar.rig, lid_triangles(avatar)
    pose = pose_of(avatar, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    middles = avatar.vertices(pose)[avatar.mesh_faces[lids]].mean(1).detach()
    eye = torch.tensor([any(word in name for word in EYES) for name in rig.part_names])[rig.face_parts]
    away = torch.cdist(middles, rig.template[rig.faces[eye].flatten().unique()]).amin(1)
    assert len(away) > 50 and float(away.max()) < 0.007  # a brow is 15 mm above

    alone = copy.deepcopy(avatar)
    kept = lids[alone.binding] | gaussians_of(alone, EYES)
    with torch.no_grad():
        alone.logit_opacity[~kept] = -9
    rgb, _ = drawn(alone, pose, EYES)
    _, part = drawn(avatar, pose_of(avatar), EYES)
    middle = ~grown(~of_parts(avatar, part, EYES), 4)  # two millimetres from the open lids
    assert middle.sum() > 100
    holes = rgb[..., 2] - rgb[..., 0] > 0.1
    assert float(holes[middle].float().mean()) < 0.01


def test_the_mouth_takes_the_photos_light():
    lit = {name: in_light(colour, torch.tensor(SKIN)) for name, colour in MOUTH_COLOURS.items()}
    dim = {name: in_light(colour, torch.tensor(SKIN) * 0.7) for name, colour in MOUTH_COLOURS.items()}
    grey = in_light(MOUTH_COLOURS["tongue"], torch.full((3,), 0.6))
    for name, colour in MOUTH_COLOURS.items():
        np.testing.assert_allclose(lit[name], np.array(colour) * np.mean(SKIN) / 0.6, rtol=1e-5)
        np.testing.assert_allclose(dim[name] / lit[name], 0.7, rtol=1e-5)
    assert float(grey.amax() - grey.amin()) < 1e-6
    warm = in_light(MOUTH_COLOURS["teeth"], torch.tensor(SKIN) * torch.tensor([1.0, 0.8, 0.6])) / lit["teeth"]
    np.testing.assert_allclose(warm / warm[0], [1, 0.8**0.5, 0.6**0.5], rtol=1e-5)


def test_teeth_have_the_colour_that_a_photo_shows(avatar):
    face, white, lip = torch.tensor(SKIN), torch.tensor([0.9, 0.82, 0.7]), torch.tensor([0.6, 0.3, 0.28])
    rgb, where = face.repeat(20, 20, 1), torch.zeros(20, 20, dtype=torch.bool)
    where[5:15, 5:15] = True
    rgb[5:15, 5:12], rgb[5:15, 12:15] = white, lip  # the fitted mouth reaches onto a lip
    np.testing.assert_allclose(teeth_colour(rgb, where, face), white, atol=1e-6)
    assert teeth_colour(rgb, where & (torch.arange(20) < 9), face) is None  # too few
    assert teeth_colour(torch.where(where[..., None], lip, rgb), where, face) is None  # lips that are closed
    seen = copy.deepcopy(avatar)
    seed_hidden(seen, lid_triangles(seen), face, white)
    colours = colour_of_sh(seen.harmonics[:, 0])[gaussians_of(seen, TEETH)]
    brightest = colours[colours.mean(1).argsort(descending=True)[:50]].mean(0)
    np.testing.assert_allclose(brightest.detach(), white, atol=0.02)


def pieces(faces: list[list[int]]) -> list[set[int]]:
    """Sets of vertices that hang together by triangles."""
    found: list[set[int]] = []
    for face in faces:
        joined = [piece for piece in found if piece & set(face)]
        found = [piece for piece in found if not piece & set(face)] + [set(face).union(*joined)]
    return found


def test_teeth_stand_in_a_row(avatar):
    """Dark where one ends and the next one of its jaw begins, and not where the jaws meet."""
    rig, own = avatar.rig, copy.deepcopy(avatar)
    with torch.no_grad():
        places = own.splats(own.gather(rig.template)).means
    brightness = colour_of_sh(own.harmonics[:, 0]).mean(1).detach()
    for jaw in ("upper_teeth", "lower_teeth"):
        faces = rig.faces[rig.face_parts == rig.part_names.index(jaw)]
        middles = torch.stack([rig.template[sorted(tooth)].mean(0) for tooth in pieces(faces.tolist())])
        front = middles[middles[:, 2] > middles[:, 2].max() - 0.003]  # the incisors
        a, b = front[front[:, 0].argsort()][len(front) // 2 - 1 : len(front) // 2 + 1]
        facing = gaussians_of(own, (jaw,)) & (places[:, 2] > front[:, 2].mean()) & ((places[:, 1] - a[1]).abs() < 0.002)
        between = facing & ((places[:, 0] - (a[0] + b[0]) / 2).abs() < 0.0004)
        on = facing & ((places[:, 0] - b[0]).abs() < 0.001)
        assert between.sum() >= 2 and on.sum() > 5
        assert float(brightness[between].mean()) < 0.7 * float(brightness[on].mean())


def test_where_jaws_meet_in_one_part_no_teeth_are_darker(avatar):
    """As in two parts: each Gaussian of the teeth has the same colour."""
    head = load_head("builtin")
    upper, lower = (head.part_names.index(jaw) for jaw in ("upper_teeth", "lower_teeth"))
    parts = np.where(head.face_parts == lower, upper, head.face_parts).astype(np.uint8)
    names = tuple("teeth" if name == "upper_teeth" else name for name in head.part_names)
    joined = Avatar(avatar.config, dataclasses.replace(head, face_parts=parts, part_names=names))
    colours = []
    for own in (avatar, joined):
        found = [tensors for binding, tensors in _mouth(own, torch.tensor(SKIN), None) if in_part(own, binding, TEETH)]
        colours.append(torch.cat([tensors["harmonics"][:, 0] for tensors in found]).sort(0).values)
    assert len(found) == 1 and len(colours[0]) > 1000
    torch.testing.assert_close(colours[1], colours[0])


def test_teeth_of_a_fine_mesh_have_no_gaps_within(avatar):
    """Where points lie on few of its triangles."""
    brightness = []
    for fine in (0, 2):
        own = copy.deepcopy(avatar)
        rig = own.rig
        for _ in range(fine):
            moved = rig.expression_basis.transpose(0, 1)  # [N, E, 3]
            values, faces = halved(torch.cat((rig.template, rig.skin_weights, moved.flatten(1)), 1), rig.faces)
            rig.template, rig.skin_weights, moved = values.split((3, rig.skin_weights.shape[1], moved[0].numel()), 1)
            rig.expression_basis = moved.unflatten(1, (-1, 3)).transpose(0, 1)
            rig.faces, rig.face_parts = faces, rig.face_parts.repeat(4)
        ((_, tensors),) = [
            found for found in _mouth(own, torch.tensor(SKIN), None) if in_part(own, found[0], ("upper",))
        ]
        brightness.append(float(colour_of_sh(tensors["harmonics"][:, 0]).mean()))
    assert abs(brightness[1] - brightness[0]) < 0.01


def in_part(own, binding, words):
    """Whether Gaussians of one part are in one that a word names."""
    return any(word in own.rig.part_names[int(triangle_parts(own)[binding[0]])] for word in words)


def halved(values, faces):
    """Each triangle in four, of values [N, C] at its corners."""
    edges, place = (
        torch.stack((faces, faces.roll(-1, 1)), -1).sort(-1).values.flatten(0, 1).unique(dim=0, return_inverse=True)
    )
    a, b, c = (faces[:, k] for k in range(3))
    ab, bc, ca = (len(values) + place.view(-1, 3)).unbind(1)
    rows = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return torch.cat((values, values[edges].mean(1))), torch.cat([torch.stack(row, 1) for row in rows])


def test_one_photo_claims_an_eye_and_the_reference_claims_more(avatar):
    places = avatar.splats(avatar.gather(avatar.rig.template)).means.detach()
    squarely = (0.5 + 4 * places[:, 0]).clamp(0, 1)  # more on the head's left
    eyes, left = gaussians_of(avatar, EYES), places[:, 0] >= 0
    reference = claims(avatar, avatar.binding, places, squarely, True)
    other = claims(avatar, avatar.binding, places, squarely, False)
    np.testing.assert_allclose(reference[~eyes], squarely[~eyes])
    np.testing.assert_allclose(other, OTHERS * reference, rtol=1e-6)
    for side in (eyes & left, eyes & ~left):
        assert int(side.sum()) > 20 and float(squarely[side].std()) > 0.01
        np.testing.assert_allclose(reference[side], squarely[side].mean().expand(int(side.sum())), rtol=1e-5)
    assert float(reference[eyes & left].mean()) > float(reference[eyes & ~left].mean()) + 0.1


def test_generated_views_get_the_heads_own_mouth_where_it_is_open(avatar):
    pose = pose_of(avatar, jawOpen=0.8)
    viewmat, K = camera(avatar, INTERIOR)
    data = SimpleNamespace(
        size=(SIDE, SIDE), pose=pose, viewmats=viewmat[None, None], Ks=K[None, None], pixel_pitch=0.001
    )
    grey = torch.full((1, SIDE // 2, SIDE // 2, 3), 0.5)
    fixed = gaussians_of(avatar, INTERIOR)
    pictures, mouths = OwnMouths(avatar, data)(grey, 0, [0], fixed, torch.tensor([2.0, 1, 1]))
    _, part = drawn(avatar, pose, INTERIOR)
    inside = of_parts(avatar, part, INTERIOR).float()
    torch.testing.assert_close(mouths[0], inside.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3)))
    assert torch.equal(pictures[mouths == 0], grey[mouths == 0])
    plain, _ = OwnMouths(avatar, data)(grey, 0, [0], fixed, torch.ones(3))
    within = mouths == 1
    assert float(plain[within].mean()) < 0.3
    torch.testing.assert_close(pictures[within], plain[within] * torch.tensor([2.0, 1, 1]))
