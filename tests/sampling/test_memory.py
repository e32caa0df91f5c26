"""What `--plan` says of memory, against what XLA says of the compiled programs; many views fit a small card."""

import dataclasses

import jax
import pytest

from mvp4d_jax.devices import GIB, GPUS
from mvp4d_jax.preflight.preflight import Topology, preflight
from mvp4d_jax.sampling import memory
from mvp4d_jax.sampling.plan import make_plan
from mvp4d_jax.training.config import load_config
from mvp4d_jax.training.plan import resolve

VIEWS = 48  # of 49 frames, 512 x 512 pixels: 13 latent frames of 64 x 64
# Parameters of the transformer's kernels, in bfloat16, of its biases and norms, in float32, and of the one kernel that
# is whole on every device; bytes of the transformer, and of the autoencoder, in float32.
KERNELS, SMALL, WHOLE = 1_507_938_304, 1_118_528, 512 * 512
WEIGHTS = (2 * KERNELS + 4 * SMALL, 4 * 215_583_907)


@pytest.fixture(scope="module")
def needs():
    plan = make_plan(views=VIEWS, frames=49, latent_size=(64, 64), trained_views=8, window_frames=49)
    model = resolve(load_config("mvp4d_2b", []))
    return memory.needs(plan, model.transformer, model.autoencoder, WEIGHTS[1], (1, 1, 1), "bfloat16")


def test_48_views_at_2b_fit_a_card_of_24_gb(needs):
    """Nothing has to stay on the host: latents and maps of 48 views take 1.5 GiB."""
    latent, maps = (VIEWS * 13 * 64 * 64 * channels * 4 for channels in (16, 56))
    assert needs.views == 5 * latent + maps
    assert needs.views < 1.5 * GIB
    limit = GPUS["rtx4090"].gib * GIB
    reports = preflight("mvp4d_2b", [], Topology.parse("rtx4090:1"), "sample", sampling={"views": VIEWS})
    for report, ours in zip(reports, (needs.denoising, needs.decoding)):
        assert report["fits"] and report["limit"] == limit
        assert ours < limit
    # The CPU's compiler, which stands in for the GPU's, keeps many of bfloat16's activations as float32.
    assert needs.sequence < reports[0]["temporaries"] < 2.5 * needs.sequence
    assert 0.7 * needs.chunk < reports[1]["temporaries"] < needs.chunk
    # What the step is given: the transformer, the sampler's two sets of latents, the clean ones, the maps.
    assert reports[0]["arguments"] == pytest.approx(WEIGHTS[0] + 3 * latent + maps, rel=0.002)
    assert sum(report["resident"] for report in reports) > WEIGHTS[0]


def test_what_each_device_holds_shrinks_with_the_mesh(needs):
    plan = make_plan(views=VIEWS, frames=49, latent_size=(64, 64), trained_views=8, window_frames=49)
    model = resolve(load_config("mvp4d_2b", []))
    eight = memory.needs(plan, model.transformer, model.autoencoder, WEIGHTS[1], (1, 1, 8), "bfloat16")
    assert eight.views == needs.views and eight.chunk == needs.chunk
    two = memory.needs(plan, model.transformer, model.autoencoder, WEIGHTS[1], (1, 1, 8), "bfloat16", decoded=2)
    assert two.chunk == 2 * eight.chunk and two.denoising == eight.denoising
    # An eighth of the tokens, and the keys and values of all.
    padded = memory.needs(plan, model.transformer, model.autoencoder, WEIGHTS[1], (1, 1, 8), "bfloat16", lanes=128)
    assert padded.views == VIEWS * 13 * 64 * 64 * 128 * 6 * 4
    assert eight.sequence == needs.sequence / 8 + 2 * 2 * 107_520 * 1920


# Mesh -> parameters of kernels that it does not split, beside the whole one. 256 divides the hidden width of 7,680 and
# the timestep's of 512, but not 1,920: attention's kernels and those of patches stay whole.
SPLIT = {
    (1, 1, 1): KERNELS - WHOLE,
    (8, 1, 1): KERNELS - WHOLE,
    (1, 2, 4): 0,
    (1, 8, 8): 0,
    (8, 8, 8): 0,
    (1, 8, 32): 0,
    (1, 8, 64): 0,
    (1, 1, 256): 30 * 4 * 1920**2 + (64 + 224 + 64) * 1920,
}


@pytest.mark.parametrize("mesh", SPLIT, ids=str)
def test_weights_on_each_device_are_counted_in_their_real_parts(mesh):
    model = resolve(load_config("mvp4d_2b", []))
    plan = make_plan(views=8, frames=49, latent_size=(64, 64), trained_views=8, window_frames=49)
    found = memory.needs(plan, model.transformer, model.autoencoder, WEIGHTS[1], mesh, "bfloat16")
    split = KERNELS - WHOLE - SPLIT[mesh]
    parts = mesh[1] * mesh[2]
    assert found.transformer == WEIGHTS[0] and found.autoencoder == WEIGHTS[1]
    assert found.weights - WEIGHTS[1] == 2 * (split / parts + SPLIT[mesh] + WHOLE) + 4 * SMALL


def test_the_table_adds_up_in_one_unit():
    """Every row's number against the others' and against the weights' sizes."""
    plan = make_plan(views=VIEWS, frames=49, latent_size=(64, 64), trained_views=8, window_frames=49)
    small = dataclasses.replace(plan, views=1, group_size=1, latent_size=(8, 8))
    model = resolve(load_config("mvp4d_2b", []))
    narrow = dataclasses.replace(model.transformer, num_layers=1, num_heads=2)
    for shapes, transformer, coder, unit, name in (
        (plan, model.transformer, WEIGHTS[1], GIB, "GiB"),
        (small, narrow, 2**23, 2**20, "MiB"),
    ):
        found = memory.needs(shapes, transformer, model.autoencoder, coder, (2, 2, 4), "bfloat16")
        head, *rows = memory.say_needs(found).splitlines()
        assert head.endswith(name)
        held, views, sequence, chunk, denoising, decoding = (float(row.split()[0].replace(",", "")) for row in rows)
        assert held == pytest.approx(found.weights / unit, abs=0.006)
        assert f"weights: {(found.transformer + coder) / unit:.2f} in all" in rows[0]
        part = (found.weights - coder) / unit
        assert f"(transformer {found.transformer / unit:.2f}, {part:.2f} of it on each device, autoencoder" in rows[0]
        assert denoising == pytest.approx(held + views + sequence, abs=0.03)
        assert decoding == pytest.approx(held + chunk, abs=0.02)


def test_a_device_that_is_too_small_is_named(needs, monkeypatch):
    assert "more than" not in memory.say_needs(needs)  # a host: its memory is not told

    class Small:
        device_kind = "TPU v5 lite"

    monkeypatch.setattr(jax, "devices", lambda: [Small()])
    assert "more than" not in memory.say_needs(needs)
    in_float32 = dataclasses.replace(needs, weights=needs.weights + WEIGHTS[0], chunk=2 * needs.chunk)
    assert "more than a v5e has (15.75 GiB)" in memory.say_needs(in_float32)
