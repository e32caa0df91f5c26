"""Photos of the person as the distiller wants them: square crops around the head, alpha, cameras, poses."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvp4d.core.cameras.camera import FIELDS, Camera, project
from mvp4d.core.cameras.crops import crop_camera, crop_image, head_box, head_vertices
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.errors import UserError
from mvp4d_export.cameras import camera_matrices
from mvp4d_export.registration import on_head
from mvp4d_export.rig import Pose, Rig

MARGIN = 1.3  # half side of a crop over the larger half extent of the head: hair, collar
SOLID, RIM = 0.98, 2  # alpha and pixels from the edge of it from which a colour is the person's alone
SMALLEST = 64  # pixels a side of a crop at least: smaller crops are enlarged to it
CLEAR = 4  # of 255: alpha below it at the border of a crop means that the photo ends there


@dataclasses.dataclass(frozen=True)
class Picture:
    """One photo on the device.

    Attributes:
      rgb: [S, S, 3] straight colours in [0, 1]; alpha: [S, S].
      known: [S, S] 1 where the photo has a pixel, 0 beyond its border.
      K: [3, 3] intrinsics at full size.
    """

    rgb: Tensor
    alpha: Tensor
    known: Tensor
    K: Tensor

    @property
    def side(self) -> int:
        return len(self.rgb)

    def at(self, level: int) -> Picture:
        """The picture with its sides halved `level` times, by averaging; colours count by their alpha."""
        if not level:
            return self
        factor = 1 << level

        def pool(values: Tensor) -> Tensor:
            return avg_pool2d(values.permute(2, 0, 1)[None], factor)[0].permute(1, 2, 0)

        alpha, known = pool(self.alpha[..., None]), pool(self.known[..., None])[..., 0]
        rgb = pool(self.rgb * self.alpha[..., None]) / alpha.clamp(min=1e-3)
        K = self.K.clone()
        K[:2] /= factor
        return Picture(rgb, alpha[..., 0], (known > 0.99).to(known), K)


@dataclasses.dataclass(frozen=True)
class Photos:
    """N photos of one person.

    Attributes:
      pictures: N, each of its own size.
      viewmats: [N, 4, 4] world to camera. pose: N frames, one of each photo.
      pitch: [N] metres that a pixel spans at the head.
      reference: index of the photo whose colours hold.
      digest: of everything in it.
    """

    pictures: tuple[Picture, ...]
    viewmats: Tensor
    pose: Pose
    pitch: Tensor
    reference: int
    digest: str

    @classmethod
    def load(cls, portrait: Portrait, side: int, device: str = "cpu") -> Photos:
        """Crops every photo, laid on the head's lips and lids where it says where its own are, to the head, `side`
        pixels at most.

        Raises:
          UserError: a fitted head that does not lie in its photo.
        """
        pose = Pose.of(portrait.motion)
        rig = Rig(portrait.head)
        facial = torch.from_numpy(head_vertices(portrait.head))
        with torch.no_grad():
            vertices = rig.world_vertices(pose)  # [N, V, 3]
        points, forward = vertices[:, facial].numpy(), pose.head_matrix()[:, :3, 2].numpy()
        pictures, told = [], hashlib.sha256()
        for index, photo in enumerate(portrait.photos):
            camera = Camera(**{name: np.asarray(getattr(portrait.camera, name))[index] for name in FIELDS})
            if portrait.landmarks is not None:
                seen = portrait.landmarks[index]
                told.update(np.ascontiguousarray(seen).tobytes())
                photo = on_head(photo, camera, portrait.head, vertices[index].numpy(), forward[index], seen)
            told.update(portrait.photos[index].tobytes())  # not as moved: its rounding differs between machines
            pictures.append(_picture(photo, camera, points[index], side, f"portrait, photo {index}", device))
        pose = pose.map(lambda value: value.to(device))
        viewmats = torch.from_numpy(camera_matrices(portrait.camera)[0]).to(device)
        for tensor in (viewmats, *(getattr(pose, field.name) for field in dataclasses.fields(pose))):
            told.update(tensor.cpu().numpy().tobytes())
        depth = (viewmats @ pose.head_matrix())[:, 2, 3]
        pitch = depth / torch.stack([picture.K[0, 0] for picture in pictures])
        return cls(tuple(pictures), viewmats, pose, pitch, portrait.reference, told.hexdigest())

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def reference_first(self) -> list[int]:
        """Indices of all photos, the reference's before the others'."""
        return [self.reference, *(index for index in range(len(self)) if index != self.reference)]


def _picture(photo: np.ndarray, camera: Camera, points: np.ndarray, side: int, where: str, device: str) -> Picture:
    """The square around head points [M, 3] of a photo uint8 [H, W, 4]; one that is such a square stays as it is."""
    height, width = photo.shape[:2]
    values = photo.astype(np.float32) / 255
    outside = np.zeros((height, width), np.float32)
    if height != width or height > side:
        pixels, depth = project(camera, points)
        box = head_box(np.asarray(pixels), MARGIN)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if np.asarray(depth).min() <= 0 or not (0 <= x <= width and 0 <= y <= height):
            raise UserError(where, "its fitted head lies outside of the picture", "track the photo again")
        if height == width and box[2] - box[0] > 0.8 * width:
            box = np.array([0.0, 0.0, width, height])  # cut out already
        pixels_across = int(min(side, max(SMALLEST, round(box[2] - box[0]))))
        premultiplied = np.concatenate([values[..., :3] * values[..., 3:], values[..., 3:]], -1)
        values, outside = crop_image(premultiplied, box, pixels_across, background=0.0)
        values[..., :3] /= values[..., 3:].clip(1e-3)
        camera = crop_camera(camera, box, pixels_across)
    known = (outside < 0.01) & ~_beyond(values[..., 3])
    K = camera_matrices(camera)[1]
    alpha = values[..., 3].clip(0, 1)
    rgb = _own_colours(values[..., :3].clip(0, 1), alpha)
    return Picture(
        *(torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device) for array in (rgb, alpha, known, K))
    )


def _own_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] whose rim, in which a background may shine through, is that of the nearest solid pixels."""
    solid = ndimage.binary_erosion(alpha >= SOLID, iterations=RIM, border_value=1)
    if not solid.any():
        return rgb
    rows, columns = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    return rgb[rows, columns]


def _beyond(alpha: np.ndarray) -> np.ndarray:
    """[H, W] bool: rows and columns at the border of a crop in which nothing is opaque: there the photo may end."""
    clear = alpha * 255 < CLEAR
    rows, columns = clear.all(1), clear.all(0)
    margin = np.zeros_like(clear)
    for full, view in ((rows, margin), (columns, margin.T)):
        if not full.all():
            first, last = int(np.argmin(full)), len(full) - int(np.argmin(full[::-1]))
            view[:first], view[last:] = True, True
    return margin
