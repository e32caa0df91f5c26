"""The pipeline: what is read, how often, by whom, and what a sample looks like."""

import collections
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.data.pipeline import Batches, Modality, SamplingOptions, iterate, rotation
from mvp4d_jax.data.shards import Shards
from tests.data.synthetic import CONDITIONING, write_shards

ROOT = Path(__file__).resolve().parents[2]
MIXTURE = (Modality("monocular", 1, 1, 3, 6), Modality("static", 1, 4, 1, 4), Modality("multiview", 2, 3, 3, 2))
PLAIN = SamplingOptions(condition_dropout=0, clean_prefix=0, clean_views=0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return Shards.open(write_shards(tmp_path_factory.mktemp("shards") / "a"))


def make(shards, options=PLAIN, steps=64, mixture=MIXTURE, **more):
    return Batches([shards], mixture, options, CONDITIONING, steps=steps, seed=5, **more)


def test_rotation_keeps_the_shares():
    chosen = rotation([0.2, 0.3, 0.5], 1000)
    for kind, share in enumerate((0.2, 0.3, 0.5)):
        counts = np.cumsum(chosen == kind)
        assert np.abs(counts - share * np.arange(1, 1001)).max() <= 1.0


def test_each_item_once_an_epoch(shards):
    batches = make(shards)
    counts = [collections.Counter() for _ in MIXTURE]
    for step in range(len(batches)):
        kind = int(batches.kinds[step])
        counts[kind].update(dataclasses.astuple(batches.item(kind, int(number))) for number in batches[step]["sample"])
    for kind, items in enumerate(batches.items):
        read = [counts[kind][tuple(item)] for item in items.tolist()]
        assert max(read) - min(read) <= 1 and sum(read) == sum(batches.kinds == kind) * MIXTURE[kind].batch
    assert len(batches.items[0]) == 3 * 4 * 2 and len(batches.items[1]) == 3 * 3 and len(batches.items[2]) == 3 * 2


def test_shapes_and_contents(shards):
    batches = make(shards)
    for step in range(8):
        modality, batch = batches.modality(step), batches[step]
        b, v, n = modality.batch, modality.views, modality.latents
        assert batch["latents"].shape == (b, v, n, 8, 8, 24)
        assert batch["conditioning"].shape == (b, v, n, 8, 8, CONDITIONING.channels)
        assert batch["reference_latents"].shape == (b, 8, 8, 24) and batch["clean"].shape == (b, v, n)
        assert not batch["clean"].any()
        serials = batch["latents"][..., 0, 0, 0]  # which record each view came from
        for row in serials:
            assert len(np.unique(row[:, 0])) == v, "views of a sample differ"
            assert (row == row[:, :1]).all(), "frames of a view come from one record"
        assert (batch["reference_conditioning"][..., CONDITIONING.parts["reference"]] == 1).all()


def test_rays_turn_into_the_reference_camera(shards):
    """Against a plain loop over the numbers in the shards."""
    batches = make(shards, mixture=(Modality("multiview", 1, 2, 3, 1),))
    batch = batches[0]
    item = batches.item(0, int(batch["sample"][0]))
    scene = shards.scenes[item.scene]
    rays = CONDITIONING.parts["rays"]
    reference = batch["reference_latents"][0]
    stored = [shards.read(scene.shard, record)["latents"] for record in scene.image_records[0]]
    view, image = next(
        (view, image) for view in range(4) for image in range(3) if np.array_equal(stored[view][image], reference)
    )
    assert scene.frontal_angle[view, image] <= 1.05
    turn = scene.world_rotation[0, view, image]
    for place in range(2):
        serial = batch["latents"][0, place, 0, 0, 0, 0]
        records = [shards.read(scene.shard, scene.window_records[0, other, item.time]) for other in range(4)]
        stored = next(record for record in records if record["latents"][0, 0, 0, 0] == serial)
        expected = np.einsum("ij,...j->...i", turn, stored["conditioning"][..., rays].astype(np.float32))
        np.testing.assert_allclose(batch["conditioning"][0, place][..., rays], expected, atol=5e-3)
        np.testing.assert_array_equal(
            batch["conditioning"][0, place][..., : rays.start], stored["conditioning"][..., : rays.start]
        )


def test_far_expressions_take_the_photo_that_differs_most(shards):
    """Each window's reference is the photo whose face is farthest from it, as often as asked."""
    changed = Shards(shards.path, shards.manifest)
    random = np.random.default_rng(3)
    changed.scenes = [
        dataclasses.replace(
            scene,
            frontal_angle=np.zeros_like(scene.frontal_angle),
            apart_windows=random.uniform(size=(3, 2)).astype(np.float32),
        )
        for scene in shards.scenes
    ]
    mixture = (Modality("multiview", 1, 2, 3, 2),)
    for share in (0.0, 1.0):
        batches = make(changed, dataclasses.replace(PLAIN, far_expressions=share), mixture=mixture)
        farthest = []
        for step in range(24):
            for row, number in enumerate(batches[step]["sample"]):
                item = batches.item(0, int(number))
                scene = changed.scenes[item.scene]
                taken = next(
                    photo
                    for photo, (view, image) in enumerate(scene.painted)
                    if np.array_equal(
                        changed.read(scene.shard, scene.reference_records[0, view])["latents"][image],
                        batches[step]["reference_latents"][row],
                    )
                )
                distance = scene.apart_windows[scene.painted[:, 1], item.time]
                farthest.append(distance[taken] == distance.max())
        assert np.mean(farthest) == 1 if share else 0.2 < np.mean(farthest) < 0.8


def test_dropout_and_clean_frames_as_often_as_asked(shards):
    options = SamplingOptions(condition_dropout=0.25, clean_prefix=0.3, clean_views=0.3)
    batches = make(shards, options, steps=400, mixture=(Modality("multiview", 1, 3, 3, 2),))
    dropped, prefixes, views, total = 0, 0, 0, 0
    mask = CONDITIONING.parts["reference"]
    for step in range(200):
        batch = batches[step]
        for row in range(2):
            clean, maps = batch["clean"][row], batch["conditioning"][row]
            assert not clean.all()
            shown = np.broadcast_to(clean[..., None, None, None], maps[..., mask].shape)
            np.testing.assert_array_equal(maps[..., mask] == 1, shown)
            without = np.delete(maps, mask.start, axis=-1)
            if not batch["reference_latents"][row].any():
                assert not without.any() and not batch["reference_conditioning"][row].any()
                dropped += 1
            prefixes += bool(clean[:, 0].all() and not clean[:, -1].all())
            views += bool(clean.all(1).any())
            total += 1
    assert abs(dropped / total - 0.25) < 0.07
    assert abs(prefixes / total - 0.3 * 0.9) < 0.09 and abs(views / total - 0.3) < 0.08


def test_an_epochs_order_is_drawn_once(shards):
    """The order is numpy's permutation of [seed, kind, epoch, 0]; all samples of an epoch share one array."""
    batches = make(shards)
    count = len(batches.items[0])
    first = [batches.item(0, number) for number in range(count)]
    drawn = batches._orders[0, 0]
    order = np.random.default_rng([5, 0, 0, 0]).permutation(count)
    assert [(item.folder, item.scene, item.time, item.view) for item in first] == [
        tuple(batches.items[0][place]) for place in order
    ]
    batches.item(0, count)  # the next epoch; one batch of the last may still be on its way
    assert batches.item(0, 1) == first[1] and batches._orders[0, 0] is drawn
    batches.item(0, 2 * count)
    assert {key for key in batches._orders if key[0] == 0} == {(0, 1), (0, 2)}


def test_same_again_and_from_any_step(shards):
    first, second = make(shards, SamplingOptions()), make(shards, SamplingOptions())
    stream = iterate(second, 5, threads=2, buffer=2)
    for step in range(5, 12):
        ours, theirs = first[step], next(stream)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_processes_split_the_batch(shards):
    whole, low, high = make(shards), make(shards, rows={"static": [0, 3]}), make(shards, rows={"static": [1, 2]})
    step = next(step for step in range(8) if whole.modality(step).kind == "static")
    for name, value in whole[step].items():
        np.testing.assert_array_equal(low[step][name], value[[0, 3]])
        np.testing.assert_array_equal(high[step][name], value[[1, 2]])


def test_worker_processes_give_the_same_batches(shards):
    batches = make(shards)
    for ours, theirs in zip(iterate(batches, 0), iterate(batches, 0, workers=2), strict=False):
        np.testing.assert_array_equal(ours["sample"], theirs["sample"])
        np.testing.assert_array_equal(ours["latents"], theirs["latents"])
        if ours["sample"][0] > 4:
            break


READS_AHEAD = """
import numpy as np
from mvp4d_jax.data.pipeline import iterate
class Source:
    def __len__(self): return 50
    def __getitem__(self, number): return {"x": np.full(100_000, number)}
if __name__ == "__main__":
    stream = iterate(Source(), 3, workers=2)
    print([int(next(stream)["x"][0]) for _ in range(2)])
    stream.close()
"""


def test_worker_processes_leave_nothing_behind(tmp_path):
    """Batches that were read ahead and never asked for lie in shared memory; Python tells of what is left of it."""
    (tmp_path / "reads_ahead.py").write_text(READS_AHEAD)
    done = subprocess.run(
        [sys.executable, tmp_path / "reads_ahead.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3, 4]\n", "")


def test_mixtures_that_cannot_be(shards):
    with pytest.raises(UserError, match="no scene in the shards has 9 views"):
        make(shards, mixture=(Modality("multiview", 1, 9, 3, 2),))
    with pytest.raises(UserError, match=r"5 latent frames \(the most are 4, windows have 3\)"):
        make(shards, mixture=(Modality("multiview", 1, 2, 5, 2),))
    with pytest.raises(UserError, match="one view"):
        Modality("monocular", 1, 2, 3, 2)
    with pytest.raises(UserError, match="weight above 0"):
        make(shards, mixture=(Modality("static", 0, 4, 1, 2),))
