"""One rasteriser of 3D Gaussians with gsplat's meaning: gsplat itself on CUDA, a compiled compositor on the CPU."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mvp4d.core.errors import UserError
from mvp4d_export.harmonics import shade
from mvp4d_export.projection import EPS_2D, NEAR, project


@dataclasses.dataclass
class Rendering:
    """What `rasterize` returns. V views.

    Attributes:
      rgb: [V, H, W, 3] over the background.
      alpha: [V, H, W].
      means2d: [V, N, 2] pixels, a part of the graph: densification asks for its gradient.
      visible: [V, N] bool, which Gaussians reach a pixel of the view.
      marked: [V, H, W] the blended `marks`, over black; None without any.
    """

    rgb: Tensor
    alpha: Tensor
    means2d: Tensor | None
    visible: Tensor | None
    marked: Tensor | None = None


def rasterize(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None = None,
    *,
    sh_degree: int | None = None,
    antialiased: bool = False,
    eps2d: float = EPS_2D,
    packed: bool = False,
    marks: Tensor | None = None,
) -> Rendering:
    """Renders N Gaussians into V views in one call.

    Pixel centres at +0.5, 2D covariances blurred by `eps2d`, alpha clamped at 0.999, contributions under
    1/255 skipped, a pixel done before its transmittance falls to 1e-4 (gsplat 1.5.3).

    Args:
      means: [N, 3] world, metres. quaternions: [N, 4] wxyz. scales: [N, 3] metres. opacities: [N] in [0, 1].
      colours: [N, 3] or [V, N, 3]; with `sh_degree` harmonics [N, K, 3].
      viewmats: [V, 4, 4] world to camera, OpenCV axes. Ks: [V, 3, 3] pixels.
      background: [3] or [V, 3]; black when None.
      antialiased: Mip-Splatting's opacity compensation.
      eps2d: pixels squared.
      packed: on CUDA, keeps only the pairs of view and Gaussian that meet: less memory, a little slower. Then no
        `means2d` and `visible` come back. Ignored on the CPU.
      marks: [N] constants, blended like one more channel: in the same pass on the CPU, in a second one on CUDA.

    Raises:
      UserError: tensors on a device that is neither CPU nor CUDA.
    """
    views = viewmats.shape[0]
    background = (means.new_zeros(3) if background is None else background).expand(views, 3)
    shape, cameras = (means, quaternions, scales, opacities), (viewmats, Ks, width, height)
    blur = {"antialiased": antialiased, "eps2d": eps2d}
    if means.device.type == "cuda":
        return _with_gsplat(shape, colours, cameras, background, marks, sh_degree=sh_degree, packed=packed, **blur)
    if means.device.type != "cpu":
        raise UserError("device", f"no rasteriser for '{means.device.type}'", "use cpu or cuda")
    from mvp4d_export.compositor import composite  # numba, which CUDA does without, takes a second to import

    if sh_degree is not None:
        colours = shade(colours, means, viewmats, sh_degree)
    colours = colours.expand(views, *means.shape)
    projected = project(*shape, *cameras, **blur)
    rgb, alpha, marked = composite(projected, colours, background, width, height, marks)
    marked = None if marks is None else marked
    return Rendering(rgb, alpha, projected.means2d, projected.extents[..., 0] > 0, marked)


def _with_gsplat(
    shape: tuple[Tensor, Tensor, Tensor, Tensor],
    colours: Tensor,
    cameras: tuple[Tensor, Tensor, int, int],
    background: Tensor,
    marks: Tensor | None,
    *,
    sh_degree: int | None,
    packed: bool,
    antialiased: bool,
    eps2d: float,
) -> Rendering:
    """As `rasterize`, on CUDA: `shape` and `cameras` are its arguments before and after `colours`."""
    from gsplat import rasterization

    rgb, alpha, info = rasterization(
        *shape,
        colours,
        *cameras,
        near_plane=NEAR,
        eps2d=eps2d,
        sh_degree=sh_degree,
        packed=packed,
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    rgb = rgb + (1 - alpha) * background[:, None, None]  # gsplat 1.5.3 refuses backgrounds where it packs
    marked = None
    if marks is not None:
        with torch.no_grad():
            grey, black = marks[:, None].expand(-1, 3).contiguous(), torch.zeros_like(background)
            options = {"sh_degree": None, "packed": packed, "antialiased": antialiased, "eps2d": eps2d}
            marked = _with_gsplat(shape, grey, cameras, black, None, **options).rgb[..., 0]
    if packed:
        return Rendering(rgb, alpha[..., 0], None, None, marked)
    return Rendering(rgb, alpha[..., 0], info["means2d"], (info["radii"] > 0).all(-1), marked)
