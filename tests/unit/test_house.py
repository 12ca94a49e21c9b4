"""The house keeps its plan: imports go downwards only, the core is light, and starting is fast."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "eager"

# From the ground up. A module imports from its own row's package or from rows below, never from above.
LAYERS = [
    {"types", "entropy", "randomness", "prefix", "words", "errors", "cache", "atomic"},
    {"branching", "budget"},
    {"engines"},
    {"generate"},
    {"metrics"},
    {"grading", "tasks"},
    {"store"},
    {"results"},
    {"experiments", "code_eval"},
    {"recap", "report"},
    {"cli", "server"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
CORE = {"types", "entropy", "randomness", "branching", "budget", "generate"}


def top_level(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """(module, whether at import time) of every import in the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(ast.walk(tree)) - {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"eager.{alias.name}" for alias in node.names] if node.module == "eager" else [node.module]
            yield from ((name, node in top) for name in names)


MODULES = [path for path in SRC.rglob("*.py") if path != SRC / "__init__.py"]


def test_every_module_has_its_place():
    """A new part of the house is put on the plan before it is built."""
    assert {top_level(path) for path in MODULES} <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_downwards(path):
    """No module imports from a layer above its own, not even inside a function."""
    for module, _ in imports_of(path):
        if module.startswith("eager.") and module != "eager.__version__":
            used = module.split(".")[1]
            assert RANK[used] <= RANK[top_level(path)], f"{path.name} imports {module}"
            assert not (used in ("branching", "budget") and top_level(path) == "engines"), "engines know no algorithm"


@pytest.mark.parametrize("path", [p for p in MODULES if top_level(p) in CORE], ids=lambda p: p.name)
def test_the_core_needs_numpy_only(path):
    """The algorithm imports the standard library and numpy, nothing else."""
    for module, _ in imports_of(path):
        root = module.split(".")[0]
        assert root in sys.stdlib_module_names | {"numpy", "eager"}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if top_level(p) == "branching" or top_level(p) == "budget"], ids=lambda p: p.name
)
def test_the_algorithm_knows_no_engine(path):
    """A newcomer understands EAGer from these two files: they touch neither engines nor files nor clocks."""
    used = {module.split(".")[0] if not module.startswith("eager") else module for module, _ in imports_of(path)}
    assert not used & {"os", "pathlib", "time", "io", "eager.engines"}


def seconds(code: str) -> float:
    """The fastest of some runs of a fresh interpreter."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_starting_is_fast():
    """`import eager` and `eager --help` take less than 3x a bare interpreter with numpy imported."""
    bare = seconds("import numpy")
    assert seconds("import eager") < 3 * bare
    assert seconds("import sys; sys.argv = ['eager', '--help']; from eager.cli import main; main()") < 3 * bare


def test_help_imports_no_heavy_library():
    """Engines and heavy libraries are imported when they are used."""
    code = (
        "import sys; from click.testing import CliRunner; from eager.cli import main;"
        "assert CliRunner().invoke(main, ['run', '--help']).exit_code == 0;"
        "heavy = {'numpy', 'torch', 'vllm', 'llama_cpp', 'datasets', 'math_verify', 'matplotlib', 'scipy'};"
        "print(heavy & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
