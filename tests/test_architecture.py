"""The house stays as docs/architecture.md draws it: imports run one way, folders and files stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"musiq": "musiq", "musiq_export": "export", "musiq_bench": "bench"}
MOST_MODULES, MOST_LINES = 16, 400

# From the top floor down. A room is a folder, or a module at a package's root; it imports from rooms below it alone.
FLOORS = {
    "musiq": [
        ("cli",),
        ("__init__",),
        ("output", "distributed", "torch_metric"),
        ("scoring",),
        ("runtimes", "training"),
        ("published",),
        ("model",),
        ("datasets", "patches", "video"),
        ("images", "artifact", "pyramid", "presets", "bundled"),
        ("spec", "terminal", "files", "metrics"),
        ("errors", "hardware", "version", "markdown", "timing", "file_formats"),
    ],
    "musiq_export": [
        ("cli", "bundle"),
        ("formats", "options"),
        ("builders", "triton"),
        ("int8", "exporter", "table", "sizes"),
        ("graph", "check"),
        ("request", "staging", "__init__"),
    ],
    "musiq_bench": [
        ("__main__",),
        ("cli",),
        ("run", "compare", "profiling"),
        ("measure", "report"),
        ("plan",),
        ("machine", "__init__"),
    ],
}


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the three packages."""
    for package, folder in PACKAGES.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *file.relative_to(ROOT / folder).with_suffix("").parts]
            yield ".".join(parts), file


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports of this project, also inside functions; a package counts as its __init__."""
    known = dict(modules())
    return {name: {target for target in _targets(name, file, known) if target != name} for name, file in known.items()}


def _targets(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            candidates = [found for alias in node.names for found in (f"{source}.{alias.name}", source)]
        elif isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        else:
            continue
        # `from package import module` is of the module; `from package import name` of the package's __init__.
        for specific, general in zip(candidates[::2], candidates[1::2], strict=False):
            yield from [target for target in (specific, general, f"{general}.__init__") if target in known][:1]


def room(module: str) -> str:
    return module.split(".")[1]


def test_the_toolkit_is_the_ground_of_export_and_bench_which_do_not_know_each_other() -> None:
    allowed = {"musiq": {"musiq"}, "musiq_export": {"musiq", "musiq_export"}, "musiq_bench": {"musiq", "musiq_bench"}}
    wrong = [
        f"{name} -> {target}"
        for name, targets in imports().items()
        for target in targets
        if target.split(".")[0] not in allowed[name.split(".")[0]]
    ]
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_from_the_upper_floors_down(package: str) -> None:
    floor = {name: -index for index, names in enumerate(FLOORS[package]) for name in names}
    mine = {name: targets for name, targets in imports().items() if name.split(".")[0] == package}
    unknown = {room(name) for name in mine} - set(floor)
    assert not unknown, "say on which floor it is"
    wrong = [
        f"{name} -> {target}"
        for name, targets in mine.items()
        for target in targets & set(mine)
        if room(name) != room(target) and floor[room(name)] <= floor[room(target)]
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: set(targets) for name, targets in imports().items()}
    while free := {name for name, targets in left.items() if not targets & set(left)}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, "these import each other, or those that do"


def test_folders_and_files_stay_small() -> None:
    folders = {file.parent for _, file in modules()}
    crowded = [str(folder.relative_to(ROOT)) for folder in folders if len([*folder.glob("*.py")]) > MOST_MODULES]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for _, file in modules()}
    assert not crowded
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_on_architecture_names_every_module(package: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    mine = [name.split(".")[-1] for name, _ in modules() if name.split(".")[0] == package]
    assert not [name for name in mine if not name.startswith("__") and f"`{name}`" not in page]
