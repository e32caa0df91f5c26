"""Classifier-free guidance against its formulas."""

import jax
import numpy as np
import pytest

from mvp4d_jax.diffusion.guidance import GuidanceConfig, guide, keep_conditions

SHAPE = (2, 3, 4, 4, 5)  # [B, L, h, w, C]
MAPS = (2, 2, 3, 4, 4, 5)  # [B, V, L, h, w, Cc]


def test_guidance_and_its_rescale():
    conditional, unconditional = (jax.random.normal(jax.random.key(k), SHAPE) for k in (0, 1))
    guided = guide(conditional, unconditional, GuidanceConfig(3.0))
    np.testing.assert_allclose(guided, 3 * conditional - 2 * unconditional, atol=1e-5)
    whole = guide(conditional, unconditional, GuidanceConfig(3.0, rescale=1.0))
    np.testing.assert_allclose(whole.std(axis=(1, 2, 3, 4)), conditional.std(axis=(1, 2, 3, 4)), rtol=1e-5)
    half = guide(conditional, unconditional, GuidanceConfig(3.0, rescale=0.5))
    np.testing.assert_allclose(half, (whole + guided) / 2, atol=1e-5)


def test_guidance_interval():
    config = GuidanceConfig(2.0, interval=(0.2, 0.8))
    assert [config.active(t) for t in (0, 199, 200, 799, 800, 999)] == [False, False, True, True, False, False]
    assert not GuidanceConfig(1.0).active(500) and GuidanceConfig(2.0).active(0) and GuidanceConfig(2.0).active(999)
    with pytest.raises(ValueError, match="interval"):
        GuidanceConfig(2.0, interval=(0.8, 0.2))


def test_dropped_conditions_are_zero_but_for_the_reference_mask():
    rng = np.random.default_rng(0)
    conditions = {
        "conditioning": rng.normal(size=MAPS).astype(np.float32),
        "reference_latents": rng.normal(size=(2, 4, 4, 3)).astype(np.float32),
        "reference_conditioning": rng.normal(size=(2, 4, 4, 5)).astype(np.float32),
    }
    mask = slice(3, 4)
    for keep in ([True, False], [False, True]):
        found = keep_conditions(conditions, np.array(keep), mask)
        kept, dropped = keep.index(True), keep.index(False)
        for name, array in conditions.items():
            np.testing.assert_array_equal(found[name][kept], array[kept])
            expected = np.zeros_like(array[dropped])
            if name == "conditioning":
                expected[..., mask] = array[dropped][..., mask]
            np.testing.assert_array_equal(found[name][dropped], expected)
    jax.tree.map(np.testing.assert_array_equal, keep_conditions(conditions, True, mask), conditions)
