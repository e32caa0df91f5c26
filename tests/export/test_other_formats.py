"""Files of other tools, each read back by a reader that is not ours, against the avatar itself."""

import dataclasses
import json
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from export_world import FRAME
from plyfile import PlyData
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation
from test_formats import arguments, export_avatar, read_splats, render

from mvp4d.cli import main
from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d_export.avatar import Avatar
from mvp4d_export.formats import export_avatar as write
from mvp4d_export.formats.spz import pack, smallest_three
from mvp4d_export.ply import sequence
from mvp4d_export.rig import Pose


@pytest.fixture(scope="module")
def avatar(fitted):
    return Avatar.load(fitted[0])


@pytest.fixture(scope="module")
def splats(avatar, fitted):
    """World-space Gaussians of the frame."""
    motion = read_motion(fitted[0] / "motion.npz").motion
    return next(sequence(avatar, Pose.of(motion)[FRAME : FRAME + 1]))


def node(script, *arguments):
    """What a node program prints; skips where node or a package is absent (NODE_PATH says where packages are)."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    done = subprocess.run(["node", "-e", script, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    if "Cannot find module" in done.stderr:
        pytest.skip(f"npm package absent: {done.stderr.split('Cannot find module')[1].split()[0]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- PLY -------------------------------------------------------------------------------------------------------------
def test_ply_stands_upright_after_the_viewers_half_turn(fitted, truth, cameras, tmp_path):
    """SuperSplat and splat-transform turn every PLY by 180 degrees about z; scipy does here what they document."""
    export_avatar(fitted[0], "ply", tmp_path / "one.ply", {"frame": FRAME})
    tensors = read_splats(tmp_path / "one.ply")
    half_turn = Rotation.from_euler("z", 180, degrees=True)
    turned = half_turn * Rotation.from_quat(tensors["quaternions"].numpy(), scalar_first=True)
    seen = tensors | {
        "means": torch.from_numpy(half_turn.apply(tensors["means"].numpy()).astype(np.float32)),
        "quaternions": torch.from_numpy(turned.as_quat(scalar_first=True).astype(np.float32)),
        # degree 1 is a vector field: (y, z, x) with these signs; x and y change theirs
        "colours": tensors["colours"] * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None],
    }
    assert (render(seen, cameras) - truth).abs().max() < 2e-3
    assert "Vertical axis: 0 -1 0" in PlyData.read(str(tmp_path / "one.ply")).comments


def test_ply_says_its_axis_and_antialiasing(fitted, avatar, tmp_path):
    motion = read_motion(fitted[0] / "motion.npz").motion
    smooth = Avatar.load(fitted[0])
    smooth.config = dataclasses.replace(smooth.config, antialiased=True)
    for name, subject, expected in (("a", avatar, []), ("b", smooth, ["SplatRenderMode: mip"])):
        write(subject, tmp_path / name, "ply", motion, raw_axes=True)
        assert PlyData.read(str(tmp_path / name)).comments == ["made by mvp4d", "Vertical axis: 0 1 0", *expected]


def test_splat_transform_reads_it_upright(fitted, splats, tmp_path):
    """The npm package's own glb of our PLY holds our world."""
    export_avatar(fitted[0], "ply", tmp_path / "one.ply", {"frame": FRAME})
    node("require.resolve('@playcanvas/splat-transform')")
    where = node("console.log(require.resolve('@playcanvas/splat-transform'))").strip()
    tool = Path(where).parents[1] / "bin/cli.mjs"
    subprocess.run(["node", tool, "-q", tmp_path / "one.ply", tmp_path / "theirs.glb"], check=True, timeout=60)
    theirs, _ = read_glb((tmp_path / "theirs.glb").read_bytes())
    np.testing.assert_allclose(theirs["POSITION"], splats.means.numpy(), atol=1e-6)
    for index in range(4):
        name = f"KHR_gaussian_splatting:SH_DEGREE_{min(index, 1)}_COEF_{max(index - 1, 0)}"
        np.testing.assert_allclose(theirs[name], splats.harmonics[:, index].numpy(), atol=1e-5)


def test_ply_fills_harmonics_up(fitted, truth, cameras, tmp_path):
    export_avatar(fitted[0], "ply", tmp_path / "three.ply", arguments(frame=FRAME, sh=3))
    vertex = PlyData.read(str(tmp_path / "three.ply"))["vertex"]
    assert len(vertex.properties) == 62
    assert sum(np.abs(vertex[f"f_rest_{k}"]).max() > 0 for k in range(45)) == 9  # three of every channel's fifteen
    assert (render(read_splats(tmp_path / "three.ply"), cameras) - truth).abs().max() < 2e-3


# --- glTF ------------------------------------------------------------------------------------------------------------
def read_glb(data):
    """Attributes of the first primitive, and the document, by the glTF 2.0 specification alone."""
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    return {name: read_accessor(document, binary, index) for name, index in attributes.items()}, document


def read_accessor(document, binary, index):
    accessor = document["accessors"][index]
    kinds = {5126: "<f4", 5125: "<u4", 5123: "<u2", 5121: "u1"}
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]

    def view(number, kind, count):
        return np.frombuffer(binary, kind, count, document["bufferViews"][number]["byteOffset"])

    kind, count = kinds[accessor["componentType"]], accessor["count"]
    values = np.zeros((count, width), kind)
    if "bufferView" in accessor:
        values = view(accessor["bufferView"], kind, count * width).reshape(count, width)
    if "sparse" in accessor:
        sparse = accessor["sparse"]
        rows = view(sparse["indices"]["bufferView"], kinds[sparse["indices"]["componentType"]], sparse["count"])
        values[rows] = view(sparse["values"]["bufferView"], kind, sparse["count"] * width).reshape(-1, width)
    return values[:, 0] if width == 1 else values


def test_glb_renders_the_same_picture(fitted, truth, cameras, splats, tmp_path):
    export_avatar(fitted[0], "glb", tmp_path / "one.glb", {"frame": FRAME})
    found, document = read_glb((tmp_path / "one.glb").read_bytes())
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    name = "KHR_gaussian_splatting:"
    bands = [f"SH_DEGREE_{degree}_COEF_{index}" for degree in range(2) for index in range(2 * degree + 1)]
    tensors = {
        "means": found["POSITION"],
        "quaternions": found[f"{name}ROTATION"][:, [3, 0, 1, 2]],
        "scales": found[f"{name}SCALE"],
        "opacities": found[f"{name}OPACITY"],
        "colours": np.stack([found[name + band] for band in bands], 1),
    }
    tensors = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
    assert (render(tensors, cameras) - truth).abs().max() < 2e-3
    points = trimesh.load(tmp_path / "one.glb")  # a reader without the extension: coloured points
    cloud = next(iter(points.geometry.values()))
    np.testing.assert_allclose(cloud.vertices, splats.means.numpy(), atol=1e-6)
    expected = (splats.harmonics[:, 0].numpy() * 0.28209479 + 0.5).clip(0, 1) * 255
    np.testing.assert_allclose(cloud.colors[:, :3], expected, atol=0.51)


VALIDATE = """
const fs = require('fs'), v = require('gltf-validator');
v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])), {maxIssues: 0}).then(
  r => console.log(JSON.stringify(r.issues.messages)));
"""


def test_gltf_passes_khronos_validator(fitted, tmp_path):
    """It knows nothing of the extension: it says so, and that names with the extension's prefix are no attributes."""
    node("require('gltf-validator')")
    export_avatar(fitted[0], "glb", tmp_path / "one.glb", {"frame": FRAME})
    export_avatar(fitted[0], "lam", tmp_path / "me.zip", {})
    with zipfile.ZipFile(tmp_path / "me.zip") as archive:
        archive.extractall(tmp_path)
    for path in (tmp_path / "one.glb", tmp_path / "me/skin.glb", tmp_path / "me/animation.glb"):
        wrong = [
            message
            for message in json.loads(node(VALIDATE, path))
            if message["severity"] < 2 and "KHR_gaussian_splatting:" not in message.get("pointer", "")
        ]
        assert not wrong, (path, wrong)


# --- spz -------------------------------------------------------------------------------------------------------------
def test_spz_is_read_by_gsply(fitted, splats, tmp_path):
    gsply = pytest.importorskip("gsply", reason="gsply, an independent reader of spz, is not installed")
    export_avatar(fitted[0], "spz", tmp_path / "one.spz", {"frame": FRAME})
    found = gsply.read_spz(tmp_path / "one.spz")
    np.testing.assert_allclose(found.means, splats.means.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.scales, splats.scales.log().numpy(), atol=1 / 32 + 1e-4)
    opacity = 1 / (1 + np.exp(-found.opacities.reshape(-1).astype(np.float64)))
    np.testing.assert_allclose(opacity, splats.opacities.numpy(), atol=1 / 510 + 1e-4)
    np.testing.assert_allclose(found.sh0, splats.harmonics[:, 0].numpy(), atol=0.5 / (0.15 * 255) + 1e-4)
    np.testing.assert_allclose(found.shN, splats.harmonics[:, 1:].numpy(), atol=1 / 256 + 1e-4)
    ours = Rotation.from_quat(splats.quaternions.numpy(), scalar_first=True)
    theirs = Rotation.from_quat(found.quats, scalar_first=True)
    assert np.degrees((ours * theirs.inv()).magnitude()).max() < 0.25


def test_spz_positions_and_rotations_by_hand(splats):
    """The first Gaussian, decoded bit by bit; and a far one, which takes fewer fractional bits."""
    data = pack(splats, True)
    magic, version, count, degree, bits, flags, _ = struct.unpack_from("<IIIBBBB", data)
    assert (magic, version, count, degree, flags) == (0x5053474E, 3, len(splats.means), 1, 1)
    first = [int.from_bytes(data[16 + 3 * k : 19 + 3 * k], "little", signed=True) / 2**bits for k in range(3)]
    np.testing.assert_allclose(first, splats.means[0].numpy(), atol=2.0**-bits)
    assert len(data) == 16 + count * (9 + 1 + 3 + 3 + 4 + 9)
    word = int(smallest_three(np.array([[0.5, -0.5, 0.5, -0.5]]))[0])  # wxyz; ties: x is largest and becomes positive
    assert word >> 30 == 0
    fields = [(word >> shift) & 1023 for shift in (20, 10, 0)]
    values = [(-1) ** (field >> 9) * (field & 511) / 511 / np.sqrt(2) for field in fields]
    np.testing.assert_allclose(values, [-0.5, 0.5, -0.5], atol=1e-3)
    far = dataclasses.replace(splats, means=splats.means + 100)
    assert pack(far, True)[13] == 16  # 2^23 / 2^16 = 128 m
    with pytest.raises(UserError, match="from the origin"):
        pack(dataclasses.replace(splats, means=splats.means + 1e7), True)


# --- LAM -------------------------------------------------------------------------------------------------------------
def test_lam_moves_as_the_avatar(fitted, avatar, tmp_path):
    """What LAM's renderer computes (vertex + offset + targets) are the avatar's Gaussians, moved to its camera."""
    export_avatar(fitted[0], "lam", tmp_path / "me.zip", {})
    with zipfile.ZipFile(tmp_path / "me.zip") as archive:
        assert archive.namelist()[0] == "me/"
        files = {Path(name).name: archive.read(name) for name in archive.namelist()[1:]}
    found, document = read_glb(files["skin.glb"])
    length = struct.unpack_from("<I", files["skin.glb"], 12)[0]
    names = document["meshes"][0]["extras"]["targetNames"]
    assert set(names) == {"jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp"}
    assert {item.get("name") for item in document["nodes"]} >= {"hip", "head"}
    (tmp_path / "offset.ply").write_bytes(files["offset.ply"])
    offset = PlyData.read(str(tmp_path / "offset.ply"))["vertex"]
    base = found["POSITION"] + np.stack([offset[key] for key in "xyz"], 1)

    def means(**expression):
        pose = Pose.of(Motion.still(1, 4))
        for name, value in expression.items():
            pose.expression[0, avatar.rig.expression_names.index(name)] = value
        with torch.no_grad():
            return avatar.splats(avatar.vertices(pose)).means.numpy()

    shift = base[0] - means()[0]
    np.testing.assert_allclose(base - shift, means(), atol=1e-5)
    for index, name in ((names.index("jawOpen"), "jawOpen"), (names.index("mouthSmileLeft"), "mouthSmile_L")):
        target = document["meshes"][0]["primitives"][0]["targets"][index]["POSITION"]
        moved = base + read_accessor(document, files["skin.glb"][28 + length :], target)
        np.testing.assert_allclose(moved - shift, means(**{name: 1.0}), atol=3e-5)
    colours = np.stack([offset[f"f_dc_{k}"] for k in range(3)], 1)
    assert colours.min() >= 0 and colours.max() <= 1 and colours.std() > 0.05
    order = json.loads(files["vertex_order.json"])
    assert sorted(order) == list(range(len(base))) and (np.diff(base[order][:, 2]) <= 1e-6).all()


def test_lam_has_the_parts_of_lams_own_files(fitted, tmp_path, shared_data):
    export_avatar(fitted[0], "lam", tmp_path / "me.zip", {})

    def parts(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "MACOSX" not in name and "DS_Store" not in name]
            return {Path(name).name: archive.read(name) for name in names}

    ours, theirs = parts(tmp_path / "me.zip"), parts(shared_data / "lam" / "p2-1.zip")
    assert {name for name in ours if "." in name} == {name for name in theirs if "." in name}
    headers = [data["offset.ply"].split(b"end_header")[0].splitlines() for data in (ours, theirs)]
    assert [line for line in headers[0] if b"property" in line] == [line for line in headers[1] if b"property" in line]
    documents = [read_glb(data["skin.glb"])[1] for data in (ours, theirs)]
    primitives = [document["meshes"][0]["primitives"][0] for document in documents]
    assert primitives[0]["attributes"].keys() == primitives[1]["attributes"].keys()
    own, other = (document["meshes"][0]["extras"]["targetNames"] for document in documents)
    assert set(own) <= set(other)
    clips = [animations(data["animation.glb"]) for data in (ours, theirs)]
    assert len(clips[0]) == 12 == len(clips[1])


def animations(data):
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length])["animations"]


# --- What reaches no file --------------------------------------------------------------------------------------------
def test_vanished_gaussians_are_left_out_and_broken_ones_refused(fitted, tmp_path):
    avatar = Avatar.load(fitted[0])
    motion = read_motion(fitted[0] / "motion.npz").motion
    with torch.no_grad():
        avatar.logit_opacity[:7] = -9.0  # fainter than 1/255
        avatar.log_scale[7:9] = -200.0  # exp underflows to nothing
    assert write(avatar, tmp_path / "a.ply", None, motion).split()[1] == str(avatar.gaussian_count - 9)
    assert len(PlyData.read(str(tmp_path / "a.ply"))["vertex"].data) == avatar.gaussian_count - 9
    with torch.no_grad():
        avatar.harmonics[3, 0, 1] = float("nan")
    for format in ("ply", "ply-sequence", "glb", "spz", "lam"):
        with pytest.raises(UserError, match=r"1 of \d+ Gaussians have harmonics that are not finite"):
            write(avatar, tmp_path / "b", format, motion)
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("format", ["ply", "glb", "spz", "lam", "cap4d-animation"])
def test_a_damaged_avatar_ends_in_one_line(fitted, tmp_path, capsys, format):
    """Cut short, and named like markup."""
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(fitted[0], folder)
    weights = folder / "avatar.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["export", str(folder), "--format", format, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0 and "avatar.safetensors" in told
    assert not (tmp_path / "out").exists()


WRONG_TABLES = {
    "a point fewer": lambda table: table[:-1],
    "none": lambda table: table[:0],
    "an axis more": lambda table: table[..., None].repeat(*[1] * table.ndim, 2),
    "an axis before": lambda table: table[None],
    "one number": lambda table: table.reshape(-1)[0],
    "another type": lambda table: table.double() if table.is_floating_point() else table.float(),
    "booleans": lambda table: table.bool(),
}


@pytest.mark.parametrize("how", WRONG_TABLES)
def test_tables_of_the_mesh_of_another_type_or_shape_end_in_one_line(fitted, tmp_path, how):
    """A point fewer is no fault of `faces`, whose count is its own, and is one of all others where `pixels` lack it."""
    folder = shutil.copytree(fitted[0], tmp_path / "avatar")
    sound = load_file(folder / "avatar.safetensors")
    for name in ("corners", "weights", "pixels", "faces", "deformable", "part", "follows", "leads"):
        if how == "a point fewer" and name == "faces":
            continue
        wrong = WRONG_TABLES[how](sound[f"mesh.{name}"]).contiguous()
        save_file({**sound, f"mesh.{name}": wrong}, folder / "avatar.safetensors")
        told = r"tensor 'mesh\.\w+'" if name == "pixels" else rf"tensor 'mesh\.{name}'"
        with pytest.raises(UserError, match=told + r" is \w+ \[.*\], expected [\w ]+ \[.*\]; .*distil it again"):
            Avatar.load(folder)


def test_an_avatar_with_missing_parts_ends_in_one_line(fitted, tmp_path):
    """One of the mesh's tables; a net of which the settings know nothing; a part that the head has not."""
    for name in ("corners", "weights", "pixels", "faces", "deformable", "part"):
        folder = shutil.copytree(fitted[0], tmp_path / name)
        tensors = load_file(folder / "avatar.safetensors")
        save_file(
            {key: value for key, value in tensors.items() if key != f"mesh.{name}"}, folder / "avatar.safetensors"
        )
        with pytest.raises(UserError, match=rf"lacks tensor 'mesh\.{name}'"):
            Avatar.load(folder)
    tensors["mesh.part"] = tensors["mesh.part"] + 100
    save_file(tensors, folder / "avatar.safetensors")
    with pytest.raises(UserError, match=r"tensor 'mesh\.part' points outside of its \d+ targets"):
        Avatar.load(folder)
    folder = shutil.copytree(fitted[0], tmp_path / "net")
    info = json.loads((folder / "avatar.json").read_text())
    del info["net"]
    (folder / "avatar.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="deformation net"):
        Avatar.load(folder)


def test_names_with_markup_stay_names(fitted, tmp_path):
    """In LAM's zip, whose folder a page turns into addresses, nothing but letters, digits, dashes is left of them."""
    export_avatar(fitted[0], "lam", tmp_path / "<b>..é &.zip", {})
    with zipfile.ZipFile(tmp_path / "<b>..é &.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"_b______"}
