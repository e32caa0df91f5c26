"""What a compiled program computes and moves, read off its text.

XLA's own count takes the body of a loop once and leaves Pallas kernels out. This one multiplies by the trip counts,
adds the kernels, and sums collectives by kind.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

import jax

BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "f8e4m3fn": 1,
    "f8e5m2": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
    "c64": 8,
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all", "ragged-all-to-all")
# Matrix products of size N_q x N_k x d in one call of splash attention's kernels.
_SPLASH_PRODUCTS = (("dkv_fused", 5), ("fused", 5), ("dkv", 4), ("dq", 3), ("fwd", 2))

_SHAPE = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ALONE = re.compile(r"replica_groups=(\{\{\d+\}|\[\d+,1\])")  # every device a group of its own: nothing moves
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Per device and run of the program.

    Attributes:
      flops: multiply-adds x 2 of products and convolutions, kernels included.
      kernel_flops: the part of it inside Pallas attention kernels.
      collective_bytes: kind -> bytes: of the result for all-gather, of the operand for reduce-scatter, permute and
        all-to-all, twice the operand for all-reduce.
      kernels: calls of Pallas kernels.
    """

    flops: float
    kernel_flops: float
    collective_bytes: dict[str, float]
    kernels: float


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shapes: list[tuple[str, tuple[int, ...]]]  # of the result; several for a tuple
    opcode: str
    operands: list[str]
    text: str


def compiled_cost(compiled: jax.stages.Compiled) -> Cost:
    """Counts a compiled program. All zero where jaxlib cannot read back what a newer libtpu wrote."""
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return Cost(0.0, 0.0, {}, 0)
    return program_cost(text)


def program_cost(text: str) -> Cost:
    """Counts an optimised HLO module (`compiled.as_text()`)."""
    computations, entry = _parse(text)
    return _Counter(computations).total(entry)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head.group(1), [])
            entry = head.group(1) if line.startswith("ENTRY") else entry
        elif current is not None and (match := _LINE.match(line)):
            current.append(_instruction(match.group(1), match.group(2)))
    return computations, entry


def _instruction(name: str, rest: str) -> _Instruction:
    rest = re.sub(r"/\*index=\d+\*/", "", rest)
    if rest.startswith("("):  # a tuple's shape
        end = _closing(rest, 0)
    else:
        end = rest.index(" ")
    shapes = [(kind, _dims(dims)) for kind, dims in _SHAPE.findall(re.sub(r"\{[^}]*\}", "", rest[: end + 1]))]
    tail = rest[end + 1 :].lstrip()
    opcode, _, after = tail.partition("(")
    inside = after[: _closing("(" + after, 0) - 1] if after else ""
    operands = re.findall(r"%([\w.\-]+)", inside)
    return _Instruction(name, shapes, opcode.strip(), operands, tail)


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text) - 1


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


class _Counter:
    def __init__(self, computations: dict[str, list[_Instruction]]):
        self.computations = computations
        self.shapes = {name: {item.name: item for item in body} for name, body in computations.items()}
        self.known: dict[str, tuple[float, float, collections.Counter, float]] = {}
        self.chains: set[str] = set()

    def total(self, entry: str) -> Cost:
        flops, kernel, moved, calls = self._count(entry)
        return Cost(flops + kernel, kernel, dict(moved), calls)

    def _count(self, name: str) -> tuple[float, float, collections.Counter, float]:
        if name in self.known:
            return self.known[name]
        flops, kernel, moved, calls = 0.0, 0.0, collections.Counter(), 0.0
        for item in self.computations.get(name, ()):
            here = self.shapes[name]
            if item.opcode == "dot":
                flops += self._dot(item, here)
            elif item.opcode == "convolution":
                flops += self._convolution(item, here)
            elif item.opcode == "custom-call" and "tpu_custom_call" in item.text:
                kernel += self._kernel(item, here)
                calls += 1
            base = item.opcode.removesuffix("-start")
            if base in COLLECTIVES and not _ALONE.search(item.text) and self._is_new(item):
                # On TPU a reduce-scatter can be a fusion of an all-reduce and a slice; its name tells.
                base = "reduce-scatter" if name.startswith("all-reduce-scatter") else base
                moved[base] += self._moved(base, item, here)
            for inner, times in self._calls(item, name):
                f, k, m, c = self._count(inner)
                flops, kernel, calls = flops + times * f, kernel + times * k, calls + times * c
                for kind, value in m.items():
                    moved[kind] += times * value
        self.known[name] = flops, kernel, moved, calls
        return self.known[name]

    def _is_new(self, item: _Instruction) -> bool:
        """False for a collective that was met before: fused with products it stands in each of their fusions."""
        chain = re.search(r'chain_id="(\d+)"', item.text)
        if chain is None:
            return True
        known = chain.group(1) in self.chains
        self.chains.add(chain.group(1))
        return not known

    def _calls(self, item: _Instruction, name: str) -> list[tuple[str, float]]:
        """Computations that an instruction runs, and how often."""
        if item.opcode == "while":
            body = re.search(r"body=%?([\w.\-]+)", item.text).group(1)
            return [(body, self._trips(item, body))]
        if item.opcode in ("fusion", "call", "async-start") or item.opcode.endswith("-start"):
            return [
                (inner, 1)
                for inner in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", item.text)
                if item.opcode in ("fusion", "call", "async-start")
            ]
        if item.opcode == "conditional":
            branches = re.findall(r"(?:true_computation|false_computation)=%?([\w.\-]+)", item.text)
            listed = re.search(r"branch_computations=\{([^}]*)\}", item.text)
            branches += re.findall(r"%?([\w.\-]+)", listed.group(1)) if listed else []
            dearest = max(branches, key=lambda inner: sum(self._count(inner)[:2]), default=None)
            return [(dearest, 1)] if dearest else []
        return []

    def _trips(self, item: _Instruction, body: str) -> float:
        """How often a loop runs: XLA's annotation, else its counter compared with a constant, counted up from 0."""
        known = re.search(r'known_trip_count"?:?=?\{"?n"?:"?(\d+)', item.text)
        if known:
            return float(known.group(1))
        condition = self.shapes[re.search(r"condition=%?([\w.\-]+)", item.text).group(1)]
        compare = next((one for one in condition.values() if one.opcode == "compare"), None)
        if compare is None:
            return 1.0
        limit = next(
            (
                _constant(condition[name])
                for name in compare.operands
                if name in condition and condition[name].opcode == "constant"
            ),
            None,
        )
        counter = next(
            (
                re.search(r"index=(\d+)", condition[name].text)
                for name in compare.operands
                if name in condition and condition[name].opcode == "get-tuple-element"
            ),
            None,
        )
        if limit is None:
            return 1.0
        step = self._increment(body, int(counter.group(1))) if counter else 1
        return float(max(1, math.ceil(limit / step)))

    def _increment(self, body: str, index: int) -> int:
        here = self.shapes[body]
        root = self.computations[body][-1]
        if root.opcode != "tuple" or index >= len(root.operands):
            return 1
        item = here.get(root.operands[index])
        while item is not None and item.opcode in ("copy", "bitcast") and item.operands:
            item = here.get(item.operands[0])
        if item is None or item.opcode != "add":
            return 1
        return (
            next(
                (_constant(here[name]) for name in item.operands if name in here and here[name].opcode == "constant"), 1
            )
            or 1
        )

    def _shape(self, name: str, here: dict[str, _Instruction]) -> tuple[int, ...]:
        return here[name].shapes[0][1] if name in here and here[name].shapes else ()

    def _dot(self, item: _Instruction, here) -> float:
        left = self._shape(item.operands[0], here)
        dims = _dims(re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", item.text).group(1))
        return 2.0 * math.prod(item.shapes[0][1]) * math.prod(left[dim] for dim in dims)

    def _convolution(self, item: _Instruction, here) -> float:
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", item.text)
        left, right = (self._shape(name, here) for name in item.operands[:2])
        if not labels or not left or not right:
            return 0.0
        lhs, kernel, out = labels.groups()
        pairs = 1.0
        for label in (char for char in out if char.isdigit()):
            pairs *= _valid_pairs(
                int(label),
                left[lhs.index(label)],
                right[kernel.index(label)],
                item.shapes[0][1][out.index(label)],
                item.text,
            )
        sizes = dict(zip(out, item.shapes[0][1]))
        return 2.0 * sizes["b"] * sizes["f"] * right[kernel.index("i")] * pairs

    def _kernel(self, item: _Instruction, here) -> float:
        """Splash attention: products by the kernel's name, sizes from the first two operands of rank 3 or more."""
        label = f"{item.name} {re.search(r'op_name=.([^ ]*)', item.text).group(1) if 'op_name=' in item.text else ''}"
        products = next((count for word, count in _SPLASH_PRODUCTS if word in label), 0)
        arrays = [here[name].shapes[0] for name in item.operands if name in here and here[name].shapes]
        big = [dims for kind, dims in arrays if len(dims) >= 3 and kind in ("bf16", "f32")]
        if not products or len(big) < 2:
            return 0.0
        q, k = big[0], big[1]
        if products == 4 and any(len(dims) > len(q) for _, dims in item.shapes):
            products = 5  # the fused backward pass: beside dk and dv a dq for each tile of keys
        return products * 2.0 * math.prod(q[:-2]) * q[-2] * k[-2] * q[-1]

    def _moved(self, kind: str, item: _Instruction, here) -> float:
        operand = sum(_bytes(shape) for name in item.operands if name in here for shape in here[name].shapes)
        if kind == "all-gather":
            shapes = item.shapes[len(item.shapes) // 2 :] if item.opcode.endswith("-start") else item.shapes
            return sum(_bytes(shape) for shape in shapes)
        return 2.0 * operand if kind == "all-reduce" else float(operand)


def _bytes(shape: tuple[str, tuple[int, ...]]) -> float:
    return BYTES.get(shape[0], 4) * math.prod(shape[1])


def _constant(item: _Instruction) -> int | None:
    value = re.match(r"constant\((-?\d+)\)", item.text)
    return int(value.group(1)) if value else None


def _valid_pairs(label: int, size: int, kernel: int, out: int, text: str) -> float:
    """(output place, kernel place) pairs that read a real input, along one spatial dimension."""
    window = re.search(r"window=\{([^}]*)\}", text)
    fields = dict(part.split("=") for part in window.group(1).split()) if window else {}

    def field(name: str, default: str) -> str:
        return fields[name].split("x")[label] if name in fields else default

    stride, low = int(field("stride", "1")), int(field("pad", "0_0").split("_")[0])
    base, spread = int(field("lhs_dilate", "1")), int(field("rhs_dilate", "1"))
    if stride == 1 and base == 1 and low == 0 and out * kernel > 100_000:
        return float(min(out, size) * kernel)
    count = 0
    for place in range(out):
        for tap in range(kernel):
            at = place * stride - low + tap * spread
            count += 0 <= at <= (size - 1) * base and at % base == 0
    return float(count)
