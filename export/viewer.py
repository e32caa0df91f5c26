"""The browser viewer: orbit camera, playback, sliders for expression, jaw, gaze and neck.

With CUDA the server renders what each browser's camera sees; without, the browser draws the splats itself.
"""

from __future__ import annotations

import dataclasses
import math
import socket
import threading
import time

import numpy as np
import torch
import viser

from mvp4d.core.cameras.rigs import DISTANCE, FOV_DEGREES, HEAD_CENTRE
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d_export.avatar import Avatar, Splats
from mvp4d_export.projection import quaternion_to_matrix, shade
from mvp4d_export.render import to_bytes
from mvp4d_export.rig import Pose

SCENE_SCALE = 10.0  # the browser stores covariances as half floats, too coarse for square metres
MAX_SIDE = 1024  # pixels that the server renders at most along a side
ANGLES = (
    ("jaw open", "jaw", 0, 0.0, 0.5),
    ("jaw sideways", "jaw", 1, -0.2, 0.2),
    ("neck nod", "neck", 0, -0.5, 0.5),
    ("neck turn", "neck", 1, -0.8, 0.8),
    ("neck tilt", "neck", 2, -0.5, 0.5),
    ("gaze up-down", "eyes", 0, -0.5, 0.5),
    ("gaze sideways", "eyes", 1, -0.6, 0.6),
)


class Viewer:
    """One avatar on one server. `start` returns; `run` does not."""

    def __init__(self, avatar: Avatar, motion: Motion, *, host: str = "127.0.0.1", port: int = 8080):
        self.avatar, self.motion = avatar, motion
        self.server = viser.ViserServer(host=host, port=port, verbose=False)
        self.on_server = avatar.device.type == "cuda"
        self.changed = threading.Event()
        self.changed.set()
        self.stopped = threading.Event()
        self.splats: Splats | None = None
        self.handle: viser.GaussianSplatHandle | None = None
        self._build_controls()
        self.server.scene.set_up_direction("+y")
        self.server.on_client_connect(self._place_camera)
        self.thread: threading.Thread | None = None

    def _build_controls(self) -> None:
        gui, refresh = self.server.gui, self._refresh
        frames = self.motion.frame_count
        with gui.add_folder("Motion"):
            self.follow = gui.add_checkbox("follow the motion", True)
            self.playing = gui.add_checkbox("play", False)
            self.frame = gui.add_slider("frame", 0, max(frames - 1, 1), 1, 0)
            self.speed = gui.add_slider("frames per second", 1, 60, 1, min(60, max(1, round(self.motion.fps))))
            reset = gui.add_button("reset sliders")
        with gui.add_folder("Look"):
            self.background = gui.add_rgb("background", (255, 255, 255))
        with gui.add_folder("Pose"):
            self.angles = {label: gui.add_slider(label, low, high, 0.01, 0.0) for label, _, _, low, high in ANGLES}
        self.expressions = {}
        with gui.add_folder("Expression", expand_by_default=True):
            for name in self.avatar.rig.expression_names:
                low = 0.0 if _arkit_like(name) else -3.0
                self.expressions[name] = gui.add_slider(name, low, -low or 1.0, 0.01, 0.0)
        for handle in (self.follow, self.frame, self.background, *self.angles.values(), *self.expressions.values()):
            handle.on_update(refresh)
        reset.on_click(self._reset)

    def _refresh(self, _: object) -> None:
        self.changed.set()

    def _reset(self, _: object) -> None:
        for handle in (*self.angles.values(), *self.expressions.values()):
            handle.value = 0.0
        self.changed.set()

    def _place_camera(self, client: viser.ClientHandle) -> None:
        centre = np.array(HEAD_CENTRE) * SCENE_SCALE
        client.camera.up_direction = (0.0, 1.0, 0.0)
        client.camera.position = tuple(centre + np.array([0, 0, DISTANCE * SCENE_SCALE * 0.75]))
        client.camera.look_at = tuple(centre)
        client.camera.fov = math.radians(FOV_DEGREES * 1.4)
        client.camera.on_update(self._refresh)
        self.changed.set()

    def pose(self) -> Pose:
        """The pose that the sliders ask for: added to the motion's frame, or to a head at rest."""
        if self.follow.value:
            index = min(int(self.frame.value), self.motion.frame_count - 1)
            pose = Pose.of(self.motion, self.avatar.device)[index : index + 1]
        else:
            pose = Pose.of(Motion.still(1, len(self.expressions)), self.avatar.device)
        added = torch.tensor([[handle.value for handle in self.expressions.values()]], device=self.avatar.device)
        values = {"jaw": pose.jaw.clone(), "neck": pose.neck.clone(), "eyes": pose.eyes.clone()}
        for label, joint, axis, _, _ in ANGLES:
            values[joint][..., axis] += float(self.angles[label].value)
        return dataclasses.replace(pose, expression=pose.expression + added.to(pose.expression.dtype), **values)

    @torch.no_grad()
    def update(self) -> None:
        """Poses the avatar as the controls say and shows it."""
        pose = self.pose()
        splats = self.avatar.splats(self.avatar.vertices(pose))
        if self.on_server:
            for client in self.server.get_clients().values():
                self._send_picture(client, splats, pose)
            return
        matrix = pose.head_matrix()[0]
        means = (splats.means @ matrix[:3, :3].T + matrix[:3, 3]).cpu().numpy() * SCENE_SCALE
        half = matrix[:3, :3] @ quaternion_to_matrix(splats.quaternions) * splats.scales[:, None]
        covariances = (half @ half.transpose(1, 2)).cpu().numpy() * SCENE_SCALE**2
        front = torch.eye(4, device=matrix.device)[None]
        front[0, :3, 3] = torch.tensor([0.0, 0.0, -DISTANCE], device=matrix.device)
        colours = shade(splats.harmonics, splats.means, front, self.avatar.config.sh_degree)[0].clamp(0, 1)
        self._show(means, covariances, to_bytes(colours), splats.opacities.cpu().numpy()[:, None])

    def _show(self, means: np.ndarray, covariances: np.ndarray, colours: np.ndarray, opacities: np.ndarray) -> None:
        self.server.scene.set_background_image(np.full((8, 8, 3), self.background.value, np.uint8), format="png")
        if self.handle is None:
            self.handle = self.server.scene.add_gaussian_splats(
                "/avatar", means, covariances, colours / 255.0, opacities
            )
            return
        with self.server.atomic():
            self.handle.centers = means
            self.handle.covariances = covariances

    def _send_picture(self, client: viser.ClientHandle, splats: Splats, pose: Pose) -> None:
        camera = client.camera
        height = min(MAX_SIDE, max(64, camera.image_height))
        width = min(MAX_SIDE * 2, max(64, round(height * camera.aspect)))
        rotation = quaternion_to_matrix(torch.tensor(camera.wxyz, dtype=torch.float32))
        viewmat = torch.eye(4)
        viewmat[:3, :3] = rotation.T
        viewmat[:3, 3] = -rotation.T @ torch.tensor(camera.position, dtype=torch.float32) / SCENE_SCALE
        focal = height / 2 / math.tan(camera.fov / 2)
        K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        device = self.avatar.device
        background = torch.tensor(self.background.value, device=device) / 255
        rendering = self.avatar.render(
            splats, pose, viewmat[None].to(device), K[None].to(device), width, height, background
        )
        client.scene.set_background_image(to_bytes(rendering.rgb[0].clamp(0, 1)), format="jpeg")

    def start(self) -> None:
        """Shows the avatar and follows the controls in a thread of its own."""
        self.update()
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def _loop(self) -> None:
        while not self.stopped.is_set():
            if self.playing.value:
                started = time.monotonic()
                self.frame.value = (int(self.frame.value) + 1) % self.motion.frame_count
                self.changed.clear()
                self.update()
                self.stopped.wait(max(0.0, 1 / self.speed.value - (time.monotonic() - started)))
            elif self.changed.wait(0.1):
                self.changed.clear()
                self.update()

    def stop(self) -> None:
        self.stopped.set()
        if self.thread is not None:
            self.thread.join(5)
        self.server.stop()


def _arkit_like(name: str) -> bool:
    """Named expressions run from 0 to 1; numbered principal components to either side."""
    return not any(character.isdigit() for character in name)


def check_free(host: str, port: int) -> None:
    """UserError when the address cannot be listened on."""
    if not 1 <= port <= 65535:
        raise UserError("`port`", f"{port} is no port", "use 1024 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError("`port`", f"cannot listen on {host}:{port} ({error.strerror})",
                            "choose another `port`") from None
