"""The head rig in torch: the same skinning as `mvp4d_jax/heads/skinning.py`, from the arrays of `head.npz` alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import ARRAYS, Motion


@dataclasses.dataclass
class Pose:
    """Motion as tensors, F frames: expression [F, E]; rotation, translation, neck, jaw [F, 3]; eyes [F, 2, 3]."""

    expression: Tensor
    rotation: Tensor
    translation: Tensor
    neck: Tensor
    jaw: Tensor
    eyes: Tensor

    @classmethod
    def of(cls, motion: Motion, device: torch.device | str = "cpu") -> Pose:
        return cls(*(torch.as_tensor(getattr(motion, name), dtype=torch.float32, device=device) for name in ARRAYS))

    def __getitem__(self, index) -> Pose:
        """A window of frames; `index` is a slice or an integer tensor."""
        return Pose(*(getattr(self, name)[index] for name in ARRAYS))

    def map(self, function) -> Pose:
        return Pose(*(function(getattr(self, name)) for name in ARRAYS))

    def head_matrix(self) -> Tensor:
        """[F, 4, 4] head space to world."""
        matrix = torch.zeros(len(self.rotation), 4, 4, dtype=self.rotation.dtype, device=self.rotation.device)
        matrix[:, :3, :3] = rotation_matrix(self.rotation)
        matrix[:, :3, 3] = self.translation
        matrix[:, 3, 3] = 1
        return matrix


class Rig(nn.Module):
    """Blendshapes, pose correctives, joints, linear blend skinning. N vertices, E expressions, J joints."""

    def __init__(self, head: HeadModel):
        super().__init__()
        self.name = head.name
        self.expression_names, self.joint_names = head.expression_names, head.joint_names
        self.joint_parents, self.part_names = head.joint_parents, head.part_names
        for name in ("template", "expression_basis", "pose_basis", "joints", "joint_expression_basis", "skin_weights"):
            array = np.ascontiguousarray(getattr(head, name))
            self.register_buffer(name, torch.from_numpy(array.astype(np.float32)))
        for name in ("faces", "face_uvs", "face_parts"):
            self.register_buffer(name, torch.from_numpy(getattr(head, name).astype(np.int64)))
        self.register_buffer("uv", torch.from_numpy(head.uv.astype(np.float32)))

    def forward(self, pose: Pose) -> tuple[Tensor, Tensor]:
        """Skins F frames in head space, before the head's own rotation and translation.

        Returns:
          vertices [F, N, 3] metres, and the rest-relative joint rotations [F, J, 3, 3].
        """
        frames, count = len(pose.expression), self.template.shape[0]
        vertices = self.template + (pose.expression @ self.expression_basis.flatten(1)).reshape(frames, count, 3)
        joints = self.joints + torch.einsum("fe,ejk->fjk", pose.expression, self.joint_expression_basis)
        rotations = self.joint_rotations(pose)  # [F, J, 3, 3]
        if len(self.pose_basis):
            features = (rotations[:, 1:] - torch.eye(3, device=rotations.device)).flatten(1)
            vertices = vertices + (features @ self.pose_basis.flatten(1)).reshape(frames, count, 3)
        chained, offsets = self.joint_transforms(joints, rotations)
        transforms = torch.cat((chained, offsets[..., None]), -1).reshape(frames, -1, 12)  # [F, J, 12]
        blended = torch.einsum("nj,fjk->fnk", self.skin_weights, transforms).reshape(frames, count, 3, 4)
        return (blended[..., :3] * vertices[..., None, :]).sum(-1) + blended[..., 3], chained

    def world_vertices(self, pose: Pose) -> Tensor:
        """[F, N, 3] vertices in the world, metres."""
        matrix = pose.head_matrix()
        vertices, _ = self(pose)
        return (matrix[:, None, :3, :3] * vertices[..., None, :]).sum(-1) + matrix[:, None, :3, 3]

    def joint_rotations(self, pose: Pose) -> Tensor:
        """[F, J, 3, 3] by role; the root stays at rest."""
        by_role = {
            "root": torch.zeros_like(pose.neck),
            "neck": pose.neck,
            "jaw": pose.jaw,
            "left_eye": pose.eyes[:, 0],
            "right_eye": pose.eyes[:, 1],
        }
        return rotation_matrix(torch.stack([by_role[name] for name in self.joint_names], 1))

    def joint_transforms(self, joints: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Rest-relative transforms x -> R x + t of joints [F, J, 3] with rotations [F, J, 3, 3] to their parents."""
        chained, positions = [], []
        for index, parent in enumerate(self.joint_parents):
            if parent < 0:
                chained.append(rotations[:, index])
                positions.append(joints[:, index])
                continue
            offset = joints[:, index] - joints[:, parent]
            chained.append(chained[parent] @ rotations[:, index])
            positions.append((chained[parent] @ offset[..., None])[..., 0] + positions[parent])
        matrices = torch.stack(chained, 1)
        return matrices, torch.stack(positions, 1) - (matrices @ joints[..., None])[..., 0]


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """[..., 3, 3] from axis-angle [..., 3] radians (Rodrigues), exact with exact gradients at zero too."""
    squared = axis_angle.square().sum(-1)[..., None, None]
    small = squared < 1e-8
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    first = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - squared / 24, 2 * torch.sin(angle / 2).square() / safe)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*x.shape, 3, 3)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    outer = axis_angle[..., :, None] * axis_angle[..., None, :]
    return identity + first * cross + second * (outer - squared * identity)
