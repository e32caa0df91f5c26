"""SSIM and PSNR against scikit-image, LPIPS against the JAX half's."""

import numpy as np
import torch
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mvp4d_export.losses import Lpips, both_ssims, psnr, ssim


def pair(size=40):
    rng = np.random.default_rng(0)
    x = rng.random((2, size, size + 3, 3))
    return x, np.clip(x + rng.normal(0, 0.15, x.shape), 0, 1)


def test_ssim_and_psnr_equal_scikit_image():
    x, y = pair()
    ours, decibels = ssim(torch.from_numpy(x), torch.from_numpy(y)), psnr(torch.from_numpy(x), torch.from_numpy(y))
    for index in range(2):
        expected = structural_similarity(
            x[index],
            y[index],
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert abs(float(ours[index]) - expected) < 1e-9
        assert abs(float(decibels[index]) - peak_signal_noise_ratio(x[index], y[index], data_range=1.0)) < 1e-9


def test_multi_scale_ssim_orders_damage():
    x, y = (torch.from_numpy(value) for value in pair(64))
    assert float(both_ssims(x, x)[1].min()) > 0.999999
    half = (x + y) / 2
    assert (both_ssims(x, half)[1] > both_ssims(x, y)[1]).all()
    small = x[:, :12, :12], y[:, :12, :12]
    for either in both_ssims(*small):  # one scale only: equal to SSIM
        torch.testing.assert_close(either, ssim(*small))


def test_lpips_equals_the_jax_halfs(tmp_path):
    """Random weights in the documented file layout; both halves must read them alike."""
    from mvp4d_jax.evaluation.lpips import load_weights, lpips

    rng = np.random.default_rng(0)
    weights, inputs = {}, 3
    for stage, (width, indices) in enumerate(
        zip((64, 128, 256, 512, 512), ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)))
    ):
        for index in indices:
            scale = (2 / (9 * inputs)) ** 0.5
            weights[f"features.{index}.weight"] = rng.normal(0, scale, (width, inputs, 3, 3)).astype(np.float32)
            weights[f"features.{index}.bias"] = rng.normal(0, 0.1, width).astype(np.float32)
            inputs = width
        weights[f"lin{stage}.model.1.weight"] = rng.random((1, width, 1, 1)).astype(np.float32)
    save_file(weights, tmp_path / "vgg.safetensors")
    x, y = (value.astype(np.float32)[:1, :32, :32] for value in pair())
    expected = np.asarray(lpips(load_weights(tmp_path / "vgg.safetensors"), x, y))
    ours = Lpips(tmp_path / "vgg.safetensors")(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-3)
