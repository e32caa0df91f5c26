"""Compiling ahead: the run finds its programs; what is not needed any more is left."""

import threading

import jax
import pytest
from small_world import write_release, write_scene

import mvp4d
from mvp4d_jax.parallel import make_mesh
from mvp4d_jax.release import load_release
from mvp4d_jax.sampling.ahead import compiled_ahead, one_ahead
from mvp4d_jax.sampling.generate import Generator


@pytest.fixture
def compiled():
    """Names of the programs that JAX compiles (or reads from its cache), as they come."""
    names = []

    def listen(event, seconds, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_run_compiles_nothing_large_that_was_compiled_ahead(tmp_path, compiled):
    release, scene = write_release(tmp_path / "release"), write_scene(tmp_path / "truth")
    settings = {"steps": 2, "guidance": 1.5, "guidance_interval": (0.6, 1.0)}  # the first step is guided
    job = mvp4d.load(release).plan(scene, motion=scene, cameras=scene, **settings)
    generator = Generator(load_release(release), make_mesh((1, 1, 1)))
    for task in generator.compilations(job.plan, job.options):
        task()
    assert len([found for found in compiled if "_advance" in found]) == 2
    compiled.clear()
    job.run(generator, tmp_path / "sampled")
    assert len(job.plan.windows) == 2
    assert not [found for found in compiled if any(name in found for name in ("_advance", "_decode_chunk", "_normal"))]
    assert len([found for found in compiled if "encode_views" in found]) <= 1  # the reference, a single picture


def test_tasks_end_with_the_block_and_their_errors_with_them():
    begun, first, done = [], threading.Event(), threading.Event()

    def waits():
        begun.append("waits")
        first.set()
        done.wait(10)

    def fails():
        raise ValueError("no such shape")

    with compiled_ahead([waits, lambda: begun.append("too late")]):
        assert first.wait(10)
        threading.Timer(0.05, done.set).start()
    assert begun == ["waits"]
    reached = threading.Event()
    with compiled_ahead([reached.set, fails, lambda: begun.append("after an error")]):
        assert reached.wait(10)
    assert begun == ["waits"]


def test_the_next_one_is_done_while_the_last_is_used():
    begun = [threading.Event() for _ in range(3)]

    def work(item):
        begun[item].set()
        return 10 * item

    found = one_ahead(work, range(3))
    assert next(found) == 0 and begun[1].wait(10)
    assert not begun[2].is_set()
    assert list(found) == [10, 20]
    assert list(one_ahead(work, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(one_ahead(lambda item: 1 / item, [1, 0]))


def test_several_processes_compile_in_step(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with compiled_ahead([lambda: pytest.fail("compiled ahead")]):
        pass
    done = []
    for item in one_ahead(lambda item: done.append(item) or item, range(3)):
        assert done == list(range(item + 1))
