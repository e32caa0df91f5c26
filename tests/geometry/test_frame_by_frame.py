"""Frames drawn one at a time: in order, from several threads, by one program whatever their number."""

import threading

import jax
import numpy as np
from test_conditioning import SIZE, ball_head, moving, rig

from mvp4d_jax.geometry.conditioning import ConditioningConfig, draw_conditioning
from mvp4d_jax.geometry.frame_by_frame import apart, draw_apart, side_by_side
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.small.painting import paint_video


def test_drawn_in_order_by_several_threads(monkeypatch):
    monkeypatch.setattr("mvp4d_jax.geometry.frame_by_frame.cpu_count", lambda: 2)
    both = threading.Barrier(2)  # passes when two threads are at it

    def draw(item):
        both.wait(10)
        return {"square": np.float32(item**2), "row": np.arange(item, item + 3)}

    drawn = draw_apart(draw, [3, 1, 2, 0])
    np.testing.assert_array_equal(drawn["square"], [9, 1, 4, 0])
    np.testing.assert_array_equal(drawn["row"], [[3, 4, 5], [1, 2, 3], [2, 3, 4], [0, 1, 2]])


def test_side_by_side_is_in_order_and_not_far_ahead():
    both, begun = threading.Barrier(2), []

    def work(item):
        begun.append(item)
        if item < 2:
            both.wait(10)  # passes when two threads are at it
        return item**2

    found = side_by_side(work, range(8), 2)
    assert next(found) == 0
    assert max(begun) <= 2  # one more than the two at a time
    assert list(found) == [1, 4, 9, 16, 25, 36, 49]
    alone = threading.get_ident()
    assert list(side_by_side(lambda item: threading.get_ident() == alone, range(3), 1)) == [True] * 3


def test_apart_outside_of_transformations_alone():
    seen = []
    assert apart(np.ones(2), {"a": None})
    for transform in (jax.jit, jax.grad, jax.vmap):
        transform(lambda x: (seen.append(apart({"x": x})), x)[1])(np.ones(2 if transform is jax.vmap else ()))
    assert seen == [False] * 3


def test_more_frames_compile_nothing():
    head, motion, views, config = ball_head(), moving(), rig(), ConditioningConfig(temporal_stride=2)
    colours = np.random.default_rng(0).uniform(size=(1, head.vertex_count, 4)).astype(np.float32)

    def draw(frames):
        part = motion[slice(0, frames)]
        return np.asarray(draw_conditioning(head, part, views, SIZE, config, views[1, 0])), paint_video(
            head, part, views, SIZE, colours
        )

    maps, painted = draw(3)
    names = []

    def listen(event, seconds, **facts):
        names.extend(facts["fun_name"] for _ in [0] if event == "/jax/core/compile/backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(listen)
    longer, longer_painted = draw(5)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert names == []
    np.testing.assert_array_equal(longer[:, :2], maps)
    np.testing.assert_array_equal(longer_painted[:, :, :3], painted)


def test_one_program_draws_the_same():
    head, motion, views, config = ball_head(), moving(), rig(), ConditioningConfig()
    apart_ = draw_conditioning(head, motion, views, SIZE, config, views[1, 0])
    together = jax.jit(lambda motion: draw_conditioning(head, motion, views, SIZE, config, views[1, 0]))(motion)
    assert isinstance(apart_, np.ndarray)
    np.testing.assert_allclose(apart_, together, atol=2e-4)
    skinned = jax.jit(lambda motion: skin(head, motion))(motion)
    np.testing.assert_allclose(skin(head, motion), skinned, atol=1e-6)
