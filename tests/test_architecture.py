"""The rules of the house, read from the imports: CONTRIBUTING.md draws the picture that these tables hold.

Imports point down, siblings do not import each other, and every library has one door.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("sparsedash/**/*.py")])

PLAIN = {"schema"}
KEPT = {"catalog", "stats", "storage", "schema"}
READ = {"engine.pruning", "engine.models", "engine.texts"} | KEPT
MEASURED = {"engine.calibration", "engine.evaluation"} | READ
SHOWN = {"service", "jobs", "reporting.wording", "reporting.charts", "reporting"} | KEPT
PAGES = ("compare", "form", "layers", "models", "overview", "published", "runs", "storage")
"""The parts of one page begin with its name, and never import those of another; `form` is for all."""

ALLOWED: dict[str, set[str]] = {
    # Plain values, tables, numbers, and what is kept: both halves stand on them.
    "schema": set(),
    "catalog": PLAIN,
    "stats": PLAIN,
    "storage": PLAIN,
    "jobs": PLAIN,
    # The engine.
    "engine.pruning": PLAIN,
    "engine.models": {"engine.pruning"} | KEPT,
    "engine.texts": {"engine.models", "engine.pruning"} | KEPT,
    "engine.calibration": READ,
    "engine.evaluation": READ,
    "engine.run": MEASURED,
    "engine.comparison": {"engine.run"} | MEASURED,
    "engine.export": {"engine.run", "reporting.wording", "reporting"} | MEASURED,
    "engine": {"storage"},
    # The front.
    "service": {"jobs"} | KEPT,
    "reporting.wording": {"catalog", "schema"},
    "reporting.charts": {"reporting.wording"} | KEPT - {"storage"},
    "reporting": SHOWN - {"reporting"},
    "ui": SHOWN,
    "pages": {"ui"} | SHOWN,
    "app": {"ui"},
    # What knows both halves.
    "worker": {"engine.run", "engine.comparison", "engine.export", "jobs"} | MEASURED,
    "shell": {"engine.run", "engine.export", "engine.models", "engine.comparison", "service", "jobs"}
    | {"reporting.wording", "reporting"}
    | KEPT,
    "__main__": {"shell"},
}
"""What each package may import from the others, the most special name first.

Every package may import itself, but for pages: these are files of their own.
"""

FRONT = {group for group in ALLOWED if not group.startswith(("engine", "worker", "shell", "__main__"))}

DOORS: dict[str, set[str]] = {
    "streamlit": {"app", "pages", "ui"},
    "starlette": {"app", "ui"},
    "plotly": {"reporting.charts"},
    "diskcache": {"storage.store", "storage.disk_cache"},
    "sqlite3": {"jobs.job_table", "storage.store", "storage.disk_cache"},
    "datasets": {"engine.texts.corpora"},
    "distributed": {"jobs.cluster"},
    "gguf": {"catalog.gguf_reader", "engine.models.model_conversion", "engine.export.export_files"},
    "llama_cpp_py_sync": {"engine.export.reloaded"},
    "transformers": {"engine.models", "engine.evaluation", "engine.texts.generation", "engine.export.reloaded"},
    "torch": {"engine"},
}
"""The only modules, or folders of them, that may import each library. The store catches sqlite3.Error,
and puts a cache's settings right before diskcache obeys them.
"""

HEAVY = ("torch", "transformers", "datasets", "accelerate")
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def module_of(path: Path) -> str:
    """`engine.pruning.saliency`, `ui.frame`, `pages.jobs`, `app`; packages by their own name."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if parts[0] == "sparsedash":
        parts.pop(0)
    return ".".join(parts)


def is_within(module: str, group: str) -> bool:
    return module == group or module.startswith(f"{group}.")


def group_of(module: str) -> str | None:
    return next((group for group in ALLOWED if is_within(module, group)), None)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> list[str]:
    """Every name that a file imports, at its top or inside a function; `a.b.c` for `from a.b import c`."""
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; imports are written out"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_modules(path: Path) -> set[str]:
    """The project's own modules that a file imports, by the names of `module_of`."""
    own = set()
    for name in imports_of(path):
        first, _, rest = name.partition(".")
        if first == "sparsedash" and rest and rest != "__version__":
            own.add(rest)
        elif first in ("pages", "app"):
            own.add(name)
    return own


def module_named(name: str, known: dict[str, Path]) -> str | None:
    """The module that an imported name is, or comes from."""
    return next((module for module in (name, name.rpartition(".")[0]) if module in known), None)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_table_speaks_of_packages_that_are_there_and_is_short():
    assert {name for allowed in ALLOWED.values() for name in allowed} <= set(ALLOWED)
    assert {name for name in ALLOWED if not any(is_within(module_of(path), name) for path in FILES)} == set()
    assert len(ALLOWED) <= 25


def test_every_door_leads_to_a_module_that_is_there():
    doors = {name for names in DOORS.values() for name in names}
    assert {name for name in doors if not any(is_within(module_of(path), name) for path in FILES)} == set()


def test_the_table_of_imports_has_no_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [g for g in ALLOWED if g not in order and ALLOWED[g] <= set(order)]
        assert ready, f"a circle among {sorted(set(ALLOWED) - set(order))}"
        order += ready


def test_no_files_import_each_other_in_a_circle():
    known = {module_of(path): path for path in FILES}
    waiting = {
        module: {target for name in imported_modules(path) if (target := module_named(name, known))} - {module}
        for module, path in known.items()
    }
    while ready := [module for module, targets in waiting.items() if not targets]:
        waiting = {module: targets - set(ready) for module, targets in waiting.items() if module not in ready}
    assert not waiting, f"a circle among {sorted(waiting)}"


def test_three_modules_lie_directly_in_the_package_and_every_file_name_occurs_once():
    direct = {path.name for path in FILES if path.parent == ROOT / "sparsedash"}
    assert direct == {"__init__.py", "__main__.py", "worker.py"}
    names = Counter(path.name for path in FILES if ROOT / "sparsedash" in path.parents and path.name != "__init__.py")
    assert {name for name, n in names.items() if n > 1} == set()


def test_every_public_name_has_one_home():
    homes = Counter(
        node.name
        for path in FILES
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name != "main"
    )
    assert {name for name, n in homes.items() if n > 1} == set()


def page_of(module: str) -> str | None:
    """The page that a module of the interface belongs to, by the beginning of its name."""
    return next((page for page in PAGES if module.startswith(f"ui.{page}_")), None)


def test_every_page_has_parts():
    assert {page_of(module_of(path)) for path in FILES} - {None} == set(PAGES)


@pytest.mark.parametrize("path", [path for path in FILES if page_of(module_of(path))], ids=named)
def test_no_part_of_a_page_imports_another_page_s(path):
    pages = {page_of(module) for module in imported_modules(path)}
    assert pages <= {None, "form", page_of(module_of(path))}


def test_what_results_say_knows_no_streamlit():
    known = {module_of(path): path for path in FILES}
    below = {module for module in known if is_within(module, "reporting")}
    todo = list(below)
    while todo:
        for name in imported_modules(known[todo.pop()]):
            target = module_named(name, known)
            if target and target not in below:
                below.add(target)
                todo.append(target)
    libraries = {name.partition(".")[0] for module in below for name in imports_of(known[module])}
    assert "streamlit" not in libraries


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_has_its_place_in_the_picture(path):
    module = module_of(path)
    assert module == "" or group_of(module), f"give the package of {module} a row in ALLOWED"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_down_and_not_aside(path):
    group = group_of(module_of(path))
    for imported in imported_modules(path):
        target = group_of(imported)
        assert target, f"{imported} has no row in ALLOWED"
        if target == group and group != "pages":
            continue
        assert target in ALLOWED.get(group or "", set()), f"{group} may not import {target}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_library_comes_in_by_its_own_door(path):
    module = module_of(path)
    for name in imports_of(path):
        library = name.partition(".")[0]
        for door in [DOORS[library]] if library in DOORS else []:
            assert any(is_within(module, group) for group in door), f"{module} imports {library}"


def test_the_front_knows_nothing_of_the_engine():
    reached = {name for group in FRONT for name in ALLOWED[group]}
    assert reached <= FRONT
    assert not any(is_within(name, "engine") for name in reached)


def front_modules() -> list[str]:
    """What the pages import; the pages themselves run only inside a session."""
    modules = [module_of(path) for path in FILES]
    return [
        f"sparsedash.{module}" if module else "sparsedash"
        for module in modules
        if module == "" or group_of(module) in FRONT - {"app", "pages"}
    ]


def test_everything_the_front_uses_leaves_the_heavy_libraries_alone():
    program = (
        "import sys, importlib\n"
        f"for name in {front_modules()!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


CHECKED = [*FILES, *sorted(ROOT.glob("benchmarks/**/*.py"))]


@pytest.mark.parametrize("path", CHECKED, ids=named)
def test_nothing_that_could_run_somebody_elses_code_is_imported(path):
    # The name of an error can be imported without being able to do what raises it.
    imported = set(imports_of(path)) - {"pickle.UnpicklingError"}
    assert not {name.partition(".")[0] for name in imported} & RUNS_CODE


def calls_of(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", CHECKED, ids=named)
def test_no_remote_code_is_trusted_and_no_weights_are_unpickled(path):
    for call in calls_of(path):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        where = f"{named(path)}:{call.lineno}"
        assert given.get("trust_remote_code", "False") == "False", where
        assert given.get("allow_pickle", "False") == "False", where
        match ast.unparse(call.func):
            case "torch.load":
                assert given.get("weights_only") == "True", where
            case "diskcache.Cache" | "Cache":
                assert given.get("disk") == "PlainDisk", where
            case "eval" | "exec":
                pytest.fail(where)


@pytest.mark.parametrize("path", CHECKED, ids=named)
def test_a_model_is_always_loaded_with_remote_code_refused(path):
    for call in calls_of(path):
        if ast.unparse(call.func).endswith((".from_pretrained", ".from_config")):
            given = {word.arg for word in call.keywords}
            assert given & {"trust_remote_code", None}, f"{named(path)}:{call.lineno}"


ADDRESS = re.compile(r"\b[a-z]+://([\w.-]+)|\b((?:[a-z0-9-]+\.)+(?:com|org|net|io|co|ai|dev))\b", re.IGNORECASE)
LOOPBACK = {"127.0.0.1", "localhost"}
NEVER_ASKED = {
    "sparsedash/catalog/published_results.py": {"github.com"},  # a link to where a table is from
    "sparsedash/reporting/run_reports.py": {"www.w3.org"},  # the name of SVG
}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_module_names_a_host_other_than_this_machine(path):
    """What is fetched, the hub's own client fetches, from where its user has told it to."""
    texts = [n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    hosts = {a or b for text in texts for a, b in ADDRESS.findall(text)}
    assert hosts <= LOOPBACK | NEVER_ASKED.get(named(path), set())


@pytest.mark.parametrize(
    "path", [path for path in FILES if "/ui/" in str(path)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_download_is_marked_as_the_visitors_for_whom_the_page_made_it(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "download_button":
            (mime,) = [keyword.value for keyword in node.keywords if keyword.arg == "mime"]
            assert ast.unparse(mime).startswith("login.private_media_type("), f"{path}:{node.lineno}"
