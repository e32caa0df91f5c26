"""Measures against scikit-image, a torch LPIPS, and closed forms."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mvp4d.core.errors import UserError
from mvp4d.core.lpips_file import STAGES
from mvp4d_jax.evaluation.lpips import load_weights, lpips
from mvp4d_jax.evaluation.metrics import detail_ratio, flicker, psnr, seam_ratio, ssim


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=(2, 40, 48, 3))
    return np.clip(truth + rng.normal(scale=0.1, size=truth.shape), 0, 1), truth


def test_psnr_equals_scikit_image(pair):
    image, truth = pair
    expected = [peak_signal_noise_ratio(t, i, data_range=1) for i, t in zip(image, truth)]
    np.testing.assert_allclose(psnr(image, truth), expected, rtol=1e-12)
    assert np.isinf(psnr(truth, truth)).all()


def test_ssim_equals_scikit_image(pair):
    image, truth = pair
    expected = [
        structural_similarity(
            t, i, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for i, t in zip(image, truth)
    ]
    np.testing.assert_allclose(ssim(image, truth), expected, atol=1e-10)


def test_flicker_ignores_linear_change_and_counts_alternation():
    ramp = np.broadcast_to(np.linspace(0, 1, 8)[:, None, None, None], (8, 4, 4, 3))
    assert flicker(ramp) < 1e-9
    alternating = 0.5 + 0.1 * (-1.0) ** np.arange(8)[:, None, None, None] * np.ones((8, 4, 4, 3))
    assert flicker(alternating) == pytest.approx(255 * 0.4)
    assert flicker(ramp + alternating, ramp) == pytest.approx(255 * 0.4)


def test_seam_ratio_sees_a_jump_only_where_it_is():
    frames = np.cumsum(np.full(9, 0.01))[:, None, None, None] * np.ones((9, 4, 4, 3))
    assert seam_ratio(frames, [4]) == pytest.approx(1)
    frames = frames + 0.02 * (np.arange(9) >= 4)[:, None, None, None]
    assert seam_ratio(frames, [4]) == pytest.approx(3)


def test_detail_ratio_is_the_amplitude_of_the_band_alone():
    """Gratings of known amplitude: the ratio of amplitudes where the band holds them, nothing elsewhere."""
    column = np.arange(64)

    def grating(cycles, amplitude):  # cycles a pixel
        wave = 0.5 + amplitude * np.cos(2 * np.pi * cycles * column)
        return np.broadcast_to(wave[None, None, :, None], (2, 64, 64, 3))

    fine, coarse = grating(0.3, 0.2), grating(0.05, 0.2) - 0.5
    assert detail_ratio(fine, fine) == pytest.approx(1)
    assert detail_ratio(grating(0.3, 0.1), fine) == pytest.approx(0.5, rel=1e-6)
    assert detail_ratio(grating(0.3, 0.1) + coarse, fine + coarse) == pytest.approx(0.5, rel=1e-3)
    assert detail_ratio(coarse + 0.5, fine) < 1e-2


def _random_vgg(rng):
    channels, tensors, previous = (64, 128, 256, 512, 512), {}, 3
    for stage, indices in enumerate(STAGES):
        for index in indices:
            scale = (2 / (9 * previous)) ** 0.5
            shape = (channels[stage], previous, 3, 3)
            tensors[f"features.{index}.weight"] = rng.normal(scale=scale, size=shape).astype(np.float32)
            tensors[f"features.{index}.bias"] = rng.normal(scale=0.1, size=channels[stage]).astype(np.float32)
            previous = channels[stage]
        tensors[f"lin{stage}.model.1.weight"] = rng.uniform(size=(1, channels[stage], 1, 1)).astype(np.float32)
    return tensors


def _torch_lpips(tensors, x, y):
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((2 * torch.tensor(v, dtype=torch.float32) - 1 - shift) / scale).permute(0, 3, 1, 2) for v in (x, y))
    total = 0
    for stage, indices in enumerate(STAGES):
        if stage:
            x, y = torch.nn.functional.max_pool2d(x, 2), torch.nn.functional.max_pool2d(y, 2)
        for index in indices:
            weight, bias = (torch.tensor(tensors[f"features.{index}.{part}"]) for part in ("weight", "bias"))
            x, y = (torch.relu(torch.nn.functional.conv2d(v, weight, bias, padding=1)) for v in (x, y))
        nx, ny = (v / (v.norm(dim=1, keepdim=True) + 1e-10) for v in (x, y))
        lin = torch.tensor(tensors[f"lin{stage}.model.1.weight"])
        total = total + torch.nn.functional.conv2d((nx - ny) ** 2, lin).mean(dim=(2, 3))[:, 0]
    return total.numpy()


def test_lpips_equals_torch(tmp_path, pair):
    tensors = _random_vgg(np.random.default_rng(1))
    save_file(tensors, tmp_path / "vgg.safetensors")
    image, truth = (batch[:, :32, :32] for batch in pair)
    ours = lpips(load_weights(tmp_path / "vgg.safetensors"), image, truth)
    np.testing.assert_allclose(ours, _torch_lpips(tensors, image, truth), rtol=2e-4)


def test_lpips_weights_that_lack_a_tensor_are_refused(tmp_path):
    tensors = _random_vgg(np.random.default_rng(1))
    del tensors["lin3.model.1.weight"]
    save_file(tensors, tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match=r"lin3\.model\.1\.weight"):
        load_weights(tmp_path / "vgg.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="not a readable safetensors"):
        load_weights(tmp_path / "broken.safetensors")
