"""Claims about the repository as a whole: its folders, its packages and what they may hold."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "wraith": ROOT / "wraith",
    "wraith_transports": ROOT / "transports" / "wraith_transports",
    "wraith_acme": ROOT / "acme" / "wraith_acme",
}
MAX_LINES = 450  # past this a file is about two things
MAX_RECORD_WORDS = 250  # a decision that needs more is several
MADE_BY_TOOLS = {"__pycache__", "build", "dist", "node_modules"}

# Modules that some platforms lack; the libraries below us import them on this one, so those come first.
HIDING = """
import asyncio, importlib, pkgutil, socket, sys
import {libraries}
for name in ("uvloop", "fcntl"):
    sys.modules[name] = None
for holder, names in (
    (socket, ("AF_UNIX", "SO_PEERCRED", "SCM_RIGHTS")),
    (asyncio, ("start_unix_server", "open_unix_connection")),
    (asyncio.SelectorEventLoop, ("create_unix_server", "create_unix_connection")),
):
    for name in names:
        if name in vars(holder):
            delattr(holder, name)
count = 0
for package in map(importlib.import_module, {packages!r}):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def tree(suffix: str = "") -> Iterator[Path]:
    """Every file of ours whose name ends so; not what tools left behind."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name == ".ci" or not (name.startswith(".") or name in MADE_BY_TOOLS)]
        yield from (Path(folder) / name for name in files if name.endswith(suffix))


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("folder", ["transports", "acme"])
def test_a_folder_named_like_a_library_is_not_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_not_packages_and_have_names_of_their_own() -> None:
    assert not [name_of(path) for path in (ROOT / "tests").rglob("__init__.py")]
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]


def test_importing_acme_from_the_root_finds_the_library() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import acme; print(acme.__file__)"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert Path(found.stdout.strip()).name == "__init__.py", found.stdout
    # And in this process, where the folders are on the path.
    spec = importlib.util.find_spec("acme")
    assert spec is not None
    assert spec.origin == found.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_and_is_imported_from_here(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").exists()
    assert Path(str(importlib.import_module(package).__file__)).parent == PACKAGES[package]


def test_every_file_begins_with_a_sentence() -> None:
    def first_line(path: Path) -> str:
        return (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n")[0]

    assert not [name_of(path) for path in tree(".py") if not first_line(path).endswith(".")]


def test_no_file_is_about_two_things() -> None:
    lengths = {name_of(path): len(path.read_bytes().splitlines()) for path in tree(".py")}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_names_the_folder_of_the_checkout() -> None:
    here = re.compile(rb"(?<![\w.])" + re.escape(os.fsencode(ROOT)) + rb"(?![\w-])")
    assert not [name_of(path) for path in tree() if here.search(path.read_bytes())]


def test_the_version_is_in_one_place() -> None:
    version = importlib.import_module("wraith._version").__version__
    literal = re.compile(rf"(?<![\d.]){re.escape(version)}(?![\d.])")
    sources = [*tree(".py"), ROOT / "pyproject.toml"]
    assert [name_of(path) for path in sources if literal.search(path.read_text("utf-8"))] == ["wraith/_version.py"]


def exported(path: Path) -> set[str]:
    """Public names that an `__init__.py` defines, or takes from inside its package."""
    names: set[str] = set()
    for node in ast.parse(path.read_bytes()).body:
        match node:
            case ast.ImportFrom(level=1, module=str()):
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return {name for name in names if not name.startswith("_")}


SURFACES = [path for root in PACKAGES.values() for path in sorted(root.rglob("__init__.py"))]


@pytest.mark.parametrize("path", SURFACES, ids=name_of)
def test_a_package_says_what_it_exports(path: Path) -> None:
    base = PACKAGES[next(name for name, root in PACKAGES.items() if path.is_relative_to(root))].parent
    module = importlib.import_module(".".join(path.parent.relative_to(base).parts))
    declared = list(getattr(module, "__all__", []))

    def order(name: str) -> tuple[int, str]:  # constants, classes, functions: as ruff sorts
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert declared == sorted(set(declared), key=order)
    assert {name for name in declared if not name.startswith("_")} >= exported(path)
    assert not [name for name in declared if not hasattr(module, name)]


def test_every_module_imports_without_uvloop_fcntl_and_unix_sockets() -> None:
    script = HIDING.format(libraries="asyncssh, rich.console, typer", packages=list(PACKAGES))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root.parent) for root in PACKAGES.values())}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = [path for root in PACKAGES.values() for path in modules(root) if path.name != "__main__.py"]
    assert int(done.stdout) == len(expected) - len(PACKAGES)  # the three roots are not walked to, but from


def test_a_decision_is_short_and_in_the_index() -> None:
    index = (ROOT / "adr" / "README.md").read_text("utf-8")
    records = sorted((ROOT / "adr").glob("[0-9]*.md"))
    assert records
    assert not [path.name for path in records if f"({path.name})" not in index]
    assert not [path.name for path in records if len(path.read_text("utf-8").split()) >= MAX_RECORD_WORDS]


def test_links_between_pages_lead_somewhere() -> None:
    link = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
    pages = list(tree(".md"))
    assert ROOT / "README.md" in pages
    dead = [(name_of(page), to) for page in pages for to in link.findall(page.read_text("utf-8")) if to]
    assert not [(page, to) for page, to in dead if not (ROOT / page).parent.joinpath(to).exists()]
