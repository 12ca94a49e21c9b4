"""The house keeps its plan: imports go one way, few touch the world outside, the core is light, starting is fast."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "eager"

# From the ground up. A module imports from its own row's package or from rows below, never from above.
LAYERS = [
    {"types", "entropy", "randomness", "prefix", "words", "errors", "machine", "child", "atomic"},
    {"wire"},
    {"branching", "branch_rules", "budget"},
    {"engines"},
    {"generator", "texts"},
    {"requeue"},
    {"whole_trees"},
    {"metrics"},
    {"grading", "tasks"},
    {"store"},
    {"results"},
    {"recording", "keeping", "voting", "sharing", "experiments", "code_eval", "replay"},
    {"calibrate"},
    {"recap", "report"},
    {"api", "integrations"},
    {"chat"},
    {"cli", "server"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Beside `cli`, whose options may come from variables. Everyone else is told what they need.
ENVIRONMENT = {
    "child.py": "other Pythons get it without what would lead them astray, or with what keeps them on their way",
    "machine.py": "where the user wants caches",
    "engines/_llama_library.py": "llama.cpp's threads are set by variables, read when it is loaded",
    "engines/_native_check.py": "where llama-cpp-python looks for its library",
    "engines/_vllm_api.py": "vLLM is set by variables, and reads them when it is imported",
}
# `eager.child` is for what is asked more than once.
PROCESSES = {
    "child.py": "Pythons that answer requests",
    "code_eval/environment.py": "makes EvalPlus's environment: venv, pip",
    "code_eval/humaneval.py": "EvalPlus fetches its problems, once",
    "code_eval/judge.py": "EvalPlus's check forks",
    "code_eval/sandbox.py": "bubblewrap",
    "engines/_native_check.py": "native code that may kill its process",
    "engines/_vllm_servers.py": "vLLM's servers, one a replica",
}
# Everyone else measures time with a clock that never jumps.
WALL_CLOCKS = {
    "cli/place.py": "the name of a run's folder",
    "engines/_chat.py": "the date in prompts, where a template wants one; kept with the run",
    "engines/_openai_faults.py": "a server may say by the date when to try again; waits are bounded",
    "server/chat_response.py": "OpenAI's answers say when they were made",
    "server/gateway.py": "when its model was made, to OpenAI's clients: the start",
}
# Everyone else writes files through `eager.atomic`: whole or not at all, by the umask, through links.
WRITERS = {
    "atomic.py": "the one",
    "code_eval/environment.py": "inside what `made_once` makes",
    "code_eval/judge.py": "as a child, what `made_once` has asked for",
    "engines/_native_probe.py": "in a temporary folder, for a child",
    "engines/_vllm_servers.py": "logs in a temporary folder, of children",
    "store/journal.py": "appends, and sets damaged lines aside in place",
}
CORE = {"types", "entropy", "randomness", "branching", "branch_rules", "budget", "generator", "requeue"}


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


def file_of(module: str) -> Path | None:
    """The file of one of our modules; None for anything else."""
    path = SRC.parent.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file() and file != SRC / "__init__.py"), None)


def files_used(path: Path) -> set[Path]:
    """The files of ours that this one imports, at whatever time."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            used |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {file_of(f"{node.module}.{alias.name}") or file_of(node.module) for alias in node.names}
    return used - {None}


def circle(start: Path) -> list[str]:
    """A shortest way of imports from a file back to itself; [] if there is none."""
    ways = [[start]]
    seen = set()
    for way in ways:
        for used in sorted(files_used(way[-1]) - seen):
            if used == start:
                return [str(file.relative_to(SRC)) for file in [*way, used]]
            seen.add(used)
            ways.append([*way, used])
    return []


def is_os(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "os"


def files_that_name(*names: str) -> set[str]:
    """The files outside `cli` that import one of these names, or have it from `os`."""
    found = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_os(node.value)}
        named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        if named & set(names) and top_level(path) != "cli":
            found.add(path.relative_to(SRC).as_posix())
    return found


MODULES = [path for path in SRC.rglob("*.py") if path != SRC / "__init__.py"]


def test_every_module_has_its_place():
    """A new part of the house is put on the plan before it is built."""
    assert {top_level(path) for path in MODULES} <= set(RANK)


def test_contributing_shows_the_plan():
    """Its table holds every part there is, the upper ones first."""
    page = (SRC.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("| from the top |")[1].split("\n\n")[0]
    shown = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert set(shown) == {top_level(path) for path in MODULES} - {"__main__"}
    assert shown == sorted(shown, key=lambda name: -RANK[name])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_downwards(path):
    """No module imports from a layer above its own, not even inside a function."""
    for module, _ in imports_of(path):
        if module.startswith("eager.") and module != "eager.__version__":
            used = module.split(".")[1]
            assert RANK[used] <= RANK[top_level(path)], f"{path.name} imports {module}"
            assert not (used in ("branching", "budget") and top_level(path) == "engines"), "engines know no algorithm"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_file_imports_itself_by_way_of_others(path):
    """Nor inside a package, nor inside a function: each file can be understood with those below it alone."""
    assert circle(path) == []


def test_few_read_the_environment():
    """Beside the command line only those on the list, each for its reason."""
    assert files_that_name("environ", "environb", "getenv", "putenv") == set(ENVIRONMENT)


def test_few_start_processes():
    """Only those on the list, each for its reason; all Pythons among them are started isolated."""
    assert files_that_name("subprocess", "multiprocessing", "system", "popen", "fork") == set(PROCESSES)


def looks_at_the_date(node: ast.AST) -> bool:
    """Whether this is a call that asks what time it is."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    named = {item.id for item in ast.walk(node.func.value) if isinstance(item, ast.Name)}
    asked = {"time": {"time", "time_ns", "ctime", "strftime", "localtime", "gmtime"}}
    asked |= {"datetime": {"now", "utcnow", "today"}, "date": {"today"}}
    return any(node.func.attr in asked.get(name, ()) for name in named)


def test_few_look_at_the_date():
    """Only those on the list, each for its reason: nothing is waited for or measured by a clock that jumps."""
    trees = {path.relative_to(SRC).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    assert {name for name, tree in trees.items() if any(map(looks_at_the_date, ast.walk(tree)))} == set(WALL_CLOCKS)


def writes_files(node: ast.AST) -> bool:
    """Whether this is a call that writes a file under its final name."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    modes = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    is_opened = name == "open" and any(re.fullmatch("[rwxabt+]*[wxa+][rwxabt+]*", mode) for mode in modes)
    return is_opened or name in ("write_text", "write_bytes", "copyfile", "copy2")


def test_few_write_files():
    """Only those on the list, each for its reason."""
    trees = {path.relative_to(SRC).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    assert {name for name, tree in trees.items() if any(map(writes_files, ast.walk(tree)))} == set(WRITERS)


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
        "heavy = {'numpy', 'torch', 'vllm', 'llama_cpp', 'datasets', 'math_verify', 'matplotlib', 'scipy', 'jinja2'};"
        "print(heavy & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
