"""The walls of the house: who may import whom, read off the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each room of mvp4d_jax with the rooms it may use beside itself and the ground (errors, files, progress, parallel).
GROUND = {"errors", "files", "progress", "parallel"}
FLOORS = {
    "heads": set(),
    "geometry": {"heads"},
    "capture": {"heads", "geometry"},
    "studio": {"heads", "geometry", "capture"},
    "tracking": {"heads", "geometry", "capture"},
    "models": set(),
    "diffusion": {"models"},
    "data": {"heads", "geometry", "capture", "models", "diffusion"},
    "sampling": {"heads", "geometry", "capture", "models", "diffusion", "data"},
    "evaluation": {"heads", "geometry", "capture", "models", "diffusion"},
    "training": {"heads", "geometry", "capture", "models", "diffusion", "data", "sampling", "evaluation"},
}
TOP = {"commands", "cli", "demo"}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _sources(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


def _room(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "mvp4d_jax" and len(parts) > 1 else None


@pytest.mark.parametrize(
    "folder, forbidden",
    [("mvp4d_jax", {"torch", "gsplat", "diffusers", "smplx", "mvp4d_export"}),
     ("export", {"jax", "flax", "optax", "orbax", "grain", "mvp4d_jax"})],
)
def test_halves_do_not_import_each_other(folder, forbidden):
    for path in _sources(folder):
        taken = {name.split(".")[0] for name in _imports(path)} & forbidden
        assert not taken, f"{path.relative_to(ROOT)} imports {sorted(taken)}"


def test_floors():
    for path in _sources("mvp4d_jax"):
        relative = path.relative_to(ROOT / "mvp4d_jax")
        room = relative.parts[0].removesuffix(".py")
        used = {_room(name) for name in _imports(path)} - {None, room}
        if room in TOP:
            continue
        allowed = GROUND | FLOORS.get(room, set())
        assert used <= allowed, f"{relative} reaches into {sorted(used - allowed)}"


def test_floors_have_no_circles():
    done: set[str] = set()
    while len(done) < len(FLOORS):
        ready = {room for room, below in FLOORS.items() if room not in done and below <= done}
        assert ready, f"circle among {sorted(set(FLOORS) - done)}"
        done |= ready
