"""The weights that come along: sound, small, and what their configs describe."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from mvp4d_jax.models.convert import validate_weights
from mvp4d_jax.release import load_release, resolve_weights
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import resolve

SIZES = {"tiny": 64, "tiny_128": 128, "tiny_128_turbo": 128}


@pytest.mark.parametrize("name, size", SIZES.items())
def test_built_in_weights_are_what_their_config_describes(name, size):
    assert "MultiViewTransformer" in validate_weights(resolve_weights(name))
    release, plan = load_release(name), resolve(load_config(name))
    assert release.facts.image_size == size == plan.stages[-1].image_size
    assert release.facts.conditioning == plan.conditioning
    assert release.transformer.config == dataclasses.replace(plan.transformer, remat=release.transformer.config.remat)
    assert release.facts.latent_size == (size // 4,) * 2


def test_built_in_weights_are_small():
    folders = [resolve_weights(name) for name in SIZES]
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()) <= 16e6 * len(
        SIZES
    )


def test_built_in_weights_share_their_latents_of_single_images():
    """To a single image a kernel is the sum of its taps in time (float16: to a part in a thousand)."""
    first, second = (
        load_file(resolve_weights(name) / "vae" / "diffusion_pytorch_model.safetensors")
        for name in ("tiny", "tiny_128")
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        theirs, ours = np.float32(second[name]), np.float32(value)
        if value.ndim == 5:
            theirs, ours = theirs.sum(2), ours.sum(2)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
