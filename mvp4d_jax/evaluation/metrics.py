"""Image measures. Pictures are float arrays in [0, 1], [..., H, W, 3]; numpy on the host."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5  # an 11 x 11 window, as in Wang et al. 2004


def psnr(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB over the last three axes; equal pictures give infinity."""
    error = np.mean(np.square(np.asarray(image, np.float64) - np.asarray(truth, np.float64)), axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def ssim(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity over the last three axes: Gaussian window, sigma 1.5, 11 x 11, mean of the three channels.

    Wang et al. 2004 with K1 = 0.01, K2 = 0.03, population covariance; borders of 5 pixels are left out of the mean, so
    that the value equals scikit-image's `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`.
    """
    x, y = np.asarray(image, np.float64), np.asarray(truth, np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    ratio = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    return ratio[..., inside, inside, :].mean(axis=(-3, -2, -1))


def _blur(values: np.ndarray) -> np.ndarray:
    offsets = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    kernel /= kernel.sum()
    return correlate1d(correlate1d(values, kernel, axis=-3), kernel, axis=-2)


def flicker(frames: np.ndarray, truth: np.ndarray | None = None) -> float:
    """Temporal flicker: the mean absolute second difference in time, [F, H, W, 3] -> a number in 1/255 units.

    Smooth motion nearly cancels in the second difference, frame-to-frame shimmer does not. With `truth`, the second
    difference of the residual is taken, so that true motion cancels altogether.
    """
    if len(frames) < 3:
        return float("nan")
    signal = np.asarray(frames, np.float64) - (0 if truth is None else np.asarray(truth, np.float64))
    return float(255 * np.mean(np.abs(signal[2:] - 2 * signal[1:-1] + signal[:-2])))


def seam_ratio(frames: np.ndarray, seams: list[int]) -> float:
    """How much larger the step across window seams is than inside windows, [F, H, W, 3].

    `seams` are the first frames of later windows; the ratio of mean absolute frame differences, 1 where no seam shows.
    """
    steps = np.abs(np.diff(np.asarray(frames, np.float64), axis=0)).mean(axis=(1, 2, 3))
    across = np.zeros(len(steps), bool)
    across[[seam - 1 for seam in seams]] = True
    return float(steps[across].mean() / max(steps[~across].mean(), 1e-12))


DETAIL_BAND = (0.18, 0.48)  # cycles a pixel: finer than a blur leaves, coarser than the pixel grid


def detail_ratio(frames: np.ndarray, truth: np.ndarray, band: tuple[float, float] = DETAIL_BAND) -> float:
    """Amplitude of fine detail over the truth's, [..., H, W, 3] each: below 1 blurred, above 1 grainy.

    Root mean square of luma's (Rec. 709) spectrum within a ring of spatial frequencies, under a Hann window, over all
    frames.
    """
    return float(np.sqrt(_band_power(frames, band) / max(_band_power(truth, band), 1e-20)))


def _band_power(frames: np.ndarray, band: tuple[float, float]) -> float:
    luma = np.asarray(frames, np.float64) @ np.array([0.2126, 0.7152, 0.0722])  # [..., H, W]
    height, width = luma.shape[-2:]
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    luma = (luma - luma.mean(axis=(-2, -1), keepdims=True)) * window
    power = np.abs(np.fft.rfft2(luma)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    return float(power[..., (radius >= band[0]) & (radius < band[1])].mean())
