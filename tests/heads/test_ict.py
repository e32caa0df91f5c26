"""ICT-FaceKit: the OBJ folder and the packed npz give the same head, in metres, with ARKit's names."""

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import landmarks, skin

KEPT_IDENTITIES, KEPT_EXPRESSIONS = (
    ("identity000", "identity007"),
    ("browInnerUp_L", "browInnerUp_R", "jawOpen", "eyeLookUp_L", "cheekRaiser_L"),
)


@pytest.fixture(scope="session")
def packed(shared_data):
    with np.load(shared_data / "ict_facekit" / "ict_facekit.npz") as data:
        return {key: data[key] for key in data}


@pytest.fixture(scope="session")
def ict(shared_data):
    return load_head(f"ict:{shared_data / 'ict_facekit' / 'ict_facekit.npz'}")


def write_shape(path, vertices, body=""):
    path.write_text("\n".join("v {:.7g} {:.7g} {:.7g}".format(*row) for row in vertices) + "\n" + body)


@pytest.fixture(scope="session")
def folder(packed, tmp_path_factory):
    """A FaceXModel folder written from the npz: the neutral mesh, two identities, five expressions."""
    path = tmp_path_factory.mktemp("ict") / "FaceXModel"
    path.mkdir()
    lines = ["vt {:.7g} {:.7g}".format(*row) for row in packed["uv"]]
    current = None
    for corners, uvs, material in zip(packed["faces"], packed["face_uvs"], packed["face_material"]):
        if material != current:
            current = material
            lines.append(f"usemtl {packed['material_names'][material]}")
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(corners, uvs) if v >= 0))
    write_shape(path / "generic_neutral_mesh.obj", packed["vertices"], "\n".join(lines))
    for kind, kept in (("identity", KEPT_IDENTITIES), ("expression", KEPT_EXPRESSIONS)):
        names = list(packed[f"{kind}_names"])
        for name in kept:
            offset = packed[kind][names.index(name)].astype(np.float32)
            write_shape(path / f"{name}.obj", packed["vertices"] + offset)
    return path.parent


def test_folder_and_npz_agree_to_float16_precision(folder, ict, packed):
    head = load_head(f"ict:{folder}")
    np.testing.assert_allclose(head.template, ict.template, atol=1e-7)
    np.testing.assert_array_equal(head.faces, ict.faces)
    np.testing.assert_allclose(head.uv[head.face_uvs], ict.uv[ict.face_uvs], atol=1e-6)
    # Material numbers depend on the order in the file, part numbers do not.
    np.testing.assert_array_equal(head.face_parts, ict.face_parts)
    assert head.shape_names == KEPT_IDENTITIES
    half = np.finfo(np.float16).eps
    for row, name in enumerate(KEPT_IDENTITIES):
        expected = ict.shape_basis[ict.shape_names.index(name)]
        np.testing.assert_allclose(head.shape_basis[row], expected, rtol=half, atol=1e-7)
    for name in ("browInnerUp", "jawOpen", "eyeLookUpLeft"):
        index = ARKIT_NAMES.index(name)
        np.testing.assert_allclose(head.expression_basis[index], ict.expression_basis[index], rtol=half, atol=2e-7)
    assert np.abs(head.expression_basis[ARKIT_NAMES.index("jawOpen")]).max() > 0.01


def test_units_axes_and_names(ict, packed):
    assert ict.expression_names == ARKIT_NAMES and len(set(ARKIT_NAMES)) == 52
    np.testing.assert_allclose(np.ptp(ict.template, axis=0), np.ptp(packed["vertices"], axis=0) / 100, rtol=1e-6)
    silent = [name for name, basis in zip(ict.expression_names, ict.expression_basis) if not basis.any()]
    assert silent == ["tongueOut"]
    marks = np.asarray(landmarks(ict, ict.template))
    expected = packed["vertices"][packed["landmarks_multipie68"]] / 100
    np.testing.assert_allclose(marks - marks[30], expected - expected[30], atol=1e-6)
    # The right eye's corner (36) lies at the left of a frontal picture, the chin (8) below the nose tip (30).
    assert marks[36, 0] < 0 < marks[45, 0] and marks[8, 1] < marks[30, 1] and marks[30, 2] > marks[36, 2]
    left = np.concatenate([-expected[:17][::-1, :1], expected[:17][::-1, 1:]], axis=1)
    np.testing.assert_allclose(left, expected[:17], atol=0.01)


def test_eyes_turn_about_their_centres_and_lids_stay(ict):
    motion = Motion.still(1, 52)
    motion.eyes[0, 0] = [0.0, 0.3, 0.0]
    moved = np.asarray(skin(ict, motion))[0] - ict.template
    joint = ict.joint_names.index("left_eye")
    ball = ict.skin_weights[:, joint] == 1
    assert ball.sum() > 1000 and np.abs(moved[~ball]).max() < 1e-7
    radius = np.linalg.norm(ict.template[ball] - ict.joints[joint], axis=1)
    turned = np.linalg.norm(ict.template[ball] + moved[ball] - ict.joints[joint], axis=1)
    np.testing.assert_allclose(turned, radius, atol=1e-6)
    assert np.quantile(radius, 0.9) - np.quantile(radius, 0.1) < 0.003  # a ball, and the joint is its centre
    front = ball & (ict.template[:, 2] > ict.joints[joint, 2] + 0.01)
    assert moved[front][:, 0].mean() > 0.002  # positive yaw looks towards +x
    looks = [index for index, name in enumerate(ARKIT_NAMES) if name.startswith("eyeLook")]
    assert not ict.expression_basis[looks][:, ball].any() and ict.expression_basis[looks].any()


def test_neck_turns_the_head_on_still_shoulders(ict):
    motion = Motion.still(1, 52)
    motion.neck[0] = [0.0, 0.4, 0.0]
    moved = np.linalg.norm(np.asarray(skin(ict, motion))[0] - ict.template, axis=1)
    assert moved[np.argmax(ict.template[:, 2])] > 0.02  # the nose tip
    assert moved[ict.template[:, 1] < ict.template[:, 1].min() + 0.02].max() < 1e-6


def test_damaged_inputs_end_in_one_line(packed, tmp_path):
    cases = {
        "faces": packed["faces"] + 30_000,
        "expression": packed["expression"][:3],
        "vertices": packed["vertices"][:9],
    }
    for name, value in cases.items():
        np.savez(tmp_path / "bad.npz", **{**packed, name: value})
        with pytest.raises(UserError, match=name):
            load_head(f"ict:{tmp_path / 'bad.npz'}")
    with pytest.raises(UserError, match="generic_neutral_mesh"):
        load_head(f"ict:{tmp_path}")
    with pytest.raises(UserError, match="no such file"):
        load_head("ict:/nowhere")
    with pytest.raises(UserError, match="not a head model"):
        load_head("cat")
