"""How long a person's upper teeth are: as far as a photo shows them below the head's own."""

from __future__ import annotations

import torch
from torch import Tensor

from mvp4d_export.avatar import Avatar
from mvp4d_export.hidden import upper_teeth
from mvp4d_export.photos import Picture
from mvp4d_export.rig import Pose
from mvp4d_export.seeding import project_points

BRIGHT = 0.7  # of their brightness from which a pixel of the mouth is one of teeth
MIDDLE = 0.4  # share of the mouth's breadth in which incisors are looked at
FRONT = 0.012  # metres behind the foremost tooth in which they lie
LONGEST = 0.004  # metres that they are longer than the head's, at most
FEW = 3  # columns of a photo that tell nothing


@torch.no_grad()
def longer_teeth(avatar: Avatar, picture: Picture, mouth: Tensor, colour: Tensor, pose: Pose, viewmat: Tensor) -> float:
    """Metres that incisors in a photo end below the head's own; 0 where they do not.

    Args:
      mouth: [S, S] bool where it shows the inside of the mouth. colour: [3] of its teeth.
      pose, viewmat: one frame and the camera [4, 4] of the photo.
    """
    bright = mouth & (picture.rgb.mean(-1) > BRIGHT * colour.mean())
    columns = bright.any(0).nonzero()[:, 0]
    upper = avatar.rig.faces[upper_teeth(avatar.rig)].unique()
    if len(columns) < FEW or not len(upper):
        return 0.0
    low, high = columns.float().quantile(columns.new_tensor([0.5 - MIDDLE / 2, 0.5 + MIDDLE / 2], dtype=torch.float32))
    columns = columns[(columns >= low) & (columns <= high)]
    runs = bright[:, columns].int()
    first = runs.argmax(0)  # of each column, then where its run ends
    rows = torch.arange(len(bright), device=bright.device)[:, None]
    end = torch.where((runs == 0) & (rows > first), rows, len(bright)).amin(0).float().median()

    matrix = viewmat @ pose.head_matrix()[0]
    front = upper[avatar.rig.template[upper, 2] > avatar.rig.template[upper, 2].amax() - FRONT]
    own, depth = project_points(avatar.rig(pose)[0][0][front], matrix, picture.K)
    own = own[(own[:, 0] >= low) & (own[:, 0] <= high)]
    if not len(own):
        return 0.0
    pixel = float(depth.mean()) / float(picture.K[1, 1])  # metres
    return min(max(0.0, pixel * float(end - own[:, 1].amax())), LONGEST)
