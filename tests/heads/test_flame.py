"""FLAME against the smplx package and against a plain numpy statement of CAP4D's rules."""

import pickle

import numpy as np
import pytest
import smplx
import torch
from flame_files import VERTICES, flame_arrays, write_2020, write_2023
from scipy.spatial.transform import Rotation

from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import INTERIOR
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import expression_offsets, landmarks, skin

FRAMES = 3


@pytest.fixture(scope="module")
def arrays():
    return flame_arrays()


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("flame")
    write_2020(path / "generic_model.pkl", arrays)
    write_2023(path / "flame2023.pkl", arrays)
    write_2023(path / "flame2023_no_jaw.pkl", arrays, protocol=5)
    dense = {key: value.toarray() if key == "J_regressor" else value for key, value in arrays.items()}
    np.savez(path / "flame2023.npz", **{key: value for key, value in dense.items() if not isinstance(value, str)})
    np.save(path / "blink_blendshape.npy", np.random.default_rng(5).normal(0, 1e-3, (VERTICES, 3)).astype(np.float32))
    np.save(path / "jaw_regressor.npy", np.random.default_rng(6).normal(0, 0.02, (65, 3)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def motion():
    rng = np.random.default_rng(1)
    parts = [rng.normal(0, 0.3, (FRAMES, 3)).astype(np.float32) for _ in range(4)]
    return Motion(
        rng.normal(0, 1, (FRAMES, 100)).astype(np.float32),
        *parts,
        eyes=rng.normal(0, 0.2, (FRAMES, 2, 3)).astype(np.float32),
    )


@pytest.mark.parametrize("name", ["generic_model.pkl", "flame2023.pkl", "flame2023.npz"])
def test_vertices_equal_smplx(name, arrays, folder, motion):
    head = load_head(f"flame:{folder / name}")
    assert head.name == ("flame2020" if "generic" in name else "flame2023")
    shape = np.random.default_rng(2).normal(0, 1, 300).astype(np.float32)
    ours = np.asarray(skin(head, motion, shape))
    oracle = smplx.FLAME(
        str(_smplx_folder(folder, arrays)),
        num_betas=300,
        num_expression_coeffs=100,
        batch_size=FRAMES,
        use_face_contour=False,
        create_neck_pose=False,
        create_jaw_pose=False,
        create_leye_pose=False,
        create_reye_pose=False,
        create_betas=False,
        create_expression=False,
        create_global_orient=False,
        create_transl=False,
        dtype=torch.float64,
    )
    inputs = {
        "betas": np.tile(shape, (FRAMES, 1)),
        "expression": motion.expression,
        "global_orient": motion.rotation * 0,
        "neck_pose": motion.neck,
        "jaw_pose": motion.jaw,
        "leye_pose": motion.eyes[:, 0],
        "reye_pose": motion.eyes[:, 1],
        "transl": motion.translation * 0,
    }
    with torch.no_grad():
        out = oracle(**{key: torch.tensor(value, dtype=torch.float64) for key, value in inputs.items()})
    # Our head rotation acts on the whole head about the origin, smplx's about the root joint.
    rotation = Rotation.from_rotvec(motion.rotation).as_matrix()
    expected = np.einsum("fij,fnj->fni", rotation, out.vertices.numpy()) + motion.translation[:, None]
    assert np.abs(ours - expected).max() < 1e-6


def _smplx_folder(folder, arrays):
    """smplx wants its own file names, and a landmark embedding whose contents do not matter here."""
    path = folder / "smplx"
    path.mkdir(exist_ok=True)
    write_2023(path / "FLAME_NEUTRAL.pkl", arrays)
    with open(path / "flame_static_embedding.pkl", "wb") as handle:
        pickle.dump({"lmk_face_idx": np.zeros(51, np.int64), "lmk_b_coords": np.ones((51, 3)) / 3}, handle)
    return path


def cap4d_vertices(arrays, blink, fit):
    """CAP4D's rules, from their description: flat joints, neck in slot 0, R - 2I, one rotation for both eyes."""
    directions = arrays["shapedirs"]
    expression = directions[:, :, 300:365].copy()
    expression[:, :, -1] = blink
    neutral = arrays["v_template"] + directions[:, :, :150] @ fit["shape"]
    regressor = arrays["J_regressor"].toarray()
    result = []
    for frame in range(FRAMES):
        vertices = neutral + expression @ fit["expr"][frame]
        rotations = np.tile(np.eye(3), (5, 1, 1))
        rotations[0] = Rotation.from_rotvec(fit["neck_rot"][frame]).as_matrix()
        rotations[2] = Rotation.from_rotvec(fit["jaw_rot"][frame]).as_matrix()
        rotations[3:] = Rotation.from_rotvec(fit["eye_rot"][frame]).as_matrix()
        correctives = (rotations[[0, 2, 3, 4]] - 2 * np.eye(3)).reshape(36)
        joints = regressor @ vertices
        posed = vertices + arrays["posedirs"] @ correctives
        about = np.einsum("jab,jnb->jna", rotations, posed[None] - joints[:, None]) + joints[:, None]
        skinned = np.einsum("nj,jna->na", arrays["weights"], about)
        result.append(skinned @ Rotation.from_rotvec(fit["rot"][frame]).as_matrix().T + fit["tra"][frame])
    return np.stack(result)


def test_no_jaw_follows_cap4d(arrays, folder):
    rng = np.random.default_rng(3)
    fit = {key: rng.normal(0, 0.3, (FRAMES, 3)) for key in ("rot", "tra", "neck_rot", "jaw_rot", "eye_rot")}
    fit |= {"shape": rng.normal(0, 1, 150), "expr": rng.normal(0, 1, (FRAMES, 65))}
    head = load_head(f"flame:{folder / 'flame2023_no_jaw.pkl'}")
    assert (head.shape_count, head.expression_count, head.expression_names[-1]) == (150, 65, "blink")
    motion = Motion(
        fit["expr"],
        fit["rot"],
        fit["tra"],
        fit["neck_rot"],
        fit["jaw_rot"],
        np.repeat(fit["eye_rot"][:, None], 2, axis=1),
    )
    expected = cap4d_vertices(arrays, np.load(folder / "blink_blendshape.npy"), fit)
    assert np.abs(np.asarray(skin(head, motion, fit["shape"])) - expected).max() < 1e-6
    np.testing.assert_allclose(skin(head.personalise(fit["shape"]), motion), expected, atol=1e-6)
    # The constant offset of R - 2I is at rest too, but the expression map is zero there.
    still = Motion.still(1, 65)
    rest = {
        **{key: np.zeros((FRAMES, 3)) for key in ("rot", "tra", "neck_rot", "jaw_rot", "eye_rot")},
        "shape": np.zeros(150),
        "expr": np.zeros((FRAMES, 65)),
    }
    assert np.abs(skin(head, still)[0] - cap4d_vertices(arrays, 0, rest)[0]).max() < 1e-6
    assert np.abs(expression_offsets(head, still)).max() < 1e-7


def test_landmarks_are_the_listed_vertices(folder):
    from mvp4d.core.heads.flame import LANDMARKS

    head = load_head(f"flame:{folder / 'flame2023.pkl'}")
    np.testing.assert_allclose(landmarks(head, head.template[None])[0], head.template[list(LANDMARKS)], atol=1e-7)
    assert np.bincount(head.face_parts).tolist() == [3931, 546, 546]
    assert head.template[head.faces[head.face_parts == 1]][..., 0].mean() > 0


def test_additions_have_the_familiar_vertex_counts(arrays, folder, motion):
    counts = {
        "generic_model.pkl": 5023,
        "generic_model.pkl?teeth": 5143,
        "flame2023_no_jaw.pkl?mouth": 5223,
        "flame2023_no_jaw.pkl?mouth,jaw": 5423,
    }
    for spec, count in counts.items():
        head = load_head(f"flame:{folder / spec}")
        assert head.vertex_count == count, spec
        added = head.part_names[3:]  # after the head and two eyes: all of it is what lips cover
        assert len(added) == spec.count(",") + spec.count("?")
        assert all(any(word in name for word in INTERIOR) for name in added)
        used = motion if head.expression_count == 100 else Motion.still(FRAMES, 65)
        assert np.asarray(skin(head, used)).shape == (FRAMES, count, 3)
    plain = load_head(f"flame:{folder / 'generic_model.pkl'}")
    teeth = load_head(f"flame:{folder / 'generic_model.pkl?teeth'}")
    np.testing.assert_allclose(skin(teeth, motion)[:, :5023], skin(plain, motion), atol=1e-7)
    # Lower teeth are rigid with the jaw joint: distances among them do not change.
    lower = np.asarray(skin(teeth, motion))[:, 5023 + 15 : 5023 + 30]
    rest = teeth.template[5023 + 15 : 5023 + 30]
    np.testing.assert_allclose(
        np.linalg.norm(lower - lower[:, :1], axis=-1),
        np.tile(np.linalg.norm(rest - rest[:1], axis=-1), (FRAMES, 1)),
        atol=1e-6,
    )


def test_mouth_is_where_cap4d_puts_it(arrays, folder):
    head = load_head(f"flame:{folder / 'flame2023_no_jaw.pkl?mouth'}")
    # The sphere's centre lies 3/4 of the way from the jaw joint to the lip less 5 mm, its radius is 1/4 of that way.
    quirk = head.canonical[3533]
    jaw = head.joints[head.joint_names.index("jaw")]
    offset = quirk - jaw
    centre = jaw + 0.75 * offset - 0.005 * offset / np.linalg.norm(offset)
    distances = np.linalg.norm(head.canonical[5023:] - centre, axis=1)
    np.testing.assert_allclose(distances, 0.25 * np.linalg.norm(offset), rtol=1e-4)


class Exploding:
    def __reduce__(self):
        import os

        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    "content", ["code", "nested code", "builtins", "truncated", "empty", "not a dict", "object array"]
)
def test_hostile_pickles_are_refused_by_name(content, arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flame2023.pkl"
    data = {
        "code": lambda: pickle.dumps(Exploding()),
        "nested code": lambda: pickle.dumps({**arrays, "v_template": [Exploding()]}),
        "builtins": lambda: b"cbuiltins\neval\n(S'1+1'\ntR.",
        "truncated": lambda: pickle.dumps(arrays, protocol=2)[:200_000],
        "empty": lambda: b"",
        "not a dict": lambda: pickle.dumps([1, 2, 3]),
        "object array": lambda: pickle.dumps({"v_template": np.array([Exploding()], dtype=object)}),
    }[content]()
    path.write_bytes(data)
    with pytest.raises(UserError) as raised:
        load_head(f"flame:{path}")
    assert "\n" not in str(raised.value) and "flame2023.pkl" in str(raised.value)
    if "code" in content:
        assert "system" in str(raised.value)
    assert not (tmp_path / "exploded").exists()


def test_wrong_shapes_are_named(arrays, tmp_path):
    for key, value in (("posedirs", arrays["posedirs"][:, :, :9]), ("weights", arrays["weights"][:100])):
        write_2023(tmp_path / "generic_model.pkl", {**arrays, key: value})
        with pytest.raises(UserError, match=key):
            load_head(f"flame:{tmp_path / 'generic_model.pkl'}")
    with pytest.raises(UserError, match="no such file; give a FLAME"):
        load_head(f"flame:{tmp_path / 'absent.pkl'}")
    with pytest.raises(UserError, match="tongue"):
        load_head(f"flame:{tmp_path / 'generic_model.pkl'}?tongue")
