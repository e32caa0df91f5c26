"""`lam`: LAM's exchange zip, which its browser renderer and OpenAvatarChat open (https://github.com/aigc3d/LAM_WebRender).

One folder with four files. `skin.glb`: a vertex per Gaussian, a morph target per ARKit expression (names in
`extras.targetNames`), a skin with the joints `hip` and `head`. `offset.ply`: a Gaussian per vertex; its position is
added to the vertex's, and its f_dc are colours in [0, 1], not harmonics. `vertex_order.json`: Gaussians from the front
to the back. `animation.glb`: twelve clips of the head joint (2 hello, 1 idle, 6 speak, 3 think).

The renderer moves each Gaussian's centre by the sum of the targets and turns everything with the head joint. Lost: how
Gaussians turn and stretch with their triangle; the jaw, gaze and neck joints (the deformation net's answer and the turn
of the eyes are part of the targets, one expression at a time); harmonics, antialiasing, the head's translation.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.retarget import canonical_name
from mvp4d.core.heads.transfer import eye_centre
from mvp4d.core.progress import progress
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.formats import Job
from mvp4d_export.formats.frames import drawn, host, pick, tell_left_out
from mvp4d_export.formats.gltf import INDICES, Buffer
from mvp4d_export.harmonics import spherical_harmonics
from mvp4d_export.ply import splat_bytes
from mvp4d_export.rig import Pose
from mvp4d_export.triangles import triangle_frames

_EYES = np.array([0.0, 1.691, 0.070])  # where LAM's own avatars have the midpoint of their eyes: its camera is fixed
_TEXELS = 4096 * 2048  # of the renderer's texture: one per vertex and target, and one per vertex
_STILL = 1e-5  # metres; a vertex that moves less is left out of a target
_FULL_GAZE = 0.45  # radians of eye rotation at eyeLook* = 1
# clip names, in the order by which the renderer tells them apart
_CLIPS = ("hello_1", "hello_2", "idle", *(f"speak_{k}" for k in range(1, 7)), *(f"think_{k}" for k in range(1, 4)))


def write(job: Job) -> str:
    avatar, head = job.avatar, job.avatar.head
    targets = {
        name: index
        for name in ARKIT_NAMES
        for index, own in enumerate(head.expression_names)
        if canonical_name(own) == canonical_name(name)
    }
    if not targets:
        raise UserError(
            "avatar", f"head '{head.name}' has none of ARKit's expressions", "LAM's renderer moves by those alone"
        )
    rest, kept, moved = morphs(avatar, targets)
    limit = _TEXELS // (len(targets) + 1)
    if len(rest.means) > limit:
        raise UserError(
            "avatar", f"{len(rest.means)} Gaussians, LAM's renderer holds {limit}", "distil with a smaller --preset"
        )
    shift = _EYES - eye_centre(head)
    neck = np.asarray(head.joints)[head.joint_names.index("neck")] if "neck" in head.joint_names else np.zeros(3)
    weights = host(avatar.mesh_skin[avatar.mesh_faces[avatar.binding]].mean(1)[kept])  # [G, J]
    still = 1 - weights[:, [k for k, name in enumerate(head.joint_names) if name == "root"]].sum(1)
    folder = re.sub(r"[^A-Za-z0-9_-]", "_", job.out.stem) or "avatar"
    files = {
        "skin.glb": skin(host(rest.means) + shift, still, dict(zip(targets, moved)), neck + shift),
        "offset.ply": splat_bytes(dataclasses.replace(rest, means=torch.zeros_like(rest.means))),
        "vertex_order.json": json.dumps(np.argsort(-host(rest.means)[:, 2]).tolist()).encode(),
        "animation.glb": animation(job.motion, neck + shift),
    }
    with atomic_file(job.out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{folder}/"), "")  # the renderer takes its paths from the folder's entry
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data, zipfile.ZIP_DEFLATED)
    return f"{job.out}: {len(rest.means)} Gaussians, {len(targets)} expressions"


@torch.no_grad()
def morphs(avatar: Avatar, targets: dict[str, int]) -> tuple[Splats, Tensor, list[np.ndarray]]:
    """The neutral Gaussians with their colours as degree-0 values, which of the avatar's they are [all] bool, and per
    target how their centres move [G, 3] metres."""
    neutral = neutral_pose(avatar)
    vertices = avatar.vertices(neutral)
    rest = avatar.splats(vertices)
    kept = drawn(rest)
    tell_left_out(int((~kept).sum()))
    colours = facing_colours(avatar, vertices)[kept]
    moved = []
    for name, index in progress(targets.items(), total=len(targets), what="expressions", unit="expression"):
        pose = neutral_pose(avatar, index, name)
        moved.append(host((avatar.splats(avatar.vertices(pose)).means - rest.means)[kept]))
    return dataclasses.replace(pick(rest, kept), harmonics=colours[:, None]), kept, moved


def neutral_pose(avatar: Avatar, expression: int | None = None, name: str = "") -> Pose:
    """One still frame; with one expression at 1, eyes turned along where it is a gaze."""
    pose = Pose.of(Motion.still(1, len(avatar.rig.expression_names)), avatar.device)
    if expression is not None:
        pose.expression[0, expression] = 1
        side, axis, sign = _GAZE.get(name, (0, 0, 0))
        pose.eyes[0, side, axis] = sign * _FULL_GAZE
    return pose


# eyeLook expression -> (eye, axis, sign): left eye 0; +x turns the gaze down, +y towards the head's own left
_GAZE = {
    f"eyeLook{way}{side}": (eye, axis, sign)
    for eye, side in enumerate(("Left", "Right"))
    for way, axis, sign in (("Down", 0, 1), ("Up", 0, -1), ("In", 1, 2 * eye - 1), ("Out", 1, 1 - 2 * eye))
}


def facing_colours(avatar: Avatar, vertices: Tensor) -> Tensor:
    """Colours [G, 3] in [0, 1] as seen from the side that the triangle faces, level with the head.

    DC alone is a mean over directions that no picture showed; so is the view from above or below, where normals of
    shoulders and crown point. Normals that say little about the side count as facing the front.
    """
    normals = triangle_frames(vertices, avatar.mesh_faces)[0][:, :, 1][avatar.binding]
    towards = normals * normals.new_tensor([1.0, 0.0, 1.0]) + normals.new_tensor([0.0, 0.0, 0.3])
    basis = spherical_harmonics(avatar.config.sh_degree, -towards)  # [G, K]
    return ((basis[:, :, None] * avatar.harmonics).sum(1) + 0.5).clamp(0, 1)


def skin(vertices: np.ndarray, still: np.ndarray, targets: dict[str, np.ndarray], head: np.ndarray) -> bytes:
    """skin.glb: vertices [G, 3], share of the head joint [G], offsets [G, 3] by target name, head joint's place [3]."""
    buffer = Buffer()
    vertices = vertices.astype(np.float32)
    share = np.clip(still, 0, 1).astype(np.float32)
    weights = np.stack((share, 1 - share, 0 * share, 0 * share), 1)
    joints = np.where(weights > 0, [[1, 0, 0, 0]], 0).astype(np.uint8)
    # Triangles, because loaders make skinned meshes of nothing else; renderers of Gaussians never draw them.
    triangles = np.arange(len(vertices) - len(vertices) % 3, dtype=np.uint32)
    primitive = {
        "mode": 4,
        "attributes": {
            "POSITION": buffer.add(vertices, bounds=True),
            "JOINTS_0": buffer.add(joints),
            "WEIGHTS_0": buffer.add(weights),
        },
        "indices": buffer.add(triangles, target=INDICES),
        "targets": [],
    }
    for offsets in targets.values():
        rows = np.flatnonzero(np.abs(offsets).max(1) > _STILL)
        rows = rows if len(rows) else np.zeros(1, np.int64)  # an accessor needs one element
        primitive["targets"].append({"POSITION": buffer.add_sparse(offsets.astype(np.float32), rows)})
    inverse = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    inverse[1, 3, :3] = -head  # column-major
    mesh = {"name": "head", "primitives": [primitive], "weights": [0.0] * len(targets)}
    return buffer.file(
        {
            "scene": 0,
            "scenes": [{"nodes": [0, 2]}],
            "nodes": [*joint_nodes(head), {"name": "avatar", "mesh": 0, "skin": 0}],
            "meshes": [mesh | {"extras": {"targetNames": list(targets)}}],
            "skins": [{"joints": [0, 1], "inverseBindMatrices": buffer.add(inverse, target=None)}],
        }
    )


def joint_nodes(head: np.ndarray) -> list[dict]:
    return [{"name": "hip", "children": [1]}, {"name": "head", "translation": np.asarray(head, float).tolist()}]


def animation(motion: Motion | None, head: np.ndarray) -> bytes:
    """animation.glb: every clip turns the head joint as the motion turns head and neck; no motion, no turn."""
    if motion is None:
        motion = Motion.still(2, 0, fps=0.25)
    count = motion.frame_count
    turns = Rotation.from_rotvec(np.asarray(motion.rotation)) * Rotation.from_rotvec(np.asarray(motion.neck))
    buffer = Buffer()
    times = buffer.add((np.arange(count) / motion.fps).astype(np.float32), target=None, bounds=True)
    turned = buffer.add(turns.as_quat().astype(np.float32), target=None)
    clip = {
        "samplers": [{"input": times, "output": turned, "interpolation": "LINEAR"}],
        "channels": [{"sampler": 0, "target": {"node": 1, "path": "rotation"}}],
    }
    return buffer.file(
        {
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": joint_nodes(head),
            "animations": [{"name": name, **clip} for name in _CLIPS],
        }
    )
