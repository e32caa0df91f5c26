"""The built-in head between processes: the same bits built and read, whatever state the user's cache is in."""

import dataclasses

import numpy as np
import pytest

from mvp4d.core.heads import builtin, load_head
from mvp4d.core.heads.builtin.assembly import assemble
from mvp4d.core.heads.model import HeadModel


@pytest.fixture(scope="module")
def head():
    return load_head("builtin")


def same(one, other):
    """Whether two heads agree in every bit, type and layout."""
    for field in dataclasses.fields(HeadModel):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if type(a) is not type(b):
            return False
        if not isinstance(a, np.ndarray):
            if a != b:
                return False
        elif (a.dtype, a.strides) != (b.dtype, b.strides) or not np.array_equal(a, b):
            return False
    return True


def test_same_head_twice(head):
    """What a process builds, and what it takes from the cache."""
    assemble.cache_clear()
    assert same(head, builtin._build())


@pytest.fixture
def kept(monkeypatch, tmp_path, head):
    """A cache of its own; how often the head was built; and what the next process would get."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = []
    monkeypatch.setattr(builtin, "_build", lambda: built.append(head) or head)

    def following():
        builtin.build_builtin_head.cache_clear()
        return builtin.build_builtin_head()

    yield tmp_path / "mvp4d" / "heads", built, following
    builtin.build_builtin_head.cache_clear()


def test_the_next_process_takes_the_head_from_the_cache(kept, head):
    folder, built, following = kept
    assert same(following(), following()) and len(built) == 1 and following() is not head
    assert len(list(folder.iterdir())) == 1


DAMAGE = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:-1000],
    "one byte": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_head_is_built_again(kept, head, damage):
    folder, built, following = kept
    following()
    path = next(folder.iterdir())
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert same(following(), head) and len(built) == 2
    assert same(following(), head) and len(built) == 2 and list(folder.iterdir()) == [path]


def test_other_code_makes_another_head(kept, monkeypatch):
    """A newer numpy computes anew; of heads of earlier versions the newest few stay."""
    folder, built, following = kept
    for version in range(builtin.KEPT + 2):
        monkeypatch.setattr(builtin.np, "__version__", f"9.{version}")
        following()
    assert len(built) == builtin.KEPT + 2 and len(list(folder.iterdir())) == builtin.KEPT


def test_a_cache_that_cannot_be_written_is_done_without(kept, head):
    folder, built, following = kept
    folder.parent.write_text("mine")
    assert same(following(), head) and len(built) == 1 and folder.parent.read_text() == "mine"
