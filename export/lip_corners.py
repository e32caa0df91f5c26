"""Corners of lips that a photo shows beside an open mouth: its few pixels of them mix lips, teeth and the mouth's dark.

At rest they would be grey, and what it has of teeth there a white dot beside the mouth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvp4d_export.avatar import Avatar
from mvp4d_export.harmonics import SH_0, colour_of_sh
from mvp4d_export.hidden import NOT_SKIN
from mvp4d_export.initialise import nearest
from mvp4d_export.lips import FROM_BEFORE, LIP_REACH, LIPS, around_lips, nearness, on_lips, parting
from mvp4d_export.visibility import gaussians_of, parts_named, smoothstep

OPEN = 0.003  # metres of the mouth's inside that a photo shows between lips, on the mean over its columns, at least
CORNERS = (0.4, 0.75)  # of the half width of lips, between which they pass from the middle, which tells, to corners
RING = (LIP_REACH, 0.014)  # metres from lips in which skin tells their light
LIGHT = 0.006  # metres over which it is one
COARSE = 0.001  # metres of a pixel from which it tells nothing of a corner alone
OWN = 0.5  # of a corner's brightness that stays its own
BRIGHT = (1.05, 1.15)  # times the skin around, between which what lies beside a corner passes into a dot


def shows_inside(mouth: Tensor, pitch: float) -> bool:
    """Whether a photo with the mask [S, S] of the mouth's inside and pixels of `pitch` metres shows teeth or tongue."""
    columns = int(mouth.any(0).sum())
    return columns > 0 and float(mouth.sum()) * pitch > OPEN * columns


def mixture(opened: Tensor, pitch: Tensor) -> Tensor:
    """[G] in [0, 1]: how far pixels of `pitch` [G] metres mix a corner of the lips with what lies beside it, where
    `opened` [G] bool says that they are of an open mouth."""
    return opened * (pitch / COARSE).clamp(max=1)


@torch.no_grad()
def finish_corners(avatar: Avatar, mixed: Tensor) -> None:
    """Gives corners of the lips the hue of their middle, and half its brightness in the light there; dots beside them
    go.

    Args:
      mixed: [G] in [0, 1], how far their colours, if they are lips', are those of a photo of an open mouth (`mixture`).
    """
    rig, lips, line = avatar.rig, on_lips(avatar), parting(avatar)
    if not mixed[lips].any() or not len(line):
        return
    vertices = rig.template[rig.faces[parts_named(rig.part_names, LIPS).to(avatar.device)[rig.face_parts]].unique()]
    low, high = vertices[:, 0].aminmax()
    places = avatar.splats(avatar.gather(rig.template)).means
    out = smoothstep((2 * places[:, 0] - low - high).abs() / (high - low), *CORNERS)  # [G]: 0 in the middle
    skin = ~lips & ~gaussians_of(avatar, (*NOT_SKIN, *LIPS))
    away = nearest(places, vertices)[0]
    ring, beside = skin & (away > RING[0]) & (away < RING[1]), skin & around_lips(avatar)
    if not ring.any():
        return
    colours = colour_of_sh(avatar.harmonics[:, 0])  # [G, 3]

    def around(these: Tensor) -> Tensor:
        """[M, 3] the skin's colour around these, [G] bool."""
        weight = nearness(places[these], places[ring], LIGHT)
        return weight @ colours[ring] / weight.sum(1, keepdim=True).clamp(min=1e-9)

    upper = places[:, 1] > line[nearest(places * line.new_tensor(FROM_BEFORE), line)[1], 1]
    for lip in (lips & upper, lips & ~upper):
        own, light, middle = colours[lip], around(lip).mean(1), out[lip] == 0
        if not middle.any():
            continue
        hue = (own[middle] / own[middle].mean(1, keepdim=True).clamp(min=1e-3)).median(0).values
        bright = (own[middle].mean(1) / light[middle].clamp(min=1e-3)).median().clamp(max=1) * light
        cleaned = hue * torch.lerp(bright, own.mean(1), OWN)[:, None]
        avatar.harmonics[lip, 0] += (out * mixed)[lip, None] * (cleaned - own) / SH_0
    own, skins = colours[beside], around(beside)
    dots = smoothstep(own.mean(1) / skins.mean(1).clamp(min=1e-3), *BRIGHT) * (out * mixed)[beside]
    avatar.harmonics[beside, 0] += dots[:, None] * (skins - own) / SH_0
    avatar.harmonics[beside, 1:] *= 1 - dots[:, None, None]
