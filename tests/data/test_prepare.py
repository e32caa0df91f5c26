"""Captures to shards: what a record holds, sharing and restarting the work, refusals."""

import csv
import dataclasses
import fcntl
import json
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.capture import Capture, CaptureWriter
from mvp4d.core.errors import UserError
from mvp4d.core.shares import SomeFailed
from mvp4d.validation import validate
from mvp4d_jax.data.encode import stable_number
from mvp4d_jax.data.options import PrepareOptions
from mvp4d_jax.data.photos import degrade, disturb_head, disturb_pose
from mvp4d_jax.data.prepare import describe, prepare
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.geometry.conditioning import ConditioningConfig, draw_conditioning
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.small.painting import paint_video, vertex_colours
from mvp4d_jax.small.recolour import draw_palettes
from tests.capture.toy import make_cameras, make_motion, make_rig

SIZE, VIEWS, FRAMES = 32, 2, 7
CONDITIONING = ConditioningConfig()
OPTIONS = PrepareOptions(image_size=SIZE, frames=5, stride=2, images=2, crop="none", captures_per_shard=1)


def write_toy(path, name: str = "toy", frames: int = FRAMES):
    cameras = make_cameras(VIEWS)
    scale = SIZE / 12
    cameras = Camera(cameras.world_to_camera, *(getattr(cameras, name) * scale for name in FIELDS[1:]))
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (VIEWS, frames, SIZE, SIZE, 3), dtype=np.uint8)
    with CaptureWriter(
        path,
        head=make_rig(name),
        motion=make_motion(frames),
        cameras=cameras,
        names=("left", "right"),
        image_size=(SIZE, SIZE),
        masks=False,
    ) as writer:
        for view in range(VIEWS):
            for frame in range(frames):
                writer.add(view, frame, pixels[view, frame])
    return path


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures")
    return [write_toy(folder / name) for name in ("a", "bb", "ccc")]


@pytest.fixture(scope="module")
def autoencoder():
    config = AutoencoderConfig(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.25
    )
    graph, state = nnx.split(nnx.eval_shape(lambda: VideoAutoencoder(config, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), leaf.dtype), state)
    return nnx.merge(graph, state)


@pytest.fixture(scope="module")
def shards(captures, autoencoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "shards"
    prepare(captures, out, OPTIONS, autoencoder, CONDITIONING, identity="abc")
    return Shards.open(out)


def test_manifest(shards):
    assert shards.manifest["latent_scale"] == 1.25 and shards.manifest["head"] == "toy"
    assert shards.manifest["autoencoder"] == "abc" and shards.manifest["latents"] == 2
    assert [scene.window_starts for scene in shards.scenes] == [(0, 2)] * 3
    assert shards.scenes[0].image_frames == (0, 6) and len(shards.manifest["files"]) == 3


def test_records_hold_scaled_latents_and_maps(shards, captures, autoencoder):
    """Against the autoencoder and the drawing called by hand, with the reference's axes put in afterwards."""
    capture, scene = Capture.open(captures[1]), shards.scenes[1]
    record = shards.read(scene.shard, scene.window_records[0, 1, 1])
    video = jnp.asarray(capture.frames("right", slice(2, 7)), jnp.float32)[None] / 127.5 - 1
    mean = jnp.split(autoencoder.encode(video), 2, axis=-1)[0][0]
    np.testing.assert_allclose(record["latents"], 1.25 * mean, atol=5e-3)
    reference = capture.camera(0, 0)
    cameras = Camera(*(np.asarray(getattr(capture.cameras, name))[1:2] for name in FIELDS))
    expected = draw_conditioning(capture.head, capture.motion[2:7], cameras, (SIZE, SIZE), CONDITIONING, reference)[0]
    rays = CONDITIONING.parts["rays"]
    ours = record["conditioning"].astype(np.float32)
    ours[..., rays] = ours[..., rays] @ reference.world_to_camera[:3, :3].T
    np.testing.assert_allclose(ours, expected, atol=5e-3)
    np.testing.assert_allclose(scene.world_rotation[0, 0, 0], reference.world_to_camera[:3, :3], atol=1e-6)


def test_frontal_angles(shards, captures):
    """The angle between the face's axis and the camera's direction, with scipy's rotations."""
    from scipy.spatial.transform import Rotation

    capture = Capture.open(captures[0])
    for place, frame in enumerate(shards.scenes[0].image_frames):
        turn = Rotation.from_rotvec(capture.motion.rotation[frame]) * Rotation.from_rotvec(capture.motion.neck[frame])
        for view in range(VIEWS):
            matrix = capture.camera(view, frame).world_to_camera
            towards = -matrix[:3, :3].T @ matrix[:3, 3] - capture.motion.translation[frame]
            cosine = turn.apply([0, 0, 1]) @ towards / np.linalg.norm(towards)
            assert shards.scenes[0].frontal_angle[view, place] == pytest.approx(np.arccos(cosine), abs=1e-4)


def test_processes_share_and_a_restart_goes_on(shards, captures, autoencoder, tmp_path):
    out = tmp_path / "shards"
    first = prepare(captures, out, OPTIONS, autoencoder, CONDITIONING, identity="abc", process=(0, 2))
    assert "1 of 3 are with the other processes" in first
    with pytest.raises(UserError, match="not finished"):
        Shards.open(out)
    (out / "shard-00002.json").unlink()  # as if killed before its note was written
    (out / ".shard-00002.1234.tmp.array_record").write_bytes(b"cut")
    kept = (out / "shard-00000.array_record").stat().st_mtime_ns
    for index in (1, 0):
        prepare(captures, out, OPTIONS, autoencoder, CONDITIONING, identity="abc", process=(index, 2))
    again = Shards.open(out)
    assert (out / "shard-00000.array_record").stat().st_mtime_ns == kept, "a finished shard is not made again"
    assert again.manifest["files"] == shards.manifest["files"] and again.manifest["scenes"] == shards.manifest["scenes"]


def test_what_was_lost_or_filmed_anew_is_prepared_again(captures, autoencoder, tmp_path):
    """A record that was deleted, one that was cut short, and a capture that another took the place of."""
    mine = [write_toy(tmp_path / path.name) for path in captures]
    out = tmp_path / "shards"

    def run() -> list[bytes]:
        prepare(mine, out, OPTIONS, autoencoder, CONDITIONING, identity="abc")
        validate(out)
        return [(out / f"shard-{index:05d}.array_record").read_bytes() for index in range(3)]

    first = run()
    (out / "shard-00000.array_record").unlink()
    (out / "shard-00001.array_record").write_bytes(first[1][:1000])
    assert run() == first
    shutil.rmtree(mine[2])
    write_toy(mine[2], frames=FRAMES + 2)
    again = run()
    assert again[:2] == first[:2] and again[2] != first[2]
    assert Shards.open(out).scenes[2].window_starts == (0, 2, 4)


@pytest.mark.parametrize("crop", ["none", "reference"])
def test_a_dry_run_tells_the_size_of_this_processs_share(captures, autoencoder, tmp_path, crop):
    """Of all arrays of all records, at the compression that it takes for given."""
    options, arguments = dataclasses.replace(OPTIONS, crop=crop), (autoencoder.config, CONDITIONING, None)
    sizes, windows = [], []
    for share in ((0, 1), (0, 2), (1, 2)):
        said = describe(captures, options, *arguments, share)
        sizes.append(float(re.search(r"about (\S+) GB", said)[1]))
        windows.append(int(re.search(r"windows: (\d+)", said)[1]))
    assert windows == [12, 8, 4]
    np.testing.assert_allclose(sizes[1:], [sizes[0] * 2 / 3, sizes[0] / 3], rtol=0.01)
    prepare(captures, tmp_path / "out", options, autoencoder, CONDITIONING, identity="abc")
    shards = Shards.open(tmp_path / "out")
    arrays = [
        shards.read(file["name"], record) for file in shards.manifest["files"] for record in range(file["records"])
    ]
    assert sizes[0] * 1e9 == pytest.approx(0.6 * sum(a.nbytes for record in arrays for a in record.values()), rel=0.01)


@pytest.mark.parametrize("captures_per_shard", [1, 4])
def test_captures_that_fail_are_left_out_and_listed(shards, captures, autoencoder, tmp_path, captures_per_shard):
    """One of another head, one whose picture is damaged: the others' scenes are as they are without them."""
    bad, broken = write_toy(tmp_path / "foreign", name="other"), write_toy(tmp_path / "broken")
    (broken / "images" / "right" / "00004.png").write_bytes(b"no picture")
    given = [captures[0], bad, captures[1], broken, captures[2]]
    options = dataclasses.replace(OPTIONS, captures_per_shard=captures_per_shard)
    made = {"identity": "abc", "keep_going": True}
    failures = {}
    for index in (1, 0):
        try:
            prepare(given, tmp_path / "o", options, autoencoder, CONDITIONING, process=(index, 2), **made)
        except SomeFailed as error:
            failures[index] = str(error)
    assert failures and "failed.csv: " in failures[max(failures)]
    again = Shards.open(tmp_path / "o")
    assert [scene.name for scene in again.scenes] == [scene.name for scene in shards.scenes]
    for ours, theirs in zip(again.scenes, shards.scenes):
        for record in ours.window_records.reshape(-1):
            np.testing.assert_array_equal(
                again.read(ours.shard, int(record))["latents"],
                shards.read(theirs.shard, int(record - ours.window_records.min() + theirs.window_records.min()))[
                    "latents"
                ],
            )
    with open(tmp_path / "o" / "failed.csv", newline="") as handle:
        rows = list(csv.reader(handle))
    assert [row[0] for row in rows] == ["capture", "foreign", "broken"]
    assert "head is 'other'" in rows[1][1] and "00004.png" in rows[2][1]
    with pytest.raises(UserError, match="head is 'other'"):
        prepare(given, tmp_path / "p", options, autoencoder, CONDITIONING, identity="abc")


def test_refusals(captures, autoencoder, tmp_path):
    def attempt(paths, out="o", options=OPTIONS, **more):
        return prepare(paths, tmp_path / out, options, autoencoder, CONDITIONING, identity="abc", **more)

    with pytest.raises(UserError, match="none given"):
        attempt([])
    with pytest.raises(UserError, match="has 3 frames, windows need 5"):
        attempt([write_toy(tmp_path / "short", frames=3)])
    with pytest.raises(UserError, match="head is 'other', the first has 'toy'"):
        attempt([captures[0], write_toy(tmp_path / "foreign", name="other")])
    with pytest.raises(UserError, match="given twice"):
        attempt([captures[0], captures[0]])
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "plan.json").write_text(json.dumps({"head": "toy", "seed": 7}))
    with pytest.raises(UserError, match="begun with other settings"):
        attempt(captures[:1])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty"):
        attempt(captures[:1], out="full")
    with pytest.raises(UserError, match="1 \\+ 4k"):
        attempt(captures[:1], options=dataclasses.replace(OPTIONS, frames=6))


def between(monkeypatch, folder, name, content):
    """Another process writes a file the moment before this one lists the folder."""
    listed = type(folder).iterdir

    def list_it(path):
        if path == folder:
            (path / name).write_bytes(content)
        return listed(path)

    monkeypatch.setattr(type(folder), "iterdir", list_it)


def test_processes_that_begin_together_are_one_preparation(shards, captures, autoencoder, tmp_path, monkeypatch):
    """Share 3 of 4 has none of the three shards to do."""

    def attempt():
        return prepare(captures, tmp_path / "o", OPTIONS, autoencoder, CONDITIONING, identity="abc", process=(3, 4))

    plan = (shards.path / "plan.json").read_bytes()
    (tmp_path / "o").mkdir()
    with monkeypatch.context() as patch:
        between(patch, tmp_path / "o", "plan.json", plan)
        assert "3 of 3 are with the other processes" in attempt()
    assert (tmp_path / "o" / "plan.json").read_bytes() == plan
    # One that is still looking is waited for.
    (tmp_path / "o" / "plan.json").unlink()
    with open(tmp_path / "o" / ".plan.json.mvp4d-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def other():
            (tmp_path / "o" / "plan.json").write_text(json.dumps({**json.loads(plan), "seed": 7}))
            fcntl.flock(lock, fcntl.LOCK_UN)

        timer = threading.Timer(0.5, other)
        timer.start()
        with pytest.raises(UserError, match="begun with other settings: seed was 7, now is 0"):
            attempt()
        timer.join()


def test_colours_make_scenes_of_the_same_places_in_other_colours(shards, captures, autoencoder, tmp_path):
    options = dataclasses.replace(OPTIONS, colours=2)
    prepare(captures[:1], tmp_path / "shards", options, autoencoder, CONDITIONING, identity="abc")
    recoloured = Shards.open(tmp_path / "shards")
    first, second = recoloured.scenes
    assert second.name == first.name + "~1" and first.name == shards.scenes[0].name

    def read(opened, scene):
        return opened.read(scene.shard, scene.window_records[0, 0, 0])

    plain = read(shards, shards.scenes[0])
    own, other = read(recoloured, first), read(recoloured, second)
    np.testing.assert_array_equal(own["latents"], plain["latents"])
    np.testing.assert_array_equal(other["conditioning"], plain["conditioning"])
    assert np.abs(other["latents"].astype(np.float32) - plain["latents"]).max() > 0.05


def test_painted_photos_are_those_of_the_scene_in_its_colours(captures, autoencoder, tmp_path):
    """Against colours and maps made by hand, for a scene in other colours."""
    painted = dataclasses.replace(CONDITIONING, painted=16)
    options = dataclasses.replace(OPTIONS, colours=2, photos=2)
    prepare(captures[:1], tmp_path / "o", options, autoencoder, painted, identity="abc")
    made, capture = Shards.open(tmp_path / "o"), Capture.open(captures[0])
    scene, palette = made.scenes[1], draw_palettes(2, np.random.default_rng([0, stable_number(capture)]))[1]
    window = made.read(scene.shard, scene.window_records[0, 1, 1])
    images = made.read(scene.shard, scene.image_records[0, 1])
    assert scene.painted.shape == (2, 2) and window["conditioning"].shape[-1] == 56
    assert window["painted"].shape == (2, 2, 4, 4, 17) and images["painted"].shape == (2, 2, 4, 4, 17)
    cameras, last = Camera(*(np.asarray(getattr(capture.cameras, name))[1:2] for name in FIELDS)), FRAMES - 1
    for photo, (view, place) in enumerate(scene.painted):
        frame = scene.image_frames[place]
        picture = palette.apply(capture.frame(int(view), frame)[None, None])[0, 0] / 255
        colours = vertex_colours(
            picture, capture.camera(int(view), frame), capture.motion[slice(frame, frame + 1)], capture.head
        )[None]
        for record, frames in (
            (window["painted"][photo], slice(2, 7)),
            (images["painted"][photo, 1:], slice(last, last + 1)),
        ):
            video = paint_video(capture.head, capture.motion[frames], cameras, (SIZE, SIZE), colours)[0]
            latents = np.asarray(autoencoder.encode_latents(jnp.asarray(2 * video[..., :3] - 1)))[0]
            shares = video[0, 0, ..., 3].reshape(4, 8, 4, 8).mean((1, 3))
            np.testing.assert_allclose(record[..., :-1].astype(np.float32), latents, atol=0.05 * latents.std())
            np.testing.assert_allclose(record[0, ..., -1].astype(np.float32), shares, atol=6e-3)


def test_photos_stand_as_references_with_their_errors(captures, autoencoder, tmp_path):
    """Against the drawing called by hand with the disturbed rig, pose and camera; targets keep true pictures."""
    painted = dataclasses.replace(CONDITIONING, painted=16)
    options = dataclasses.replace(OPTIONS, photos=2, fit_error=0.02, photo_error=0.5)
    prepare(captures[:1], tmp_path / "o", options, autoencoder, painted, identity="abc")
    made, capture = Shards.open(tmp_path / "o"), Capture.open(captures[0])
    scene, number = made.scenes[0], stable_number(capture)
    assert scene.photo_records.shape == (1, 2) and scene.photo_rotation.shape == (2, 3, 3)
    head = disturb_head(capture.head, 0.02, np.random.default_rng([0, number, 2**31 + 1]))
    random = np.random.default_rng([0, number, 2**31 + 2, 0])
    rays = CONDITIONING.parts["rays"]
    for place, (view, image) in enumerate(scene.painted):
        frame = scene.image_frames[image]
        motion, camera = disturb_pose(
            capture.head, capture.motion[frame : frame + 1], capture.camera(int(view), frame), 0.02, random
        )
        degrade(np.zeros((SIZE, SIZE, 3)), np.ones((SIZE, SIZE)), 0.5, random)  # draws as many numbers as the photo's
        record = made.read(scene.shard, scene.photo_records[0, place])
        batched = Camera(*(np.asarray(getattr(camera, name))[None, None] for name in FIELDS))
        expected = np.asarray(draw_conditioning(head, motion, batched, (SIZE, SIZE), CONDITIONING, camera))[0]
        ours = record["conditioning"].astype(np.float32)
        ours[..., rays] = ours[..., rays] @ scene.photo_rotation[place].T
        np.testing.assert_allclose(ours, expected, atol=6e-3)
        assert record["latents"].shape == (1, 4, 4, 16) and record["painted"].shape == (1, 1, 4, 4, 17)
        clean = made.read(scene.shard, scene.reference_records[0, view])["latents"][image].astype(np.float32)
        assert np.abs(record["latents"][0] - clean).max() > 0.05
    window = made.read(scene.shard, scene.window_records[0, 1, 1])
    video = jnp.asarray(capture.frames("right", slice(2, 7)), jnp.float32)[None] / 127.5 - 1
    np.testing.assert_allclose(window["latents"], autoencoder.encode_latents(video)[0], atol=5e-3)
