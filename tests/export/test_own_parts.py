"""A fit with a photo of the built-in head: eyes and what lips and lids hide are the head's own, all else may grow."""

import numpy as np
import pytest
import torch
from export_world import look_at, save_capture, small_config
from test_hidden import avatar as skin_and_eyes  # noqa: F401, a fixture

from mvp4d.core.cameras.camera import make_camera
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.model import EYES, INTERIOR
from mvp4d.core.heads.motion import Motion
from mvp4d_export.avatar import GAUSSIAN_TENSORS, AvatarConfig
from mvp4d_export.cameras import camera_matrices
from mvp4d_export.dataset import Dataset
from mvp4d_export.densify import DensifyConfig
from mvp4d_export.distill import Distiller
from mvp4d_export.photos import Photos
from mvp4d_export.presets import PhotoConfig
from mvp4d_export.rig import Pose
from mvp4d_export.visibility import gaussians_of

VIEWS, SIDE, PHOTO_SIDE = 4, 64, 128
MOST = 25_000  # Gaussians


@pytest.fixture(scope="module")
def fit(skin_and_eyes, tmp_path_factory) -> Distiller:  # noqa: F811
    """Four views of two frames, the mouth shut and open, and a photo of the first."""
    avatar = skin_and_eyes
    names = avatar.rig.expression_names
    expression = np.zeros((2, len(names)), np.float32)
    expression[1, names.index("jawOpen")] = 0.8
    none = np.zeros((2, 3), np.float32)
    motion = Motion(expression, none, none, none, none, np.zeros((2, 2, 3), np.float32), 24.0)
    extrinsics = np.stack([look_at(2 * np.pi * view / VIEWS, 0.05) for view in range(VIEWS)])

    def film(side: int, views: int) -> tuple[torch.Tensor, torch.Tensor]:
        focal = np.full(views, side * 1.6)
        camera = make_camera(extrinsics[:views], focal, focal, np.full(views, side / 2), np.full(views, side / 2))
        viewmats, Ks = (torch.from_numpy(np.asarray(value, np.float32)) for value in camera_matrices(camera))
        drawn = []
        for frame in range(2):
            pose = Pose.of(motion)[frame : frame + 1]
            splats = avatar.splats(avatar.vertices(pose))
            drawn.append(avatar.render(splats, pose, viewmats, Ks, side, side, torch.ones(3)))
        return torch.stack([one.rgb for one in drawn], 1), torch.stack([one.alpha for one in drawn], 1)

    with torch.no_grad():
        views, (photo, alpha) = film(SIDE, VIEWS), film(PHOTO_SIDE, 1)
    folder = tmp_path_factory.mktemp("own") / "capture"
    folder.mkdir()
    focal = np.full(VIEWS, SIDE * 1.6)
    capture = Capture.open(save_capture(folder, *views, extrinsics, focal, motion, avatar.head))
    straight = (photo[0, 0] - 1 + alpha[0, 0, ..., None]) / alpha[0, 0, ..., None].clamp(min=1e-3)
    values = torch.cat((straight, alpha[0, 0, ..., None]), -1).clamp(0, 1)
    half = np.full(1, PHOTO_SIDE / 2)
    camera = make_camera(extrinsics[:1], *(np.full(1, PHOTO_SIDE * 1.6),) * 2, half, half)
    portrait = Portrait(((values * 255).round().byte().numpy(),), camera, motion[:1], capture.head)
    config = small_config(
        avatar=AvatarConfig(144, 0, antialiased=True),
        steps=5,
        start_gaussians=3000,
        max_gaussians=MOST,
        photos=PhotoConfig(side=PHOTO_SIDE, start_gaussians=1000),
        densify=DensifyConfig(rounds=2, start=0.2, stop=0.8, gradient=0.0, grow_share=1.0),
    )
    return Distiller(Dataset.load(capture), config, photos=Photos.load(portrait, PHOTO_SIDE))


def test_the_heads_own_is_known_to_the_finest_pixel(fit):
    photos = fit.photos
    own = {words: int((photos.fixed & gaussians_of(fit.avatar, words)).sum()) for words in (INTERIOR, EYES)}
    assert own[INTERIOR] > 1000 and own[EYES] == int(gaussians_of(fit.avatar, EYES).sum()) > 1000  # a photo shows them
    assert torch.equal(photos.pitch[photos.fixed], torch.full((int(photos.fixed.sum()),), fit.avatar.config.pitch))


def test_only_an_open_mouth_takes_its_place_in_views(fit):
    white = torch.ones(2, SIDE, SIDE, 3)
    for frame, most in ((0, 0.001), (1, 1.0)):
        pictures, mouths = fit.photos.with_own_mouths(white, frame, [0, 2])
        front, back = mouths.mean((1, 2)).tolist()
        assert back == 0 and (front < most if not frame else front > 0.003)
        assert float(pictures[1].min()) == 1
        assert not frame or float(pictures[0][mouths[0] > 0.9].mean()) < 0.5  # dark


def test_the_heads_own_learns_nothing_and_the_rest_grows(fit, monkeypatch):
    before = {name: getattr(fit.avatar, name).detach()[fit.photos.fixed].clone() for name in GAUSSIAN_TENSORS}
    others = fit.avatar.position.detach()[~fit.photos.fixed].clone()
    assert len(before["position"]) > 1000 and fit.avatar.gaussian_count < MOST
    added, apply = [], fit._apply
    monkeypatch.setattr(fit, "_apply", lambda change: (added.append(len(change.binding)), apply(change)))
    for _ in range(fit.config.steps):
        fit.train_step()
    fixed = fit.photos.fixed
    for name, value in before.items():
        assert torch.equal(getattr(fit.avatar, name).detach()[fixed], value)
    assert sum(added) > 500 and fit.avatar.gaussian_count <= MOST
    assert not torch.equal(fit.avatar.position.detach()[~fixed][:100], others[:100])
