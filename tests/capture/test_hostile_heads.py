"""Damaged and hostile head files: FLAME pickles and npz, ICT-FaceKit npz. One line each; nothing is executed."""

import collections
import pickle
import shutil

import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from tests.capture.damage import WHOLE_FILE, cut, dangling_link, folder_in_place, missing, pipe_in_place
from tests.heads.flame_files import flame_arrays, write_2023

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error::RuntimeWarning:mvp4d_jax")]


@pytest.fixture(scope="session")
def small_arrays():
    return {key: np.zeros(3) for key in flame_arrays()}


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A folder with a sound FLAME pickle and npz."""
    folder = tmp_path_factory.mktemp("heads")
    arrays = flame_arrays()
    write_2023(folder / "flame2023.pkl", arrays)
    dense = {key: value.toarray() if hasattr(value, "toarray") else value for key, value in arrays.items()}
    np.savez(folder / "flame2023.npz", **{key: value for key, value in dense.items() if not isinstance(value, str)})
    return folder


def assert_refused(spec, tmp_path):
    with pytest.raises(UserError) as caught:
        load_head(spec)
    assert "\n" not in str(caught.value) and 20 < len(str(caught.value)) < 700
    assert not list(tmp_path.rglob("SENTINEL*"))


class Call:
    """Unpickles to a call of a function by its name."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def by_name(module, name, *arguments):
    """A protocol 0 pickle that calls module.name with strings: no such function needs to exist here."""
    text = b"".join(b"S'%s'\n" % item.encode() for item in arguments)
    return b"c%s\n%s\n(%stR." % (module.encode(), name.encode(), text)


def laughs():
    """Ten lists, each ten times the one before: 10^10 elements in a few hundred bytes."""
    level = ["ha"] * 10
    for _ in range(10):
        level = [level] * 10
    return {"v_template": level}


def itself():
    level = []
    level.append(level)
    return {"v_template": level}


def chumpy_tree():
    """chumpy Selects that pick from themselves: 2^40 evaluations, were each worked out anew."""
    out = [
        b"(dS'v_template'\nccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR(dS'x'\n(lF1.0\nasbp0\n"
    ]
    for index in range(40):
        out.append(
            b"ccopy_reg\n_reconstructor\n(cchumpy.reordering\nSelect\nc__builtin__\nobject\nNtR"
            b"(dS'a'\ng%dsS'idxs'\ng%dsbp%d\n" % (index, index, index + 1)
        )
    return b"".join(out) + b"s."


PICKLES = {
    **{
        f"{module}.{name}": by_name(module, name, "touch SENTINEL")
        for module, name in (
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("subprocess", "Popen"),
            ("subprocess", "getoutput"),
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("builtins", "open"),
            ("builtins", "__import__"),
            ("builtins", "getattr"),
            ("__builtin__", "eval"),
            ("shutil", "rmtree"),
            ("importlib", "import_module"),
            ("runpy", "run_path"),
            ("numpy", "load"),
            ("numpy", "save"),
            ("numpy.core.multiarray", "fromfile"),
            ("numpy.f2py", "compile"),
            ("scipy.io", "loadmat"),
            ("scipy.sparse", "load_npz"),
            ("chumpy.utils", "system"),
            ("pickle", "loads"),
            ("torch", "load"),
            ("mvp4d.core.files", "write_json"),
            ("operator", "attrgetter"),
            ("codecs", "open"),
            ("_codecs", "decode"),
            ("ctypes", "CDLL"),
            ("webbrowser", "open"),
            ("pty", "spawn"),
            ("platform", "popen"),
        )
    },
    "dots in a name": by_name("numpy", "core.multiarray.fromfile", "SENTINEL"),
    "empty": b"",
    "one byte": b"\x80",
    "text": b"solid head\nfacet",
    "half a code": b"cos\n",
    "no stop": b"(d",
    "a huge length": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x",
    "a huge index": b"\x80\x02]r\xff\xff\xff\xff.",
    "popping nothing": b"0000.",
    "memo of nothing": b"g7\n.",
    "a number": pickle.dumps(5),
    "a list": pickle.dumps([1, 2]),
    "None": pickle.dumps(None),
    "a set": pickle.dumps({"v_template": {1, 2}}),
    "an empty dict": pickle.dumps({}),
    "an ordered dict": pickle.dumps(collections.OrderedDict(v_template=1)),
    "a class": pickle.dumps({"f": UserError}),
    "laughs": pickle.dumps(laughs()),
    "itself": pickle.dumps(itself()),
    "nested 9000": b"\x80\x02}X\x0a\x00\x00\x00v_template" + b"]" * 9000 + b"a" * 8999 + b"s.",
    "chumpy tree": chumpy_tree(),
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"Pfoo\n.",
    "objects in an array": pickle.dumps({"v_template": np.array([Call(print, "x")], object)}),
    "strings in an array": pickle.dumps({"v_template": np.array(["a", "b"])}),
    "records in an array": pickle.dumps({"v_template": np.zeros(2, [("a", "f4")])}),
    "a long number": b"L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_flame_pickles(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flame2023.pkl").write_bytes(PICKLES[case])
    assert_refused(f"flame:{tmp_path / 'flame2023.pkl'}", tmp_path)


@pytest.mark.parametrize("damage", [missing, folder_in_place, pipe_in_place, dangling_link, cut(0.3), cut(0.999)])
def test_flame_pickle_files(damage, sound, tmp_path):
    path = tmp_path / "flame2023.pkl"
    shutil.copy(sound / path.name, path)
    damage(path)
    assert_refused(f"flame:{path}", tmp_path)


@pytest.mark.parametrize("case", WHOLE_FILE)
@pytest.mark.parametrize("kind", ["flame", "ict"])
def test_head_npz(kind, case, small_arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flame2023.npz"
    np.savez(path, **small_arrays)
    WHOLE_FILE[case](path)
    assert_refused(f"{kind}:{path}", tmp_path)


@pytest.mark.parametrize(
    "name, change",
    [
        ("v_template", lambda a: a[:-1]),
        ("v_template", lambda a: a + np.nan),
        ("f", lambda a: a.astype(np.int64) + 9999),
        ("f", lambda a: a.astype(np.int64) - 10),
        ("shapedirs", lambda a: a[..., :10]),
        ("posedirs", lambda a: a[..., :9]),
        ("weights", lambda a: a * 3),
        ("weights", lambda a: a[:, :4]),
        ("J_regressor", lambda a: a[:4]),
        ("kintree_table", lambda a: a[:1]),
        ("kintree_table", lambda a: np.array([[7, 9, 9, 9, 9], [0, 1, 2, 3, 4]])),
        ("J_regressor", lambda a: a.astype(str)),
    ],
)
def test_flame_arrays(name, change, sound, tmp_path):
    with np.load(sound / "flame2023.npz") as data:
        arrays = {key: data[key] for key in data}
    arrays[name] = change(arrays[name])
    np.savez(tmp_path / "flame2023.npz", **arrays)
    assert_refused(f"flame:{tmp_path / 'flame2023.npz'}", tmp_path)


def test_sound_files_load(sound):
    first, second = load_head(f"flame:{sound / 'flame2023.pkl'}"), load_head(f"flame:{sound / 'flame2023.npz'}")
    np.testing.assert_array_equal(first.template, second.template)


@pytest.mark.parametrize(
    "spec", ["", "flame", "flame:", "ict:", "builtin:x", "smpl:x.pkl", "flame:x.pkl?tongue", "ict:/nowhere"]
)
def test_specs(spec, tmp_path):
    assert_refused(spec, tmp_path)
