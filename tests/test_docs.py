"""Pages: links, what they say of code and settings, commands in tables; `docs_check` has the commands in blocks."""

import ast
import dataclasses
import re
import sys
import tomllib
from pathlib import Path

import docs_check
import pytest

from mvp4d_export.presets import PRESETS, Weights, with_photos

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
GUIDES = [DOCS / f"{name}.md" for name in ("architecture", "avatar", "avatar_fitting", "driving", "method")]
WIDEST = 200  # columns of a line in a guide
DISTRIBUTIONS = {"PIL": "pillow", "imageio_ffmpeg": "imageio-ffmpeg"}  # by what is imported, where the names differ
OTHER_HALF = {"mvp4d", "mvp4d_export", "mvp4d_jax", "mvp4d_configs"}
OPTIONAL = {"openfacefx", "pocketsphinx", "pyfvvdp"}  # of extras, imported by who needs them


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _sources() -> list[Path]:
    """Pages, code and scripts."""
    folders = ("mvp4d", "mvp4d_jax", "export", "configs", "launch", "benchmarks", "examples", "tests")
    found = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh", ".ipynb")
    ]
    return [*PAGES, *sorted(found)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(other), f"{page.name}: {target}"


def test_pages_that_files_name_exist_and_hold_what_is_quoted():
    quoted = re.compile(r"(?:docs/)?(\w+)\.md[)`]*,? \(?\"([^\"\n]+)\"")
    for path in _sources():
        text, where = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        for name in re.findall(r"docs/(\w+\.md)", text):
            assert (DOCS / name).exists(), f"{where} names docs/{name}"
        for name, words in quoted.findall(text):
            page = DOCS / f"{name}.md"
            assert not page.exists() or words in page.read_text(), f"{where}: {name}.md lacks '{words}'"


def test_readme_lists_every_page():
    table = (ROOT / "README.md").read_text().partition("## Documentation")[2]
    assert set(re.findall(r"\(docs/([\w.]+)\)", table)) == {page.name for page in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_lines_are_read_without_scrolling(page):
    assert [line for line in page.read_text().splitlines() if len(line) > WIDEST] == []


@pytest.mark.parametrize("name", ["avatar.md", "driving.md"])
def test_commands_in_tables_are_understood(name):
    rows = [line for line in (DOCS / name).read_text().splitlines() if line.startswith("|")]
    commands = [command for row in rows for command in re.findall(r"`(mvp4d [^`]+)`", row) if " " in command[6:]]
    assert len(commands) > 5
    assert [(line, problem) for line in commands if (problem := docs_check.check_line(line))] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_modules_that_a_guide_names_exist(page):
    """By a path from the root or inside a half; in the avatar's page also by the bare name."""
    folders = [ROOT, ROOT / "mvp4d", ROOT / "mvp4d/core", ROOT / "mvp4d_jax", ROOT / "mvp4d_jax/sampling"]
    folders += [ROOT / "export", ROOT / "benchmarks", ROOT / "mvp4d_jax/tracking"]
    folders += [ROOT / "tests/tracking", ROOT / "mvp4d/core/capture"]
    for name in re.findall(r"`([\w/]+\.py)`", page.read_text()):
        assert any((folder / name).exists() for folder in folders), f"{page.name} names {name}"


def test_weights_of_the_loss_are_those_of_the_presets():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", (DOCS / "avatar_fitting.md").read_text(), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == dataclasses.asdict(Weights())


def test_presets_in_the_table_are_those_of_the_code():
    section = (DOCS / "avatar_fitting.md").read_text().partition("## Presets")[2]
    found = {}
    for row in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        name, _, uv, net, degree, steps, _, most = (cell.strip() for cell in row.split("|"))
        found[name.replace("`", "")] = uv, re.sub(r",.*", "", net), degree, steps, most
    for name, config in PRESETS.items():
        widths = "-".join(map(str, config.avatar.net.channels))
        size = str(config.avatar.uv_resolution), widths, str(config.avatar.sh_degree)
        assert found.pop(name) == (*size, f"{config.steps:,}", f"{config.max_gaussians:,}")
    photos = with_photos(PRESETS["cpu"])
    assert found.pop("cpu with photos")[::3] == (str(photos.avatar.uv_resolution), f"{photos.steps:,}")
    assert not found


def _imported(path: Path, *, everywhere: bool) -> set[str]:
    """Packages that a file imports: at its top, or also inside functions."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - OTHER_HALF - OPTIONAL


def test_the_install_without_jax_names_what_the_avatar_half_imports():
    line = re.search(r"^pip install (torch .*)$", (DOCS / "avatar.md").read_text(), re.MULTILINE)[1]
    used = set().union(*(_imported(path, everywhere=True) for path in (ROOT / "export").rglob("*.py")))
    used |= set().union(*(_imported(path, everywhere=False) for path in (ROOT / "mvp4d").rglob("*.py")))
    assert {re.split("[=<>]", word)[0] for word in line.split()} == {DISTRIBUTIONS.get(name, name) for name in used}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["dependencies"] + project["optional-dependencies"]["export"]
    for word in line.split():
        assert word in known or any(re.match(rf"{re.escape(word)}[=<>]", wanted) for wanted in known), word
