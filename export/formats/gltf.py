"""Binary glTF 2.0: a buffer that accessors are added to, and the file around it."""

from __future__ import annotations

import json
import struct

import numpy as np

_COMPONENTS = {"f4": 5126, "u4": 5125, "u2": 5123, "u1": 5121}
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
VERTICES, INDICES = 34962, 34963  # bufferView.target


class Buffer:
    """Collects the binary chunk; each `add` returns the index of an accessor."""

    def __init__(self):
        self.views: list[dict] = []
        self.accessors: list[dict] = []
        self._chunks: list[bytes] = []
        self._length = 0

    def add(
        self, array: np.ndarray, *, target: int | None = VERTICES, bounds: bool = False, normalized: bool = False
    ) -> int:
        """An array [N] or [N, C] of float32, uint32, uint16 or uint8; `bounds` writes min and max."""
        accessor = self._typed(array) | {"bufferView": self._view(array, target)}
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= _bounds(array)
        return self._accessor(accessor)

    def add_sparse(self, values: np.ndarray, moved: np.ndarray) -> int:
        """float32 [N, 3] that is zero but at the rows `moved` (increasing, at least one)."""
        rows = np.zeros_like(values, np.float32)
        rows[moved] = values[moved]
        accessor = self._typed(rows) | _bounds(rows)
        accessor["sparse"] = {
            "count": len(moved),
            "indices": {"bufferView": self._view(moved.astype("<u4"), None), "componentType": _COMPONENTS["u4"]},
            "values": {"bufferView": self._view(rows[moved], None)},
        }
        return self._accessor(accessor)

    def _typed(self, array: np.ndarray) -> dict:
        components = 1 if array.ndim == 1 else int(np.prod(array.shape[1:]))
        kind = _COMPONENTS[array.dtype.str[1:]]
        return {"componentType": kind, "count": len(array), "type": _TYPES[components]}

    def _accessor(self, accessor: dict) -> int:
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def _view(self, array: np.ndarray, target: int | None) -> int:
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": self._length, "byteLength": len(data)}
        self.views.append(view | ({"target": target} if target else {}))
        padded = data + bytes(-len(data) % 4)  # accessors start at multiples of their component's size
        self._chunks.append(padded)
        self._length += len(padded)
        return len(self.views) - 1

    def file(self, document: dict) -> bytes:
        """The GLB of a document whose accessors these are."""
        document = {
            "asset": {"version": "2.0", "generator": "mvp4d"},
            **document,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": self._length}],
        }
        text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self._length
        header = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return b"".join((header, text, struct.pack("<I4s", self._length, b"BIN\0"), *self._chunks))


def _bounds(array: np.ndarray) -> dict:
    flat = array.reshape(len(array), -1)
    return {"min": flat.min(0).astype(float).tolist(), "max": flat.max(0).astype(float).tolist()}
