"""Layers: who may import whom, read off the source and tried in fresh processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each package of mvp4d_jax with the packages it may import beside itself, mvp4d.core and BASE.
LAYERS = {
    "heads": set(),
    "geometry": {"heads"},
    "studio": {"heads", "geometry"},
    "tracking": {"heads", "geometry"},
    "models": set(),
    "diffusion": {"models"},
    "data": {"heads", "geometry", "small", "models", "diffusion"},
    "small": {"heads", "geometry"},
    "release": {"geometry", "models", "diffusion"},
    "sampling": {"heads", "geometry", "small", "tracking", "models", "diffusion", "data", "release"},
    "evaluation": {"heads", "geometry", "small", "tracking", "models", "diffusion"},
    "training": {"heads", "geometry", "small", "models", "diffusion", "data", "release", "sampling", "evaluation"},
    "preflight": {"heads", "geometry", "models", "diffusion", "data", "release", "sampling", "training"},
}
BASE = {"parallel", "processes", "slurm", "programs", "devices", "latent_frames"}  # every package may import these
TOP = {"demo"}  # modules that may import all
# Those of mvp4d.core likewise.
CORE_BASE = {
    "arguments",
    "errors",
    "words",
    "files",
    "outputs",
    "stamps",
    "room",
    "lock",
    "owner",
    "stopping",
    "progress",
    "images",
    "video",
    "sound",
    "rotation",
    "ramps",
    "skin_colour",
    "lpips_file",
    "places",
    "host",
    "environment",
    "cache",
    "shares",
}
CORE_LAYERS = {
    "heads": set(),
    "cameras": {"heads"},
    "live_link": {"heads"},
    "capture": {"heads", "cameras"},
    "driving": {"heads", "cameras", "capture", "live_link"},
    "speech": {"heads", "capture", "driving"},
}


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


def _part(dotted: str, package: str) -> str | None:
    """The package or module right inside `package` that a dotted name lies in; None outside of it."""
    inside = dotted.removeprefix(f"{package}.")
    return inside.split(".")[0] if inside != dotted else None


@pytest.mark.parametrize(
    "folder, forbidden",
    [
        ("mvp4d/core", {"jax", "flax", "torch", "mvp4d_jax", "mvp4d_export", "mvp4d_configs"}),
        ("mvp4d_jax", {"torch", "gsplat", "diffusers", "smplx", "mvp4d_export"}),
        ("export", {"jax", "flax", "optax", "orbax", "grain", "mvp4d_jax"}),
    ],
)
def test_who_imports_whom(folder, forbidden):
    for path in _sources(folder):
        taken = {name.split(".")[0] for name in _imports(path)} & forbidden
        assert not taken, f"{path.relative_to(ROOT)} imports {sorted(taken)}"


@pytest.mark.parametrize("folder", ["mvp4d/core", "mvp4d_jax", "export"])
def test_nothing_imports_the_public_api(folder):
    for path in _sources(folder):
        above = {name for name in _imports(path) if name.split(".")[0] == "mvp4d" and not name.startswith("mvp4d.core")}
        above -= {"mvp4d"} if any(name.startswith("mvp4d.core") for name in _imports(path)) else set()
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}"


@pytest.mark.parametrize(
    "package, layers, base",
    [("mvp4d_jax", LAYERS, BASE), ("mvp4d.core", CORE_LAYERS, CORE_BASE)],
)
def test_a_package_imports_its_layers_alone(package, layers, base):
    folder = package.replace(".", "/")
    for path in _sources(folder):
        relative = path.relative_to(ROOT / folder)
        part = relative.parts[0].removesuffix(".py")
        if part in TOP or part == "__init__":
            continue
        used = {_part(name, package) for name in _imports(path)} - {None, part}
        allowed = base | layers.get(part, set())
        assert used <= allowed, f"{relative} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("layers", [LAYERS, CORE_LAYERS])
def test_layers_have_no_cycles(layers):
    done: set[str] = set()
    while len(done) < len(layers):
        ready = {part for part, below in layers.items() if part not in done and below <= done}
        assert ready, f"cycle among {sorted(set(layers) - done)}"
        done |= ready


def _handles_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text: its encoding would be the machine's, where none is named."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
        return True
    if name in ("run", "Popen", "check_output"):
        return any(word.arg in ("text", "universal_newlines") for word in call.keywords)
    modes = [item.value for item in call.args[:2] if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    modes = [mode for mode in modes if 0 < len(mode) <= 3 and set(mode) <= set("rwaxt+")]
    if name in ("fdopen", "TemporaryFile", "NamedTemporaryFile"):
        return bool(modes)
    return isinstance(call.func, ast.Name) and name == "open" and (len(call.args) == 1 or bool(modes))


@pytest.mark.parametrize("folder", ["mvp4d", "mvp4d_jax", "export", "configs"])
def test_text_has_an_encoding(folder):
    """Files of the project and of others are UTF-8 on a machine whose locale is another one, too."""
    for path in _sources(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _handles_text(node):
                named = {word.arg for word in node.keywords}
                assert "encoding" in named, f"{path.relative_to(ROOT)}:{node.lineno}"


BLOCK = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
"""
FOREIGN = {"facemesh.py", "selfie.py", "descriptors.py"}  # scripts of the tracker's own environments
JAX_HALF, TORCH_HALF = {"jax", "flax", "optax", "orbax", "grain", "mvp4d_jax"}, {"torch", "gsplat", "mvp4d_export"}


def _python(program: str, blocked: set[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _modules(folder: str, package: str) -> str:
    names = []
    for path in _sources(folder):
        if path.name in FOREIGN:
            continue
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        names.append(".".join((package, *parts)).removesuffix(".__init__"))
    return f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"


def test_core_imports_without_either_half():
    _python(_modules("mvp4d/core", "mvp4d.core"), JAX_HALF | TORCH_HALF)


def test_the_jax_half_imports_without_torch():
    _python(_modules("mvp4d_jax", "mvp4d_jax"), TORCH_HALF)


def test_a_runs_log_takes_tensorboard_without_torch(tmp_path):
    """tensorboardX would import it, where it is installed, for annotations: two seconds of every start."""
    script = """
import sys
from pathlib import Path
from mvp4d_jax.training.metrics import MetricsLog
log = MetricsLog(Path(sys.argv[1]), 0)
log.write(1, {"loss": 0.5})
log.close()
print("tensorboardX" in sys.modules, "torch" in sys.modules)
import torch
print(torch.zeros(1).numpy())
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n") == ["True False", "[0.]", ""], done.stderr[-2000:]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_torch_half_imports_without_jax():
    _python(_modules("export", "mvp4d_export"), JAX_HALF)


def test_the_public_api_loads_neither_half():
    program = """
import sys, mvp4d, mvp4d.cli
assert mvp4d.cli.main(["--help"]) == 0
print(sorted({"jax", "torch"} & set(sys.modules)))
"""
    assert _python(program, set()).splitlines()[-1] == "[]"
