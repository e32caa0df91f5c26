"""Reads FLAME's pickle files without running anything that they contain.

A pickle is a program: it may name any function of any module and call it. FLAME's files need only numpy arrays,
scipy's sparse matrices and chumpy's array wrappers (files of 2020 were written with chumpy under Python 2). Each of
these names is answered by a small stand-in that takes in plain data and checks it; every other name is refused. No
numpy, scipy or chumpy object is ever built by the pickle itself.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mvp4d.core.errors import UserError

_LIMIT = 1 << 30  # bytes of file; FLAME 2020 and 2023 have about 50 MB


def read_flame_pickle(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a FLAME pickle into a dict of numpy arrays, strings and numbers; sparse matrices come out dense.

    Raises:
      UserError: missing, damaged, too large, or naming something other than array containers.
    """
    path = Path(path)
    try:
        if not path.is_file():
            what = "not a regular file" if path.exists() else "no such file"
            raise UserError(path, what, "give a FLAME .pkl, as https://flame.is.tue.mpg.de has it")
        if path.stat().st_size > _LIMIT:
            raise UserError(path, "is larger than any FLAME file")
        stream = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})") from None
    try:
        # The Python unpickler: its memo is a dict, where the C one takes memory for any index that a file names.
        data = _Reader(stream, encoding="latin1").load()
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__} instead of a dict")
        return {str(key): _plain(value) for key, value in data.items()}
    except _Refused as refused:
        raise UserError(
            path,
            f"the pickle asks for '{refused}', which is no array: refused",
            "use the file as downloaded from flame.is.tue.mpg.de",
        ) from None
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        MemoryError,
        OverflowError,
        RecursionError,
        AssertionError,
    ) as error:
        raise UserError(path, f"not a readable FLAME pickle ({str(error)[:120] or type(error).__name__})") from None


class _Refused(Exception):
    pass


class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None and module.startswith("chumpy"):
            stand_in = {"Ch": _Chumpy, "Select": _Chumpy}.get(name)
        if stand_in is None and module.startswith("scipy.sparse"):
            stand_in = {"csc_matrix": _ColumnSparse, "csr_matrix": _RowSparse}.get(name)
        if stand_in is None:
            raise _Refused(f"{module}.{name}")
        return stand_in

    def get_extension(self, code: int) -> None:
        raise _Refused(f"extension {code}")

    stack: list[Any]  # of pickle._Unpickler

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _StandIn):
            raise _Refused(f"state for a {type(self.stack[-1]).__name__}")
        self.stack[-1].state = state

    dispatch: ClassVar[dict] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


class _StandIn:
    """Takes any constructor arguments and any state; says nothing until asked for its array."""

    arguments: tuple = ()
    state: Any = None
    known: Any = None

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def array(self) -> np.ndarray:
        """Works the array out."""
        raise NotImplementedError

    def value(self) -> np.ndarray:
        """The array, worked out once: a small file may name one object as often as it likes, and nest that."""
        if self.known is None:
            self.known = self.array()
        return self.known


class _DType(_StandIn):
    def dtype(self) -> np.dtype:
        code = str(self.arguments[0]) if self.arguments else ""
        if len(code) > 4 or code.lstrip("<>|=")[:1] not in "biuf":
            raise ValueError(f"an array of type '{code[:20]}'")
        byte_order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        return np.dtype(code).newbyteorder(byte_order if byte_order in ("<", ">") else "=")


class _Array(_StandIn):
    def array(self) -> np.ndarray:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without contents")
        _, shape, dtype, fortran, data = self.state
        return _build_array(data, dtype, shape, "F" if fortran else "C")


class _Buffer(_StandIn):
    """numpy's form of contiguous arrays in pickle protocol 5."""

    def array(self) -> np.ndarray:
        data, dtype, shape, order = self.arguments
        return _build_array(data, dtype, shape, order)


class _Scalar(_StandIn):
    def array(self) -> np.ndarray:
        dtype, data = self.arguments
        return _build_array(data, dtype, (), "C")


class _Chumpy(_StandIn):
    """chumpy.Ch keeps its array under 'x'; chumpy's Select keeps an array 'a' and the picked elements 'idxs'."""

    def array(self) -> np.ndarray:
        state = self.state if isinstance(self.state, dict) else {}
        if "x" in state:
            return np.asarray(_plain(state["x"]))
        if "a" in state and "idxs" in state:
            picked = np.asarray(_plain(state["a"])).reshape(-1)[np.asarray(_plain(state["idxs"])).reshape(-1)]
            shape = state.get("preferred_shape")
            return picked if shape is None else picked.reshape(np.asarray(_plain(shape)).astype(int))
        raise ValueError("a chumpy object without an array")


class _ColumnSparse(_StandIn):
    by_column = True

    def array(self) -> np.ndarray:
        state = self.state if isinstance(self.state, dict) else {}
        rows, columns = (int(item) for item in state.get("_shape", state.get("shape", ())))
        if not 0 < rows * columns <= 1 << 26:
            raise ValueError(f"a sparse matrix of shape {rows} x {columns}")
        values, inner, ends = (np.asarray(_plain(state[key])).reshape(-1) for key in ("data", "indices", "indptr"))
        outer_count, inner_count = (columns, rows) if self.by_column else (rows, columns)
        counts = np.diff(ends)
        fits = len(ends) == outer_count + 1 and ends[0] == 0 and (counts >= 0).all()
        if not fits or ends[-1] > min(len(values), len(inner)):
            raise ValueError("a sparse matrix whose index does not fit")
        values, inner = values[: ends[-1]], inner[: ends[-1]]
        if len(inner) and (inner.min() < 0 or inner.max() >= inner_count):
            raise ValueError("a sparse matrix whose index does not fit")
        dense = np.zeros((outer_count, inner_count))
        np.add.at(dense, (np.repeat(np.arange(outer_count), counts), inner), values)
        return dense.T if self.by_column else dense


class _RowSparse(_ColumnSparse):
    by_column = False


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    del kind, shape, code  # an empty array of no importance: the state that follows says everything
    return _Array()


def _copy_reconstructor(kind: Any, base: Any, state: Any) -> _StandIn:
    del base, state
    if not (isinstance(kind, type) and issubclass(kind, _StandIn)):
        raise _Refused("copy_reg._reconstructor of something else")
    return kind()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or str(encoding).lower() not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


class _Object:
    """Only ever passed along as a base class; cannot be made."""

    def __new__(cls, *arguments: Any) -> _Object:
        raise _Refused("object()")


class _ArrayClass(_Object):
    """numpy.ndarray, as an argument of `_reconstruct`."""


_STAND_INS = {
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("copy_reg", "_reconstructor"): _copy_reconstructor,
    ("copyreg", "_reconstructor"): _copy_reconstructor,
    ("__builtin__", "object"): _Object,
    ("builtins", "object"): _Object,
    ("_codecs", "encode"): _encode,
}


def _build_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise ValueError("an array without a type")
    if isinstance(data, str):
        data = data.encode("latin1")  # bytes of Python 2 arrive as text
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array whose contents are no bytes")
    shape = tuple(int(item) for item in shape)
    kind = dtype.dtype()
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
    array = np.frombuffer(bytes(data), kind).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(kind.newbyteorder("="))


_PLAIN = (str, bytes, int, float, bool, type(None))


def _plain(value: Any) -> Any:
    """Stand-ins to numpy arrays; strings, numbers and None as they are; flat lists and tuples of these as lists."""
    if isinstance(value, _StandIn) and hasattr(value, "array"):
        return value.value()
    if isinstance(value, list | tuple) and all(isinstance(item, _PLAIN) for item in value):
        return list(value)
    if isinstance(value, _PLAIN):
        return value
    raise ValueError(f"a {type(value).__name__}")
