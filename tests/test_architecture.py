"""The rules of the house, read from the imports: CONTRIBUTING.md draws the picture that these
tables hold.

Imports point down, siblings do not import each other, and every library has one door.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("sparsedash/**/*.py")]
)

PLAIN = {"schema"}
KEPT = {"catalog", "stats", "storage", "schema"}
READ = {"engine.pruning", "engine.models", "engine.texts"} | KEPT
MEASURED = {"engine.calibration", "engine.evaluation"} | READ
SHOWN = {"service", "jobs", "reporting.wording", "reporting.charts", "reporting"} | KEPT
PAGES = ("compare", "form", "models", "overview", "prune", "runs", "settings")
"""The parts of one page begin with its name, and never import those of another; `form` is for
all.
"""

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
    "engine.healing": MEASURED - {"engine.evaluation"},
    "engine.tasks": MEASURED - {"engine.calibration"},
    "engine.run": {"engine.healing", "engine.tasks"} | MEASURED,
    "engine.comparison": {"engine.run"} | MEASURED,
    "engine.export": {"engine.run"} | MEASURED,
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
    "worker": {"engine.run", "engine.comparison", "engine.export", "jobs", "reporting"}
    | MEASURED,
    "shell": {
        "engine.run",
        "engine.export",
        "engine.models",
        "engine.comparison",
        "service",
        "jobs",
        "worker",
    }
    | {"reporting.wording", "reporting"}
    | KEPT,
    "__main__": {"shell"},
    # From Python, without a job.
    "api": {
        "engine.run",
        "engine.export",
        "engine.healing",
        "reporting.wording",
        "reporting",
    }
    | MEASURED,
    "": {"api", "schema"},
}
"""What each package may import from the others, the most special name first.

Every package may import itself, but for pages: these are files of their own.
"""

FRONT = {
    group
    for group in ALLOWED
    if not group.startswith(("engine", "worker", "shell", "__main__", "api"))
} - {""}

DOORS: dict[str, set[str]] = {
    "streamlit": {"app", "pages", "ui"},
    "starlette": {"app", "ui"},
    "plotly": {"reporting.charts"},
    "diskcache": {"storage.store", "storage.disk_cache"},
    "sqlite3": {"jobs.job_table", "storage.store", "storage.disk_cache"},
    "datasets": {
        "engine.texts.corpora",
        "engine.tasks.harness",
        "engine.tasks.user_tasks",
    },
    "lm_eval": {"engine.tasks"},
    "distributed": {"jobs.cluster"},
    "gguf": {"catalog.gguf_reader"}
    | {
        f"engine.models.{name}"
        for name in (
            "model_conversion",
            "gguf_making",
            "gguf_quantising",
            "gguf_writing",
        )
    },
    "llama_cpp_py_sync": {
        "engine.comparison.llama_timer",
        "engine.export.reloaded",
        "engine.models.quantiser",
    },
    "transformers": {
        "engine.models",
        "engine.evaluation",
        "engine.texts.next_logits",
        "engine.export.reloaded",
        "api",
    },
    "torch": {"engine"},
}
"""The only modules, or folders of them, that may import each library. The store catches
sqlite3.Error, and puts a cache's settings right before diskcache obeys them.
"""

HEAVY = ("torch", "transformers", "datasets", "accelerate")
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def module_of(path: Path) -> str:
    """`engine.pruning.saliency`, `ui.frame`, `pages.runs`, `app`; packages by their own name."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if parts[0] == "sparsedash":
        parts.pop(0)
    return ".".join(parts)


MODULES = {module_of(path): path for path in FILES}


def is_within(module: str, group: str) -> bool:
    return module == group or module.startswith(f"{group}.")


def group_of(module: str) -> str | None:
    return next((group for group in ALLOWED if is_within(module, group)), None)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def imports_of(path: Path) -> list[str]:
    """Every name that a file imports, at its top or inside a function; `a.b.c` for `from a.b import
    c`.
    """
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path} has a relative import; imports are written out"
            )
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@cache
def imported_modules(path: Path) -> set[str]:
    """The project's own modules that a file imports, by the names of `module_of`."""
    result = set()
    for name in imports_of(path):
        module = name.removeprefix("sparsedash.")
        if module != name or name.partition(".")[0] in ("pages", "app"):
            result |= {module, module.rpartition(".")[0]} & set(MODULES)
    return result - {""}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_tables_speak_of_what_is_there_and_are_short():
    assert set().union(*ALLOWED.values()) <= set(ALLOWED)
    assert len(ALLOWED) <= 28
    for name in set(ALLOWED).union(*DOORS.values()):
        assert any(is_within(module, name) for module in MODULES), name


def test_neither_packages_nor_files_import_each_other_in_a_circle():
    TopologicalSorter(ALLOWED).prepare()
    TopologicalSorter(
        {module: imported_modules(path) - {module} for module, path in MODULES.items()}
    ).prepare()


def test_four_modules_lie_directly_in_the_package_and_every_file_name_occurs_once():
    direct = {path.name for path in FILES if path.parent == ROOT / "sparsedash"}
    assert direct == {"__init__.py", "__main__.py", "api.py", "worker.py"}
    names = Counter(
        path.name
        for path in FILES
        if ROOT / "sparsedash" in path.parents and path.name != "__init__.py"
    )
    assert {name for name, n in names.items() if n > 1} == set()


def test_every_public_name_has_one_home():
    homes = {"main": None}
    for path in FILES:
        # What api offers has the engine's own words.
        for node in tree_of(path).body if path.name != "api.py" else ():
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and node.name != "main":
                assert node.name not in homes, (homes[node.name], path)
                homes[node.name] = path


def page_of(module: str) -> str | None:
    """The page that a module of the interface belongs to, by the beginning of its name."""
    return next((page for page in PAGES if module.startswith(f"ui.{page}_")), None)


def test_every_page_has_parts_and_none_imports_another_page_s():
    assert {page_of(module) for module in MODULES} - {None} == set(PAGES)
    for module, path in MODULES.items():
        if page := page_of(module):
            assert {page_of(imported) for imported in imported_modules(path)} <= {
                None,
                "form",
                page,
            }, module


def test_every_module_has_its_place_and_imports_point_down_and_not_aside():
    for module, path in MODULES.items():
        group = group_of(module)
        assert module == "" or group, f"give the package of {module} a row in ALLOWED"
        for target in map(group_of, imported_modules(path)):
            is_own = target == group and group != "pages"
            assert is_own or target in ALLOWED.get(group or "", set()), (
                f"{module}: {group} may not import {target}"
            )


def test_every_library_comes_in_by_its_own_door():
    for module, path in MODULES.items():
        for library in {
            name.partition(".")[0] for name in imports_of(path)
        } & DOORS.keys():
            assert any(is_within(module, group) for group in DOORS[library]), (
                f"{module} imports {library}"
            )


def test_the_front_and_a_worker_without_a_job_leave_the_heavy_libraries_alone_and_the_front_knows_no_engine():
    assert set().union(*map(ALLOWED.get, FRONT)) <= FRONT
    # The pages themselves run only inside a session.
    light = FRONT - {"app", "pages"} | {"worker"}
    front = [module for module in MODULES if module == "" or group_of(module) in light]
    program = (
        "import sys, importlib\n"
        f"for name in {front!r}: importlib.import_module(f'sparsedash.{{name}}'.rstrip('.'))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


CHECKED = [*FILES, *sorted(ROOT.glob("benchmarks/**/*.py"))]


def test_nothing_that_could_run_somebody_elses_code_is_imported_or_called():
    for path in CHECKED:
        require_harmless(path)


def require_harmless(path):
    # The name of an error can be imported without being able to do what raises it.
    imported = set(imports_of(path)) - {"pickle.UnpicklingError"}
    assert not {name.partition(".")[0] for name in imported} & RUNS_CODE, named(path)
    for call in (
        node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)
    ):
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        where = f"{named(path)}:{call.lineno}"
        called = ast.unparse(call.func)
        assert keywords.get("trust_remote_code", "False") == "False", where
        assert keywords.get("allow_pickle", "False") == "False", where
        assert called not in ("eval", "exec"), where
        assert called != "torch.load" or keywords.get("weights_only") == "True", where
        assert (
            called not in ("diskcache.Cache", "Cache")
            or keywords.get("disk") == "PlainDisk"
        ), where
        if called.endswith((".from_pretrained", ".from_config")):
            assert keywords.keys() & {"trust_remote_code", None}, where


ADDRESS = re.compile(
    r"\b[a-z]+://([\w.-]+)|\b((?:[a-z0-9-]+\.)+(?:com|org|net|io|co|ai|dev))\b",
    re.IGNORECASE,
)
LOOPBACK = {"127.0.0.1", "localhost"}
NEVER_ASKED = {
    "sparsedash/catalog/published_results.py": {
        "github.com"
    },  # a link to where a table is from
    "sparsedash/reporting/ruler.py": {"www.w3.org"},  # the name of the SVG namespace
}


def test_no_module_names_a_host_other_than_this_machine():
    """What is fetched, the hub's own client fetches, from where its user has told it to."""
    for path in FILES:
        hosts = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                hosts |= {a or b for a, b in ADDRESS.findall(node.value)}
        assert hosts <= LOOPBACK | NEVER_ASKED.get(named(path), set()), path


def test_every_download_is_marked_as_the_visitors_for_whom_the_page_made_it():
    for path in (path for module, path in MODULES.items() if is_within(module, "ui")):
        for node in ast.walk(tree_of(path)):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") == "download_button"
            ):
                (mime,) = [
                    keyword.value for keyword in node.keywords if keyword.arg == "mime"
                ]
                assert ast.unparse(mime).startswith("login.private_media_type("), (
                    f"{path}:{node.lineno}"
                )
