"""The temporal filter of views: noise falls by the kernel's norm, what moves or is covered stays as it is."""

import jax
import numpy as np
import pytest
from plates import HALF, SIZE, camera, head_of, plate
from scipy.ndimage import gaussian_filter

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.finish import Finisher, Finishing, enlarged
from mvp4d_jax.sampling.temporal_filter import KERNEL, REACH, RigView, joined, steady

INSIDE = slice(10, -10)  # off the plate's outline
KINDS = ("still", "moving")


def still(frames, expressions=None):
    motion = Motion.still(frames, 1)
    if expressions is not None:
        motion.expression[:, 0] = expressions
    return motion


def cameras(shifts):
    """One for each frame, whose picture lies so many pixels to the right."""
    parts = [camera(shift) for shift in shifts]
    return Camera(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS})


def sight_of(head, motion, views):
    vertices = np.asarray(skin(head, motion))
    raster = rasterize(
        jax.tree.map(lambda array: np.asarray(array, np.float32), views), vertices, head.faces, (SIZE, SIZE)
    )
    return RigView.of(head, views, vertices, raster)


def filtered(head, motion, views, frames):
    """Frames [F, S, S, 3] uint8, all of them filtered."""
    return steady(head, sight_of(head, motion, views), frames, 0, len(frames))


def as_bytes(values):
    return np.rint(255 * values).clip(0, 255).astype(np.uint8)


def test_noise_of_a_still_head_falls_by_the_kernels_norm():
    noise = 0.03 * np.random.default_rng(0).normal(size=(12, SIZE, SIZE, 3))
    found = filtered(head_of(plate(HALF, 0.0)), still(12), camera(), as_bytes(0.5 + noise))[REACH:-REACH] / 255
    falls = np.sqrt(np.square(KERNEL).sum()) / np.sum(KERNEL)
    assert found[:, INSIDE, INSIDE].std() / noise.std() == pytest.approx(falls, rel=0.06)


def test_two_frames_that_differ_in_turn_become_alike():
    turns = 0.5 + 0.03 * (-1.0) ** np.arange(10)
    found = filtered(
        head_of(plate(HALF, 0.0)),
        still(10),
        camera(),
        as_bytes(np.ones((10, SIZE, SIZE, 3)) * turns[:, None, None, None]),
    )
    assert np.abs(found[REACH:-REACH, INSIDE, INSIDE] / 255 - 0.5).max() < 1.5 / 255


def test_a_moving_texture_stays_sharp():
    shifts, (row, column) = 1.3 * np.arange(7) - 4, np.mgrid[:SIZE, :SIZE] + 0.5
    waves = [0.5 + 0.2 * np.sin(2 * np.pi * (column - shift) / 6.5) * np.cos(2 * np.pi * row / 8) for shift in shifts]
    frames = as_bytes(np.stack(waves)[..., None].repeat(3, -1))
    found = filtered(head_of(plate(HALF, 0.0)), still(7), cameras(shifts), frames)
    np.testing.assert_allclose(found[:, INSIDE, 16:-16].astype(int), frames[:, INSIDE, 16:-16].astype(int), atol=3)


def test_what_lies_beside_the_rig_moves_with_it():
    shifts, column = 1.5 * np.arange(5) - 3, np.mgrid[:SIZE, :SIZE][1] + 0.5
    waves = [0.5 + 0.2 * np.sin(2 * np.pi * (column - shift) / 9) for shift in shifts]
    frames = as_bytes(np.stack(waves)[..., None].repeat(3, -1))
    head = head_of(plate(HALF / 4, 0.0))  # the middle 14 pixels
    found = filtered(head, still(5), cameras(shifts), frames)
    np.testing.assert_allclose(found[:, 8:-8, 12:-12].astype(int), frames[:, 8:-8, 12:-12].astype(int), atol=3)


def test_covered_skin_is_not_mixed_with_what_covers_it():
    back, front = plate(HALF, 0.0), plate(HALF / 3, 0.02)
    aside = np.concatenate([np.zeros_like(back[0]), np.zeros_like(front[0]) + [1.0, 0, 0]])
    head = head_of(back, front, offsets=aside, parts=("skin", "lid"))
    colours = np.full((2, SIZE, SIZE, 3), 0.5)
    colours[0, 26:-26, 26:-26] = 0.53  # alike in colour: only the rig tells
    found = filtered(head, still(2, [0.0, 1.0]), camera(), as_bytes(colours))
    np.testing.assert_array_equal(found[1, 30:-30, 30:-30], as_bytes(colours)[1, 30:-30, 30:-30])
    np.testing.assert_array_equal(found[0, 30:-30, 30:-30], as_bytes(colours)[0, 30:-30, 30:-30])


def test_a_change_of_colour_at_large_stays():
    colours = np.full((3, SIZE, SIZE, 3), 0.2)
    colours[1] = 0.8
    frames = as_bytes(colours)
    found = filtered(head_of(plate(HALF, 0.0)), still(3), camera(), frames)
    np.testing.assert_array_equal(found[:, INSIDE, INSIDE], frames[:, INSIDE, INSIDE])


def test_the_step_between_two_windows_is_spread_over_four_frames_on_either_side():
    head, frames = head_of(plate(HALF, 0.0)), np.full((14, SIZE, SIZE, 3), 100, np.uint8)
    frames[7:] = 116
    found = joined(head, sight_of(head, still(14), camera()), frames, [7])
    ramp = [100, 100, 100, 102, 104, 106, 108, 108, 110, 112, 114, 116, 116, 116]
    np.testing.assert_array_equal(
        found[:, INSIDE, INSIDE, 0], np.broadcast_to(np.array(ramp)[:, None, None], (14, 44, 44))
    )
    same = joined(head, sight_of(head, still(14), camera()), frames, [])
    np.testing.assert_array_equal(same, frames)


def test_the_step_between_two_windows_moves_with_the_head():
    """Of a moving texture that is as much brighter in the later window the texture stays, and the step goes."""
    shifts, (row, column) = 1.3 * np.arange(9) - 5, np.mgrid[:SIZE, :SIZE] + 0.5
    waves = [0.5 + 0.1 * np.sin(2 * np.pi * (column - shift) / 16) * np.cos(2 * np.pi * row / 16) for shift in shifts]
    truth = np.stack(waves)[..., None].repeat(3, -1)
    brighter = np.clip((np.abs(column - 32)[None] - shifts[:, None, None]) / 8, -1, 1)[..., None] * 0.04  # a part of it
    frames = as_bytes(truth + brighter * (np.arange(9) >= 5)[:, None, None, None])
    head = head_of(plate(HALF, 0.0))
    found = joined(head, sight_of(head, still(9), cameras(shifts)), frames, [5]) / 255 - truth
    before, after = found[4, INSIDE, 16:-16], found[5, INSIDE, 16:-16]
    shift = np.rint(shifts[5] - shifts[4]).astype(int)
    assert np.abs(after[:, shift:] - before[:, :-shift]).max() < 0.25 * 0.04
    assert np.abs(found[:1, INSIDE, 16:-16]).max() < 1.5 / 255  # five frames away


def test_what_opens_at_once_is_no_step():
    head, frames = head_of(plate(HALF, 0.0)), np.full((10, SIZE, SIZE, 3), 100, np.uint8)
    frames[5:, 28:-28, 28:-28] = 220
    found = joined(head, sight_of(head, still(10), camera()), frames, [5])
    np.testing.assert_array_equal(found[:, INSIDE, INSIDE], frames[:, INSIDE, INSIDE])


def test_a_long_view_is_filtered_alike_whole_and_in_parts():
    noise = np.random.default_rng(1).normal(size=(37, SIZE, SIZE, 3))
    frames, head = as_bytes(0.5 + 0.05 * gaussian_filter(noise, (0, 1, 1, 0))), head_of(plate(HALF, 0.0))
    shifts = np.linspace(-4, 4, 37)
    views = Camera(**{name: getattr(cameras(shifts), name)[None] for name in FIELDS})
    seams = [9, 17, 25, 33]
    finisher = Finisher(Finishing(temporal_filter=True), head, still(37), views, SIZE, None, 1.0, seams)
    found = np.stack([picture for picture, _ in finisher.view(0, frames)])
    whole = joined(head, sight_of(head, still(37), cameras(shifts)), frames, seams)
    assert (whole != frames)[5:37].any((1, 2, 3)).all()
    np.testing.assert_array_equal(found, filtered(head, still(37), cameras(shifts), whole))


def test_enlarged_views_are_the_filtered_ones_larger():
    frames, head = (
        as_bytes(0.5 + 0.1 * np.random.default_rng(2).normal(size=(5, SIZE, SIZE, 3))),
        head_of(plate(HALF, 0.0)),
    )
    views = Camera(**{name: getattr(camera(), name)[None] for name in FIELDS})
    finisher = Finisher(Finishing(temporal_filter=True, enlarge=2), head, still(5), views, SIZE, None, 1.0)
    found = np.stack([picture for picture, _ in finisher.view(0, frames)])
    np.testing.assert_array_equal(found, enlarged(filtered(head, still(5), camera(), frames), 2 * SIZE))


def test_a_view_without_anybody_stays_as_it_is():
    frames = np.full((3, SIZE, SIZE, 3), 255, np.uint8)
    away = camera(1000.0)
    np.testing.assert_array_equal(filtered(head_of(plate(HALF, 0.0)), still(3), away, frames), frames)
