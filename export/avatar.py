"""The avatar: a rig, Gaussians bound to the triangles of its UV remesh, and a net for what the rig misses."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder
from mvp4d.core.heads.model import RIG_FIELDS, HeadModel
from mvp4d_export.avatar_check import (
    FORMAT,
    VERSION,
    check_gaussians,
    config_fields,
    fill,
    read_files,
    read_mesh,
    whole_number,
)
from mvp4d_export.deformation import EXPRESSION_UNIT, DeformationNet, NetConfig, position_features
from mvp4d_export.projection import EPS_2D, NEAR
from mvp4d_export.rasterize import Rendering, rasterize
from mvp4d_export.remesh import UVMesh, remesh
from mvp4d_export.rig import Pose, Rig
from mvp4d_export.triangles import matrix_to_quaternion, multiply_quaternions, triangle_frames

GAUSSIAN_TENSORS = ("position", "rotation", "log_scale", "logit_opacity", "harmonics")
_HEAD_TEXT = ("name", "expression_names", "joint_names", "joint_parents", "part_names")  # of the head, in avatar.json


@dataclasses.dataclass(frozen=True)
class AvatarConfig:
    """What fixes an avatar's shape.

    Attributes:
      uv_resolution: pixels along a side of the UV square.
      sh_degree: 0..3.
      net: the deformation net's size; None for an avatar without one.
      antialiased: render with the opacity compensation that the fit used.
      pitch: metres that a pixel of the pictures spanned at the head. Where `antialiased`, the screen blur grows with
        larger pictures, so that they show what the fit saw, and no gaps between specks.
    """

    uv_resolution: int = 128
    sh_degree: int = 3
    net: NetConfig | None = None
    antialiased: bool = False
    pitch: float = 0.0

    @property
    def harmonic_count(self) -> int:
        return (self.sh_degree + 1) ** 2


@dataclasses.dataclass
class Splats:
    """Gaussians of one video frame in head space. G of them; `harmonics` [G, K, 3] are in head axes too."""

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    harmonics: Tensor


class Avatar(nn.Module):
    """G Gaussians on T triangles of P vertices over a rig with E expressions.

    Parameters (all in the frame of the Gaussian's triangle, in units of its scale): position [G, 3], rotation [G, 4]
    wxyz, log_scale [G, 3], logit_opacity [G], harmonics [G, K, 3]; `binding` [G] says which triangle. `neck_offsets`
    [F, 3] are the learned neck rotations of the F frames that it was fitted to.
    """

    def __init__(
        self,
        config: AvatarConfig,
        head: HeadModel,
        gaussian_count: int = 0,
        frames: int = 0,
        mesh: UVMesh | None = None,
    ):
        super().__init__()
        self.config, self.head = config, head
        self.extra: dict = {}  # what the folder says beside what an avatar needs
        self.rig = Rig(head)
        self.mesh = remesh(head, config.uv_resolution) if mesh is None else mesh
        for name in ("corners", "weights", "pixels", "faces", "deformable"):
            self.register_buffer(f"mesh_{name}", torch.from_numpy(getattr(self.mesh, name)), persistent=False)
        self.register_buffer(
            "mesh_lead", _means(self.mesh.leads, self.mesh.follows), persistent=False
        )  # [groups + 1, P]
        self.register_buffer("mesh_follows", torch.from_numpy(self.mesh.follows), persistent=False)  # [P]
        self.register_buffer("mesh_skin", self.gather(self.rig.skin_weights), persistent=False)  # [P, J]
        still = _without_gaze(self.mesh_skin, head)
        still = torch.where(self.mesh_follows[:, None] > 0, still, self.mesh_skin)
        self.register_buffer("mesh_turn", still, persistent=False)  # [P, J] what turns offsets
        neutral = self.gather(self.rig.template)
        self.register_buffer("neutral_features", self._image(position_features(neutral)), persistent=False)
        self.net = DeformationNet(config.net) if config.net is not None else None
        self._bind(torch.zeros(gaussian_count, dtype=torch.int64))
        shapes = {
            "position": (3,),
            "rotation": (4,),
            "log_scale": (3,),
            "logit_opacity": (),
            "harmonics": (config.harmonic_count, 3),
        }
        for name in GAUSSIAN_TENSORS:
            self.register_parameter(name, nn.Parameter(torch.zeros(gaussian_count, *shapes[name])))
        self.neck_offsets = nn.Parameter(torch.zeros(frames, 3))

    @property
    def gaussian_count(self) -> int:
        return len(self.binding)

    @property
    def device(self) -> torch.device:
        return self.binding.device

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the pictures that it was fitted to; 512 x 512 where the folder does not say."""
        size = self.extra.get("image_size")
        plain = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
        return (size[0], size[1]) if plain else (512, 512)

    def set_gaussians(self, binding: Tensor, tensors: dict[str, Tensor]) -> None:
        """Replaces every Gaussian."""
        self._bind(binding)
        for name in GAUSSIAN_TENSORS:
            setattr(self, name, nn.Parameter(tensors[name].detach().clone()))

    def _bind(self, binding: Tensor) -> None:
        """Binds the Gaussians to triangles [G]. B triangles carry some: about half; only their frames are computed."""
        triangles, among = binding.unique(return_inverse=True)
        self.register_buffer("binding", binding)
        self.register_buffer("bound_faces", self.mesh_faces[triangles], persistent=False)  # [B, 3]
        self.register_buffer("among_bound", among, persistent=False)  # [G] of B

    def gather(self, values: Tensor) -> Tensor:
        """Per-head-vertex values [..., N, C] at the UV vertices: [..., P, C]."""
        return (values[..., self.mesh_corners, :] * self.mesh_weights[..., None]).sum(-2)

    def _image(self, values: Tensor) -> Tensor:
        """[P, C] on the UV square: [C, R, R], zero where there is no vertex."""
        side = self.config.uv_resolution
        image = values.new_zeros(side * side, values.shape[1])
        return image.index_copy(0, self.mesh_pixels, values).T.reshape(-1, side, side)

    def offsets(self, pose: Pose) -> Tensor:
        """The net's offsets [P, 3] metres, rest axes, for one frame's expression (which the neck is no part of)."""
        if self.net is None:
            return torch.zeros_like(self.mesh_weights)
        return self._evaluate(self.expression_image(pose)[None])[0]

    def deformation(self, pose: Pose, image: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`offsets` of one frame (of its `expression_image`, if given) and those of the neutral face, in one batch."""
        if self.net is None:
            return torch.zeros_like(self.mesh_weights), torch.zeros_like(self.mesh_weights)
        moved = self.expression_image(pose) if image is None else image
        expressive, neutral = self._evaluate(torch.stack((moved, torch.zeros_like(moved)))).unbind(0)
        return expressive, neutral

    @torch.no_grad()
    def expression_image(self, pose: Pose) -> Tensor:
        """[3, R, R] offsets of the expression on the UV square, in the net's unit."""
        vertices, _ = self.rig(dataclasses.replace(pose, neck=torch.zeros_like(pose.neck)))
        return self._image(self.gather(vertices[0] - self.rig.template) / EXPRESSION_UNIT)

    def _evaluate(self, moved: Tensor) -> Tensor:
        """[B, 3, R, R] expression images to offsets [B, P, 3]."""
        features = torch.cat((moved, self.neutral_features.expand(len(moved), -1, -1, -1)), 1)
        offsets = self.net(features).flatten(2)[:, :, self.mesh_pixels].transpose(1, 2)
        offsets = offsets * self.mesh_deformable[:, None]
        return offsets + (self.mesh_lead @ offsets)[:, self.mesh_follows]  # [B, P, 3]

    def vertices(self, pose: Pose, offsets: Tensor | None = None, neck: Tensor | None = None) -> Tensor:
        """UV vertices [P, 3] of one frame in head space.

        Args:
          pose: one frame.
          offsets: [P, 3] in rest axes, as `offsets` gives them; evaluated when None.
          neck: [3] learned rotation added to the pose's own.
        """
        if offsets is None:
            offsets = self.offsets(pose)
        if neck is not None:
            pose = dataclasses.replace(pose, neck=pose.neck + neck)
        skinned, joint_rotations = self.rig(pose)
        turn = torch.einsum("pj,jab->pab", self.mesh_turn, joint_rotations[0])  # [P, 3, 3]
        return self.gather(skinned[0]) + (turn * offsets[:, None, :]).sum(-1)

    def splats(self, vertices: Tensor) -> Splats:
        """The Gaussians on UV vertices [P, 3]."""
        rotation, scale, centre = triangle_frames(vertices, self.bound_faces)
        frame = torch.cat((rotation.flatten(1), scale[:, None], centre, matrix_to_quaternion(rotation)), 1)
        frame = frame.index_select(0, self.among_bound).T.contiguous()  # [17, G]: the CPU is fast at contiguous rows
        rotation, scale, centre, quaternion = frame.split((9, 1, 3, 4))
        means = (scale * (rotation.reshape(3, 3, -1) * self.position.T).sum(1) + centre).T.contiguous()
        quaternions = multiply_quaternions(quaternion.T, nn.functional.normalize(self.rotation, dim=-1))
        return Splats(means, quaternions, self.log_scale.exp() * scale.T, self.logit_opacity.sigmoid(), self.harmonics)

    def screen_blur(self, viewmats: Tensor, Ks: Tensor) -> float:
        """Variance in pixels squared to blur by, for cameras [V, 4, 4] from head space and intrinsics [V, 3, 3]."""
        if not self.config.antialiased:
            return EPS_2D
        enlarged = self.config.pitch * (Ks[:, 0, 0] / viewmats[:, 2, 3].detach().clamp(min=NEAR)).mean()
        return EPS_2D * max(1.0, float(enlarged)) ** 2

    def render(
        self,
        splats: Splats,
        pose: Pose,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        background: Tensor | None = None,
        *,
        sh_degree: int | None = None,
        colours: Tensor | None = None,
        **options,
    ) -> Rendering:
        """Renders the Gaussians of one frame into V views; the head's pose is folded into the cameras.

        `colours` [G, 3], the same from all sides, take the place of the harmonics.
        """
        degree = self.config.sh_degree if sh_degree is None else sh_degree
        viewmats = viewmats @ pose.head_matrix()
        return rasterize(
            splats.means,
            splats.quaternions,
            splats.scales,
            splats.opacities,
            splats.harmonics if colours is None else colours,
            viewmats,
            Ks,
            width,
            height,
            background,
            sh_degree=degree if colours is None else None,
            antialiased=self.config.antialiased,
            eps2d=self.screen_blur(viewmats, Ks),
            **options,
        )

    def save(self, path: str | os.PathLike, extra: dict | None = None, *, overwrite: bool = False) -> None:
        """Writes the avatar folder, atomically: avatar.json, avatar.safetensors, and files named in no other place."""
        with atomic_folder(path, overwrite=overwrite, kind="avatar") as folder:
            self.write(folder, extra)

    def write(self, folder: Path, extra: dict | None = None) -> None:
        """Writes the files of an avatar into a folder that exists."""
        tensors = {f"gaussians.{name}": getattr(self, name).detach() for name in (*GAUSSIAN_TENSORS, "binding")}
        tensors["neck_offsets"] = self.neck_offsets.detach()
        if self.net is not None:
            tensors |= {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for name in RIG_FIELDS:
            if name not in _HEAD_TEXT:
                tensors[f"head.{name}"] = torch.as_tensor(getattr(self.head, name))
        for field in dataclasses.fields(UVMesh)[1:]:
            tensors[f"mesh.{field.name}"] = torch.from_numpy(getattr(self.mesh, field.name))
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / "avatar.safetensors"
        )
        net = None if self.config.net is None else dataclasses.asdict(self.config.net)
        info = {
            "format": FORMAT,
            "version": VERSION,
            **dataclasses.asdict(self.config),
            "net": net,
            "gaussians": self.gaussian_count,
            "frames": len(self.neck_offsets),
            "head": {name: getattr(self.head, name) for name in _HEAD_TEXT},
            "extra": extra or {},
        }
        (folder / "avatar.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> Avatar:
        """Reads and checks an avatar folder.

        Raises:
          UserError: one line that names the file and what is wrong with it.
        """
        path = Path(path)
        info, tensors = read_files(path)
        weights = path / "avatar.safetensors"
        try:
            return cls._from_files(info, tensors, weights).to(device)
        except UserError:
            raise
        except (
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
            IndexError,
            AttributeError,
            OverflowError,
            MemoryError,
        ) as error:
            raise UserError(
                weights,
                f"does not fit avatar.json ({' '.join(str(error).split())[:160]})",
                "the avatar is damaged; distil it again",
            ) from None

    @classmethod
    def _from_files(cls, info: dict, tensors: dict[str, Tensor], where: Path) -> Avatar:
        said = where.with_name("avatar.json")
        config = AvatarConfig(**config_fields(info, said))
        gaussians = whole_number(info, "gaussians", 0, 100_000_000, said)
        frames = whole_number(info, "frames", 0, 1_000_000, said)
        arrays = {name[5:]: value.numpy() for name, value in tensors.items() if name.startswith("head.")}
        head = HeadModel.from_rig({**arrays, **info["head"]}, where)
        avatar = cls(config, head, gaussians, frames, read_mesh(tensors, config.uv_resolution, head, where))
        net = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        if avatar.net is None and net:
            raise UserError(where, "holds a deformation net, which avatar.json does not", "distil the avatar again")
        if avatar.net is not None:
            avatar.net.load_state_dict(net)
        avatar.extra = info.get("extra", {})
        with torch.no_grad():
            for name in (*GAUSSIAN_TENSORS, "binding"):
                fill(getattr(avatar, name), tensors, f"gaussians.{name}", where)
            fill(avatar.neck_offsets, tensors, "neck_offsets", where)
            values = {name: getattr(avatar, name) for name in GAUSSIAN_TENSORS}
            check_gaussians(values, avatar.binding, len(avatar.mesh.faces), where)
        avatar._bind(avatar.binding)
        return avatar


def logit_of(opacity: Tensor) -> Tensor:
    """What `Avatar.logit_opacity` holds for opacities [...] in [0, 1], whose ends have no logit: finite."""
    return torch.logit(opacity.clamp(1e-5, 1 - 1e-5))


def _means(leads: np.ndarray, follows: np.ndarray) -> Tensor:
    """[groups + 1, P] float32: what takes the mean over the vertices that lead each group; row 0 is zero."""
    groups = 1 + max(int(follows.max(initial=0)), int(leads.max(initial=0)))
    member = leads[None] == np.arange(groups)[:, None]
    member[0] = False
    return torch.from_numpy((member / np.maximum(member.sum(1, keepdims=True), 1)).astype(np.float32))


def _without_gaze(skin: Tensor, head: HeadModel) -> Tensor:
    """Weights [P, J] whose share of the eyes' joints is their parents': an eye that turns stays where it is."""
    skin = skin.clone()
    for index in eye_joints(head):
        skin[:, head.joint_parents[index]] += skin[:, index]
        skin[:, index] = 0
    return skin


def eye_joints(head: HeadModel) -> list[int]:
    """Those that turn on another joint."""
    named = [name in ("left_eye", "right_eye") for name in head.joint_names]
    return [index for index, parent in enumerate(head.joint_parents) if named[index] and parent >= 0]
