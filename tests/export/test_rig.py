"""The rig against the JAX skinning, through files alone; triangle frames and quaternions against scipy."""

import dataclasses

import numpy as np
import pytest
import torch
from export_world import make_head, make_motion
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import ARRAYS
from mvp4d_export.avatar import Avatar, AvatarConfig
from mvp4d_export.deformation import NetConfig
from mvp4d_export.remesh import remesh
from mvp4d_export.rig import Pose, Rig, rotation_matrix
from mvp4d_export.triangles import matrix_to_quaternion, multiply_quaternions, to_head, to_local, triangle_frames


def jax_vertices(head_path, motion_path):
    """World vertices by the other half of the project, from the same files."""
    from mvp4d.core.heads.motion import Motion
    from mvp4d_jax.heads.skinning import skin

    data = np.load(motion_path)
    return np.asarray(skin(HeadModel.load(head_path), Motion(**{name: data[name] for name in ARRAYS})))


@pytest.mark.parametrize("pose_correctives", [False, True])
def test_skinning_equals_jax(tmp_path, pose_correctives):
    """A random head with every feature that the format has."""

    rng = np.random.default_rng(1)
    egg = make_head()
    count, joints = len(egg.template), len(egg.joint_names)

    def small(*shape):
        return rng.normal(0, 0.004, shape).astype(np.float32)

    empty = np.zeros((0, count, 3), np.float32)
    head = HeadModel(
        name="random",
        canonical=egg.template,
        template=egg.template,
        faces=egg.faces.astype(np.int32),
        uv=egg.uv,
        face_uvs=egg.face_uvs.astype(np.int32),
        face_parts=egg.face_parts.astype(np.uint8),
        shape_basis=empty,
        expression_basis=small(4, count, 3),
        pose_basis=small((joints - 1) * 9, count, 3) if pose_correctives else empty,
        joints=egg.joints,
        joint_shape_basis=np.zeros((0, joints, 3), np.float32),
        joint_expression_basis=small(4, joints, 3),
        skin_weights=rng.dirichlet(np.ones(joints), count).astype(np.float32),
        landmark_faces=np.zeros(68, np.int32),
        landmark_barycentric=np.full((68, 3), 1 / 3, np.float32),
        shape_names=(),
        expression_names=egg.expression_names,
        joint_names=egg.joint_names,
        joint_parents=egg.joint_parents,
        part_names=egg.part_names,
    )
    head.save(tmp_path / "head.npz")
    motion = {name: rng.normal(0, 0.5, getattr(make_motion(5), name).shape).astype(np.float32) for name in ARRAYS}
    motion["rotation"][0] = 0
    motion["jaw"][1] = 1e-5
    np.savez(tmp_path / "motion.npz", **motion, fps=24.0)
    pose = Pose.of(read_motion(tmp_path / "motion.npz").motion)
    ours = Rig(HeadModel.load(tmp_path / "head.npz")).world_vertices(pose)
    assert np.abs(ours.numpy() - jax_vertices(tmp_path / "head.npz", tmp_path / "motion.npz")).max() < 1e-6


def test_builtin_head_skins_as_in_jax(tmp_path):
    from mvp4d.core.heads import load_head

    head = load_head("builtin")
    head = head.personalise(np.linspace(-1, 1, head.shape_count))
    head.save(tmp_path / "head.npz")
    rng = np.random.default_rng(0)
    motion = {
        "expression": rng.uniform(0, 1, (3, head.expression_count)),
        "rotation": rng.normal(0, 0.4, (3, 3)),
        "translation": rng.normal(0, 0.1, (3, 3)),
        "neck": rng.normal(0, 0.2, (3, 3)),
        "jaw": rng.normal(0, 0.1, (3, 3)),
        "eyes": rng.normal(0, 0.2, (3, 2, 3)),
    }
    np.savez(tmp_path / "motion.npz", **{name: value.astype(np.float32) for name, value in motion.items()}, fps=25.0)
    exported = HeadModel.load(tmp_path / "head.npz")
    ours = Rig(exported).world_vertices(Pose.of(read_motion(tmp_path / "motion.npz").motion))
    assert np.abs(ours.numpy() - jax_vertices(tmp_path / "head.npz", tmp_path / "motion.npz")).max() < 1e-6


def test_rotations_equal_scipy():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 1.5, (50, 3)), np.zeros((1, 3)), [[1e-5, 0, 0], [0, np.pi, 0]]])
    matrices = rotation_matrix(torch.from_numpy(vectors))
    expected = Rotation.from_rotvec(vectors)
    np.testing.assert_allclose(matrices.numpy(), expected.as_matrix(), atol=1e-12)
    quaternions = matrix_to_quaternion(matrices).numpy()
    reference = expected.as_quat(scalar_first=True)
    np.testing.assert_allclose(np.abs((quaternions * reference).sum(1)), 1, atol=1e-12)
    product = multiply_quaternions(torch.from_numpy(reference[:20]), torch.from_numpy(reference[20:40])).numpy()
    expected_product = (expected[:20] * expected[20:40]).as_quat(scalar_first=True)
    np.testing.assert_allclose(np.abs((product * expected_product).sum(1)), 1, atol=1e-12)


def test_triangle_frames_follow_cap4ds_definition():
    """Each line of CAP4D's decoding, in numpy, on random triangles, and points carried into them and back."""
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(0, 1, (30, 3)), rng.permutation(30).reshape(10, 3)
    rotation, scale, centre = (
        value.numpy() for value in triangle_frames(torch.from_numpy(vertices), torch.from_numpy(faces))
    )
    for index, (v0, v1, v2) in enumerate(vertices[faces]):
        a0 = (v1 - v0) / np.linalg.norm(v1 - v0)
        a1 = np.cross(a0, v2 - v0)
        a1 /= np.linalg.norm(a1)
        a2 = -np.cross(a1, a0) / np.linalg.norm(np.cross(a1, a0))
        np.testing.assert_allclose(rotation[index], np.stack([a0, a1, a2], 1), atol=1e-12)
        np.testing.assert_allclose(scale[index], (np.linalg.norm(v1 - v0) + abs(a2 @ (v2 - v0))) / 2)
        np.testing.assert_allclose(centre[index], (v0 + v1 + v2) / 3)
    frames = tuple(torch.from_numpy(value) for value in (rotation, scale, centre))
    local, at = rng.normal(0, 1, (40, 3)), rng.integers(0, 10, 40)
    expected = np.stack([scale[k] * rotation[k] @ point + centre[k] for k, point in zip(at, local)])
    there = to_head(torch.from_numpy(local), frames, torch.from_numpy(at))
    np.testing.assert_allclose(there, expected, atol=1e-12)
    np.testing.assert_allclose(to_local(there, frames, torch.from_numpy(at)), local, atol=1e-12)


def test_remesh_lies_on_the_head():
    """Vertices lie on the surface, triangles wind outwards and cover all but the chart's seam and poles."""
    head = make_head()
    mesh = remesh(head, 32)
    points = (head.template[mesh.corners] * mesh.weights[..., None]).sum(1)
    radii = np.abs(points / np.array([0.075, 0.105, 0.09]))
    assert np.abs(np.linalg.norm(radii, axis=1) - 1).max() < 0.02
    corners = points[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) > 0).all()
    whole = head.template[head.faces]
    area = np.linalg.norm(np.cross(whole[:, 1] - whole[:, 0], whole[:, 2] - whole[:, 0]), axis=1).sum()
    assert np.linalg.norm(normals, axis=1).sum() > 0.9 * area
    assert mesh.deformable.max() == 1
    assert mesh.deformable[points[:, 2] < -0.05].max() < 0.05


def test_eyes_and_teeth_move_as_one_by_the_mean_of_the_skin_around_them():
    """Whatever the net says: lids stay on eyes, lips on teeth."""
    avatar = Avatar(AvatarConfig(144, 0, NetConfig((8, 8), 1, 1)), load_head("builtin"))
    mesh, names = avatar.mesh, np.array(avatar.rig.part_names)[avatar.mesh.part]
    places = avatar.gather(avatar.rig.template).numpy()
    left, eyes = places[:, 0] > 0, np.isin(names, ["sclera", "iris", "pupil"])
    mouth = np.isin(names, ["upper_teeth", "lower_teeth", "gums", "tongue"])
    torch.manual_seed(0)
    torch.nn.init.normal_(avatar.net.head.weight, std=0.3)
    moved = avatar.offsets(_pose(avatar, 0.5)).detach().numpy()
    able = (mesh.deformable > 0.5) & ~np.isin(names, ["mouth_inside"])
    rigid = np.where(eyes | mouth)[0]
    apart = np.linalg.norm(places[able][:, None] - places[rigid], axis=-1)  # [able, rigid]
    for group in (eyes & left, eyes & ~left, mouth):
        own = np.isin(rigid, np.where(group)[0])
        near = (apart[:, own].min(1) < 0.008) & (apart[:, own].min(1) <= apart.min(1))
        assert near.sum() > 30
        mean = moved[able][near].mean(0)
        assert np.linalg.norm(mean) > 1e-4 and np.linalg.norm(moved[able][near] - mean, axis=1).max() > 1e-4
        np.testing.assert_allclose(moved[group], np.broadcast_to(mean, moved[group].shape), atol=1e-7)
    plain = ~eyes & ~mouth & (mesh.deformable == 0)
    assert plain.any() and not moved[plain].any()


def test_eyes_that_turn_stay_where_the_skin_around_them_is():
    avatar = Avatar(AvatarConfig(48, 0, NetConfig((8, 8), 1, 1)), load_head("builtin"))
    torch.manual_seed(0)
    torch.nn.init.normal_(avatar.net.head.weight, std=0.3)
    pose = _pose(avatar, 0.1)
    offsets = avatar.offsets(pose).detach()
    pose.eyes[:] = torch.tensor([0.2, 0.5, 0.0])
    moved = (avatar.vertices(pose, offsets) - avatar.vertices(pose, torch.zeros_like(offsets))).detach()
    for group in (1, 2):
        own = torch.from_numpy(avatar.mesh.follows == group)
        assert float(offsets[own].norm(dim=1).min()) > 1e-4
        torch.testing.assert_close(moved[own], offsets[own], rtol=0, atol=1e-6)


def test_lids_and_lashes_are_no_eyes_by_any_name():
    head = load_head("builtin")
    called = {"lashes": "eyelashes", "lid_lining": "eyelid_lining"}
    renamed = dataclasses.replace(head, part_names=tuple(called.get(name, name) for name in head.part_names))
    ours, theirs = remesh(head, 96), remesh(renamed, 96)
    np.testing.assert_array_equal(theirs.follows, ours.follows)
    np.testing.assert_array_equal(theirs.deformable, ours.deformable)
    assert (ours.follows == 1).any() and (ours.follows == 2).any()


def test_an_avatar_whose_eyes_follow_nothing_is_read(tmp_path):
    avatar = Avatar(AvatarConfig(48, 0, NetConfig((8, 8), 1, 1)), load_head("builtin"))
    torch.nn.init.normal_(avatar.net.head.weight, std=0.3)
    avatar.save(tmp_path / "avatar")
    pose = _pose(avatar, 0.3)
    torch.testing.assert_close(Avatar.load(tmp_path / "avatar").offsets(pose), avatar.offsets(pose))
    where = tmp_path / "avatar" / "avatar.safetensors"
    tensors = load_file(where)
    save_file({k: v for k, v in tensors.items() if k not in ("mesh.follows", "mesh.leads")}, where)
    without = Avatar.load(tmp_path / "avatar")
    still = torch.from_numpy(avatar.mesh.follows > 0)
    offsets = without.offsets(pose)
    assert not offsets[still].any()
    torch.testing.assert_close(offsets[~still], avatar.offsets(pose)[~still])
    without.save(tmp_path / "again")
    beyond = tensors["mesh.leads"].clone()
    beyond[0] = 64
    for name, wrong in (
        ("leads", beyond),
        ("leads", tensors["mesh.leads"].float()),
        ("follows", tensors["mesh.follows"].to(torch.uint8)),
        ("follows", tensors["mesh.follows"][:, None].repeat(1, 2)),
    ):
        save_file({**tensors, f"mesh.{name}": wrong}, where)
        with pytest.raises(UserError, match=name):
            Avatar.load(tmp_path / "avatar")


def _pose(avatar: Avatar, expression: float) -> Pose:
    values = torch.full((1, len(avatar.rig.expression_names)), expression)
    return Pose(values, *(torch.zeros(1, 3) for _ in range(4)), torch.zeros(1, 2, 3))
