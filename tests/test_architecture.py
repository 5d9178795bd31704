"""Who may import what. A value in a row is the science's, an argument the jobs', a retry the DAGs'; this keeps them apart."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightmarket.shop import PROJECT

PACKAGE = PROJECT / "include" / "nightmarket"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PROJECT / "jobs").glob("*.py"), *(PROJECT / "dags").glob("*.py"), *(PROJECT / "plugins").glob("*.py")])
HEAVY = {"pyspark", "tensorflow", "keras", "pandas", "numpy", "mlflow", "great_expectations", "sklearn", "scipy", "pyarrow",
         "matplotlib"}
PARSED = [p for p in SOURCES if p.relative_to(PROJECT).as_posix() in (
    "include/nightmarket/shop.py", "include/nightmarket/steps.py", "include/nightmarket/command.py", "include/nightmarket/log.py",
) or p.is_relative_to(PACKAGE / "contracts") or p.is_relative_to(PACKAGE / "orchestration") or p.is_relative_to(PACKAGE / "lake")]
"""What a DAG file's import leads to."""


def _name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def _imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Modules that a file imports; with `top_only` not those inside functions or for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno}: relative import"
            yield node.module or ""
        if top_only and (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or
                         (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))):
            continue
        pending.extend(ast.iter_child_nodes(node))


def _roots(path: Path, top_only: bool = False) -> set[str]:
    return {m.split(".")[0] for m in _imports(path, top_only)}


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 40 and len(PARSED) > 10


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_orchestration_dags_and_plugins_import_airflow(path: Path) -> None:
    allowed = path.is_relative_to(PACKAGE / "orchestration") or path.parts[-2] in ("dags", "plugins")
    assert allowed or "airflow" not in _roots(path)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[-2] == "dags"], ids=_name)
def test_dags_import_only_airflow_orchestration_and_contracts(path: Path) -> None:
    outside = [m for m in _imports(path) if m.split(".")[0] not in sys.stdlib_module_names]
    assert all(m == "airflow.sdk" or m.startswith(("nightmarket.orchestration", "nightmarket.contracts")) for m in outside), outside


@pytest.mark.parametrize("path", PARSED, ids=_name)
def test_nothing_heavy_where_a_parse_leads(path: Path) -> None:
    assert not HEAVY & _roots(path, top_only=True)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(PACKAGE)], ids=_name)
def test_the_package_does_not_import_jobs_or_dags(path: Path) -> None:
    assert not {"jobs", "dags", "plugins"} & _roots(path)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(PACKAGE) or p.parts[-2] == "jobs"], ids=_name)
def test_jobs_and_science_do_not_import_orchestration(path: Path) -> None:
    own = path.is_relative_to(PACKAGE / "orchestration")
    rooms = {m for m in _imports(path) if m.startswith("nightmarket.orchestration")}
    # the documents describe the DAGs, nothing else looks at them
    assert own or not rooms or _name(path) == "include/nightmarket/docs.py", rooms


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if _name(path) == "include/nightmarket/shop.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        said = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        where = f"{_name(path)}:{getattr(node, 'lineno', 0)}"
        assert said not in ("os.environ", "os.getenv", "os.putenv", "sys.path"), f"{where}: {said}"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {a.name for a in node.names} & {"environ", "getenv"}, where


def test_plugins_stay_small() -> None:
    for path in (PROJECT / "plugins").iterdir():
        if path.suffix in (".py", ".j2"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 150
