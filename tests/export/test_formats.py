"""Each splat file is read back by somebody else's reader and renders the same picture."""

import numpy as np
import pytest
import torch
from export_world import FRAME
from gsplat import export_splats
from plyfile import PlyData
from scipy.spatial.transform import Rotation

from mvp4d.avatar import open_avatar
from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.errors import UserError
from mvp4d_export.harmonics import spherical_harmonics
from mvp4d_export.ply import rotate_harmonics
from mvp4d_export.rasterize import rasterize
from mvp4d_export.rig import Pose


def export_avatar(folder, format, out, options):
    return open_avatar(folder, device="cpu").export(out, format=format, **options)


def arguments(**values):
    """Of the export, PLY in the world's axes."""
    return {"raw_axes": True, **values}


def read_splats(path):
    """nerfstudio's way of reading a splat PLY, with plyfile."""
    vertex = PlyData.read(str(path))["vertex"]
    rest = sorted(
        (p.name for p in vertex.properties if p.name.startswith("f_rest_")), key=lambda n: int(n.split("_")[-1])
    )
    dc = np.stack([vertex[f"f_dc_{k}"] for k in range(3)], 1)
    bands = np.stack([vertex[name] for name in rest], 1).reshape(len(dc), 3, -1) if rest else np.zeros((len(dc), 3, 0))
    tensors = {
        "means": np.stack([vertex[k] for k in "xyz"], 1),
        "quaternions": np.stack([vertex[f"rot_{k}"] for k in range(4)], 1),
        "scales": np.exp(np.stack([vertex[f"scale_{k}"] for k in range(3)], 1)),
        "opacities": 1 / (1 + np.exp(-vertex["opacity"])),
        "colours": np.concatenate([dc[:, :, None], bands], 2).transpose(0, 2, 1),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)) for name, value in tensors.items()}


def render(tensors, cameras):
    degree = int(tensors["colours"].shape[1] ** 0.5) - 1
    return rasterize(
        **tensors, viewmats=cameras[0], Ks=cameras[1], width=48, height=48, background=torch.ones(3), sh_degree=degree
    ).rgb


def test_ply_renders_the_same_picture(fitted, truth, cameras, tmp_path):
    export_avatar(fitted[0], "ply", tmp_path / "one.ply", arguments(frame=FRAME))
    assert (render(read_splats(tmp_path / "one.ply"), cameras) - truth).abs().max() < 2e-3


def test_ply_equals_gsplats_own_exporter(fitted, tmp_path):
    """Same columns and values as gsplat writes for the same Gaussians (ours adds the customary zero normals)."""
    export_avatar(fitted[0], "ply", tmp_path / "ours.ply", arguments(frame=FRAME))
    ours = read_splats(tmp_path / "ours.ply")
    export_splats(
        ours["means"],
        ours["scales"].log(),
        ours["quaternions"],
        torch.logit(ours["opacities"]),
        ours["colours"][:, :1],
        ours["colours"][:, 1:],
        save_to=str(tmp_path / "theirs.ply"),
    )
    mine, theirs = (PlyData.read(str(tmp_path / name))["vertex"] for name in ("ours.ply", "theirs.ply"))
    names = [p.name for p in theirs.properties]
    assert [p.name for p in mine.properties if p.name not in ("nx", "ny", "nz")] == names
    for name in names:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_sequence_has_every_frame(fitted, truth, cameras, tmp_path):
    export_avatar(fitted[0], "ply-sequence", tmp_path / "frames", arguments())
    assert sorted(p.name for p in (tmp_path / "frames").glob("*.ply")) == [f"{k:05d}.ply" for k in range(6)]
    assert (render(read_splats(tmp_path / "frames" / f"{FRAME:05d}.ply"), cameras) - truth).abs().max() < 2e-3
    other = render(read_splats(tmp_path / "frames" / "00000.ply"), cameras)
    assert (other - truth).abs().mean() > 1e-3


def test_cap4d_animation_renders_the_same_picture(fitted, truth, cameras, tmp_path):
    """Decoded in numpy by CAP4D's own rule; the head's pose goes into the cameras."""
    export_avatar(fitted[0], "cap4d-animation", tmp_path / "exported_animation.ply", {})
    file = PlyData.read(str(tmp_path / "exported_animation.ply"))
    names = [element.name for element in file.elements]
    assert names[:3] == ["faces", "base_vertex", "vertex"]
    assert names[3:6] == ["meta_delta_min_00000", "meta_delta_max_00000", "delta_vertex_00000"]
    assert len(names) == 3 + 3 * 6

    def points(name):
        return np.stack([file[name][k] for k in "xyz"], 1).astype(np.float64)

    low, high = points(f"meta_delta_min_{FRAME:05d}"), points(f"meta_delta_max_{FRAME:05d}")
    vertices = points("base_vertex") + points(f"delta_vertex_{FRAME:05d}") * (high - low) + low
    faces = np.stack([file["faces"][f"index_{k}"] for k in range(3)], 1).astype(int)
    assert file["faces"]["index_0"].dtype == np.uint32
    v0, v1, v2 = (vertices[faces[:, k]] for k in range(3))

    def unit(v):
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    a0 = unit(v1 - v0)
    a1 = unit(np.cross(a0, v2 - v0))
    a2 = -unit(np.cross(a1, a0))
    frames = np.stack([a0, a1, a2], 2)
    scale = (np.linalg.norm(v1 - v0, axis=1) + np.abs((a2 * (v2 - v0)).sum(1))) / 2
    binding = np.asarray(file["vertex"]["binding"]).astype(int)
    local = read_splats_of(file)
    means = (
        scale[binding, None] * np.einsum("gij,gj->gi", frames[binding], local["means"]) + (v0 + v1 + v2)[binding] / 3
    )
    turned = Rotation.from_matrix(frames[binding]) * Rotation.from_quat(local["quaternions"].numpy(), scalar_first=True)
    tensors = local | {
        "means": torch.from_numpy(means.astype(np.float32)),
        "quaternions": torch.from_numpy(turned.as_quat(scalar_first=True).astype(np.float32)),
        "scales": local["scales"] * torch.from_numpy(scale[binding, None].astype(np.float32)),
    }
    head = Pose.of(read_motion(fitted[0] / "motion.npz").motion)[FRAME : FRAME + 1].head_matrix()
    assert (render(tensors, (cameras[0] @ head, cameras[1])) - truth).abs().max() < 2e-3


def read_splats_of(file):
    vertex = file["vertex"]
    dc = np.stack([vertex[f"f_dc_{k}"] for k in range(3)], 1)
    rest = np.stack([vertex[f"f_rest_{k}"] for k in range(9)], 1).reshape(len(dc), 3, 3)
    tensors = {
        "means": np.stack([vertex[k] for k in "xyz"], 1),
        "quaternions": np.stack([vertex[f"rot_{k}"] for k in range(4)], 1),
        "scales": np.exp(np.stack([vertex[f"scale_{k}"] for k in range(3)], 1)),
        "opacities": 1 / (1 + np.exp(-vertex["opacity"])),
        "colours": np.concatenate([dc[:, :, None], rest], 2).transpose(0, 2, 1),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)) for name, value in tensors.items()}


def test_rotated_harmonics_are_the_rotated_function():
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(5, 16, 3, generator=generator, dtype=torch.float64)
    rotation = torch.from_numpy(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix())
    directions = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    turned = rotate_harmonics(coefficients, rotation, 3)
    expected = torch.einsum("dk,gkc->gdc", spherical_harmonics(3, directions @ rotation), coefficients)
    torch.testing.assert_close(torch.einsum("dk,gkc->gdc", spherical_harmonics(3, directions), turned), expected)


def test_export_mistakes(fitted, tmp_path):
    wrong = (
        ("obj", "x", {}),
        (None, "x.obj", {}),
        ("ply", "x.ply", {"frame": 99}),
        ("ply", "x.ply", {"sh": 4}),
        ("glb", "x.glb", {"raw_axes": True}),
        ("lam", "x.zip", {"frame": 99, "motion": fitted[0]}),
    )
    for format, out, values in wrong:
        with pytest.raises(UserError):
            export_avatar(fitted[0], format, tmp_path / out, values)
        assert not (tmp_path / out).exists()
    (tmp_path / "kept.ply").write_text("mine")
    with pytest.raises(UserError, match="already there"):
        export_avatar(fitted[0], "ply", tmp_path / "kept.ply", {})
    assert (tmp_path / "kept.ply").read_text() == "mine"
