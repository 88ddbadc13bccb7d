"""The rules of the house, read from the imports: CONTRIBUTING.md draws the picture that these tables hold.

Imports point down, siblings do not import each other, and every library has one door.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("sparsedash/**/*.py")])

CONTRACTS = {
    "schema.method_settings",
    "schema.errors",
    "schema.progress",
    "schema.settings",
    "schema.records",
    "schema.pair_settings",
    "schema.pair_records",
    "schema.hashing",
    "schema.cache_keys",
    "schema.notes",
    "schema.validation",
    "stats.layer_errors",
}
KEEPING = {
    "jobs",
    "storage.store",
    "catalog.choices",
    "catalog.presets",
    "stats.significance",
    "stats.anytime",
    "catalog.published",
    "catalog.dimensions",
    "catalog.memory",
    "storage.data_dir",
    "storage.fingerprints",
    "storage.text_refs",
    "storage.text_files",
    "storage.uploads",
    "catalog.families",
    "storage.user_data",
} | CONTRACTS
DRAWING = {
    "service.backend",
    "reporting.charts",
    "reporting",
    "service.preflight",
    "service.problems",
    "service.reproduction",
}
READING = {"engine.models.modules", "engine.pruning"} | CONTRACTS
MEASURING = {
    "engine.models.loading",
    "engine.models.block_walk",
    "engine.texts.corpora",
    "engine.calibration.token_weights",
} | READING
STAGES = {
    "engine.calibration.statistics",
    "engine.evaluation.evaluate",
    "engine.texts.generation",
    "engine.calibration.cache",
    "engine.calibration.gradients",
    "engine.calibration.sequential_refit",
    "engine.models.weight_counts",
    "storage.store",
    "storage.fingerprints",
} | MEASURING

ALLOWED: dict[str, set[str]] = {
    # The front.
    "app": {"ui"} | DRAWING | KEEPING,
    "pages": {"ui"} | DRAWING | KEEPING,
    "ui": DRAWING | KEEPING,
    "service.backend": {"service.preflight", "service.problems"} | KEEPING,
    "service.problems": {"catalog.choices", "catalog.memory", "storage.text_refs"} | CONTRACTS,
    "service.preflight": {"service.problems", "storage.store", "storage.fingerprints", "catalog.memory"} | CONTRACTS,
    "service.reproduction": {
        "catalog.choices",
        "catalog.presets",
        "catalog.dimensions",
        "catalog.memory",
        "catalog.published",
        "stats.significance",
    }
    | CONTRACTS,
    "reporting.charts": {"schema.records", "stats.significance", "catalog.published"},
    "reporting": {"service.backend", "service.preflight", "service.reproduction", "reporting.charts"} | KEEPING,
    # Both halves.
    "jobs": CONTRACTS,
    "storage.store": CONTRACTS,
    "catalog.choices": {"catalog.families"} | CONTRACTS,
    "catalog.presets": CONTRACTS,
    "catalog.families": set(),
    "stats.significance": {"stats.anytime"} | CONTRACTS,
    "stats.anytime": CONTRACTS,
    "catalog.published": CONTRACTS,
    "catalog.dimensions": CONTRACTS,
    "catalog.memory": {"catalog.choices", "catalog.dimensions", "catalog.published"} | CONTRACTS,
    "storage.data_dir": CONTRACTS,
    "storage.user_data": {"storage.store"} | CONTRACTS,
    "storage.fingerprints": {"storage.text_refs"} | CONTRACTS,
    "storage.text_refs": set(),
    "storage.text_files": {"storage.text_refs"} | CONTRACTS,
    "storage.uploads": {"storage.text_refs", "storage.text_files"} | CONTRACTS,
    "schema.records": {"schema.errors", "schema.settings", "schema.method_settings", "schema.pair_records"},
    "schema.pair_records": {"schema.pair_settings"},
    "schema.pair_settings": {"schema.hashing", "schema.validation"},
    "schema.cache_keys": {"schema.hashing", "schema.settings", "schema.method_settings"},
    "stats.layer_errors": {"schema.records"},
    "schema.settings": {"schema.errors", "schema.hashing", "schema.validation", "schema.method_settings"},
    "schema.method_settings": {"schema.errors", "schema.validation"},
    "schema.validation": {"schema.errors"},
    "schema.hashing": set(),
    "schema.notes": set(),
    "schema.progress": {"schema.errors"},
    "schema.errors": set(),
    # The border and the engine.
    "worker": {
        "engine.run.pipeline",
        "engine.comparison.continuation",
        "engine.comparison.divergence",
        "engine.comparison.model_pair",
        "engine.models.loading",
    }
    | KEEPING,
    "__main__": {"engine.run.pipeline", "reporting", "service.problems"} | KEEPING,
    "engine.run.pipeline": {"engine.run.stages", "engine.run.run_log"} | STAGES,
    "engine.comparison.continuation": {"engine.comparison.model_pair"} | STAGES,
    "engine.comparison.divergence": {"engine.comparison.model_pair"} | STAGES,
    "engine.comparison.model_pair": {"engine.run.stages"} | STAGES,
    "engine.run.stages": {
        "engine.evaluation.early_stopping",
        "engine.run.pruned_record",
        "engine.run.run_log",
        "engine.calibration.mismatch",
        "engine.run.run_model",
        "engine.run.run_pruning",
        "engine.run.run_records",
        "engine.run.run_texts",
        "engine.run.sparse_model",
        "catalog.memory",
    }
    | STAGES,
    "engine.run.run_pruning": {
        "engine.run.run_log",
        "engine.run.run_model",
        "engine.run.run_texts",
        "engine.run.sparse_model",
    }
    | STAGES,
    "engine.run.pruned_record": {"engine.run.sparse_model"} | MEASURING,
    "engine.run.sparse_model": {"engine.models.weight_counts"} | MEASURING,
    "engine.run.run_records": {
        "engine.evaluation.early_stopping",
        "engine.evaluation.evaluate",
        "engine.run.run_log",
        "engine.run.run_model",
        "engine.run.run_texts",
        "storage.store",
    }
    | MEASURING,
    "engine.calibration.mismatch": {"storage.store"} | MEASURING,
    "engine.run.run_texts": {
        "engine.run.run_model",
        "engine.run.run_log",
        "engine.calibration.statistics",
        "engine.evaluation.evaluate",
        "engine.texts.generation",
        "storage.store",
        "storage.fingerprints",
    }
    | MEASURING,
    "engine.run.run_model": {"engine.run.run_log", "storage.store", "storage.fingerprints"} | MEASURING,
    "engine.run.run_log": CONTRACTS,
    "engine.calibration.statistics": MEASURING,
    "engine.calibration.statistics_io": MEASURING,
    "engine.calibration.shared_inputs": MEASURING,
    "engine.evaluation.evaluate": {
        "engine.evaluation.answers",
        "engine.evaluation.early_stopping",
        "engine.evaluation.target_scores",
    }
    | MEASURING,
    "engine.evaluation.early_stopping": {"stats.anytime"} | CONTRACTS,
    "engine.evaluation.target_scores": CONTRACTS,
    "engine.texts.generation": MEASURING,
    "engine.calibration.cache": {
        "engine.calibration.statistics",
        "engine.calibration.gradients",
        "engine.calibration.shared_inputs",
        "engine.calibration.statistics_io",
        "storage.store",
        "catalog.memory",
    }
    | MEASURING,
    "engine.calibration.gradients": {"catalog.memory"} | MEASURING,
    "engine.calibration.sequential_refit": {"engine.calibration.statistics"} | MEASURING,
    "engine.models.weight_counts": MEASURING,
    "engine.evaluation.answers": MEASURING,
    "engine.models.loading": {
        "engine.models.dequantise",
        "engine.models.hub",
        "engine.models.content_hash",
        "storage.store",
        "catalog.choices",
    }
    | READING,
    "engine.models.block_walk": READING,
    "engine.calibration.token_weights": CONTRACTS,
    "engine.texts.corpora": {
        "engine.models.hub",
        "engine.models.content_hash",
        "catalog.choices",
        "storage.data_dir",
        "storage.text_refs",
        "storage.text_files",
    }
    | READING,
    "engine.models.dequantise": {"engine.models.content_hash", "storage.store"} | CONTRACTS,
    "engine.models.hub": {"catalog.choices"} | CONTRACTS,
    "engine.models.content_hash": {"storage.store"} | CONTRACTS,
    "engine.models.modules": {"engine.pruning", "catalog.families"} | CONTRACTS,
    "engine.pruning": CONTRACTS,
}
"""What each group of modules may import from the others.

A group may import itself where it is a folder, except pages.
"""

FRONT = {"app", "pages", "ui"} | DRAWING | KEEPING

DOORS: dict[str, set[str]] = {
    "streamlit": {"app", "pages", "ui"},
    "starlette": {"app", "ui"},
    "plotly": {"reporting.charts"},
    "diskcache": {"storage.store"},
    "sqlite3": {"jobs.database", "storage.store"},
    "distributed": {"jobs.dask"},
    "datasets": {"engine.texts.corpora"},
    "transformers": {
        "engine.models.loading",
        "engine.models.dequantise",
        "engine.evaluation.answers",
        "engine.evaluation.evaluate",
        "engine.models.modules",
        "engine.texts.generation",
    },
    "torch": {"engine"},
}
"""The only modules, or folders of them, that may import each library. The store only catches sqlite3.Error."""

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


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_tables_speak_of_the_same_groups():
    assert {name for allowed in ALLOWED.values() for name in allowed} | FRONT <= set(ALLOWED)
    assert {name for doors in DOORS.values() for name in doors} - set(ALLOWED) <= {
        "engine",
        "jobs.database",
        "jobs.dask",
    }


def test_the_table_of_imports_has_no_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [g for g in ALLOWED if g not in order and ALLOWED[g] <= set(order)]
        assert ready, f"a circle among {sorted(set(ALLOWED) - set(order))}"
        order += ready


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_has_its_place_in_the_picture(path):
    module = module_of(path)
    is_face = path.name == "__init__.py" and not imports_of(path)
    assert is_face or module == "engine" or group_of(module), f"give {module} a row in ALLOWED"


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
