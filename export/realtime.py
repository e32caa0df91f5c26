"""The real-time loop: pose in, picture out, everything on the device; on CUDA the posing runs as one recorded graph."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from mvp4d.core.heads.motion import ARRAYS
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.rasterize import rasterize
from mvp4d_export.rig import Pose

log = logging.getLogger(__name__)


class RealtimeRenderer:
    """Renders one frame per call without waiting for the device (for one number, the screen blur, if antialiased).

    Rig, deformation net and triangle frames have fixed shapes, so on CUDA they are compiled (some twenty seconds at the
    start), which makes few kernels of hundreds, and recorded as a CUDA graph, which costs one launch. gsplat's
    rasteriser sizes its buffers by what is in view, which a graph cannot do; it runs after it.
    """

    def __init__(
        self, avatar: Avatar, width: int, height: int, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ):
        self.avatar, self.width, self.height = avatar.eval().requires_grad_(False), width, height
        device = avatar.device
        self.background = torch.tensor(background, device=device)
        expressions = len(avatar.rig.expression_names)
        self.pose = Pose(
            *(
                torch.zeros(shape, device=device)
                for shape in ((1, expressions), (1, 3), (1, 3), (1, 3), (1, 3), (1, 2, 3))
            )
        )
        self.viewmat = torch.eye(4, device=device)[None].clone()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.posed: tuple[Splats, Tensor] | None = None
        if device.type == "cuda":
            self._record()

    def _record(self) -> None:
        compute = self._compiled()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(3):  # allocator and cuDNN settle outside of the recording
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph), torch.no_grad():
            self.posed = compute()

    @torch.no_grad()
    def _compiled(self) -> Callable[[], tuple[Splats, Tensor]]:
        """`_compute` compiled, or as it is where PyTorch cannot compile (no Triton, no C compiler)."""
        compute = torch.compile(self._compute, dynamic=False)
        try:
            compute()
        except Exception as error:  # the compiler's errors have no common class
            log.warning("posing is not compiled, it takes twice the time (%s)", _one_line(error))
            return self._compute
        return compute

    def _compute(self) -> tuple[Splats, Tensor]:
        splats = self.avatar.splats(self.avatar.vertices(self.pose))
        return splats, self.viewmat @ self.pose.head_matrix()

    @torch.no_grad()
    def advance(self, pose: Pose, viewmat: Tensor) -> None:
        """Takes one frame's pose and camera [4, 4] and poses the Gaussians."""
        for name in ARRAYS:
            getattr(self.pose, name).copy_(getattr(pose, name), non_blocking=True)
        self.viewmat.copy_(viewmat[None], non_blocking=True)
        if self.graph is None:
            self.posed = self._compute()
        else:
            self.graph.replay()

    @torch.no_grad()
    def draw(self, K: Tensor) -> tuple[Tensor, Tensor]:
        """The posed Gaussians through intrinsics [3, 3]: rgb [H, W, 3] and alpha [H, W], on the device."""
        splats, viewmats = self.posed
        config = self.avatar.config
        result = rasterize(
            splats.means,
            splats.quaternions,
            splats.scales,
            splats.opacities,
            splats.harmonics,
            viewmats,
            K[None],
            self.width,
            self.height,
            self.background,
            sh_degree=config.sh_degree,
            antialiased=config.antialiased,
            eps2d=self.avatar.screen_blur(viewmats, K[None]),
        )
        return result.rgb[0], result.alpha[0]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
