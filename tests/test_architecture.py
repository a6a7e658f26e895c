"""The page architecture.md is true: its files and names exist, and its package table is complete."""

import ast
import re
from pathlib import Path

import pytest

import zkdns

PACKAGE = Path(zkdns.__file__).parent
PAGE = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", PAGE, re.MULTILINE)
MAX_FILES = {"cached": 8, "uncached": 15, "ZooKeeper": 18, "forwarded": 15, "setting": 5}
"""The files that a reader opens to follow a path."""


def defined(file: str) -> set[str]:
    """The names that a module defines at its top level."""
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


@pytest.mark.parametrize(("file", "name"), STEPS, ids=[f"{file}:{name}" for file, name in STEPS])
def test_each_step_names_a_definition(file: str, name: str) -> None:
    assert name in defined(file)


def test_all_paths_of_files_exist() -> None:
    written = set(re.findall(r"`((?:zkdns|tests)/[\w/.]+|[\w/]+/[\w/]+\.py)`", PAGE))
    assert len(written) > 20
    missing = {
        path for path in written if not any((root / path).exists() for root in (PACKAGE, PACKAGE.parent))
    }
    assert missing == set()


@pytest.mark.parametrize("title", MAX_FILES)
def test_a_path_leads_through_few_files(title: str) -> None:
    section = PAGE.partition(f"## Path of a{'n' if title == 'uncached' else ''} {title}")[2].partition(
        "\n## "
    )[0]
    files = set(re.findall(r"^\| `([\w/]+\.py)`", section, re.MULTILINE))
    assert 5 <= len(files) <= MAX_FILES[title]


def test_the_package_table_has_every_package() -> None:
    table = PAGE.partition("## Packages")[2].partition("\n## ")[0]
    written = {
        name.rstrip("/")
        for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`([\w/]+)`", row)
    }
    packages = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" and not path.stem.startswith("__")
    }
    packages |= {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages <= written
