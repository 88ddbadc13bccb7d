"""What `pip install .` gives: the command, the package with its data, the dependencies of
requirements-core.txt.
"""

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

import sparsedash

ROOT = Path(__file__).parents[1]
RUN_THE_COMMAND = (
    "import sys; from importlib.metadata import distribution; "
    "sys.exit(distribution('sparsedash').entry_points['sparsedash'].load()())"
)


def run(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since building leaves folders behind; without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    copytree(
        ROOT,
        folder / "tree",
        ignore=ignore_patterns(
            ".*",
            "__pycache__",
            "docs",
            "build",
            "*.egg-info",
        ),
    )
    offline = (
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--check-build-dependencies",
    )
    done = run(
        "-m",
        "pip",
        "wheel",
        *offline,
        "--wheel-dir",
        str(folder),
        ".",
        cwd=folder / "tree",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        opened.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def metadata(wheel):
    (file,) = wheel.glob("*.dist-info/METADATA")
    return message_from_string(file.read_text(encoding="utf-8"))


def requirements(part: str) -> list[Requirement]:
    """The ranges in requirements-PART.txt."""
    lines = (ROOT / f"requirements-{part}.txt").read_text(encoding="utf-8").splitlines()
    ranges = [line.partition("#")[0] for line in lines]
    return [Requirement(text) for text in ranges if text]


def files_in(folder: Path) -> set[str]:
    result = (
        path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    return {str(path.relative_to(folder)) for path in result}


def test_the_wheel_holds_the_package_with_every_data_file_and_nothing_else(wheel):
    assert files_in(wheel / "sparsedash") == files_in(ROOT / "sparsedash")
    assert sorted(path.name.partition("-")[0] for path in wheel.iterdir()) == [
        "sparsedash",
        "sparsedash",
    ]


def test_the_version_is_the_one_of_the_package(metadata):
    assert metadata["Version"] == sparsedash.__version__
    assert sparsedash.__version__ not in (ROOT / "pyproject.toml").read_text()


def test_the_dependencies_are_the_lines_of_the_requirements_and_the_pages_libraries_an_extra(
    metadata,
):
    core = requirements("core")
    extra = [
        Requirement(f'{requirement}; extra == "dashboard"')
        for requirement in requirements("dashboard")
    ]
    assert set(map(Requirement, metadata.get_all("Requires-Dist"))) == {*core, *extra}
    assert len(core) > 10
    both = "-r requirements-core.txt\n-r requirements-dashboard.txt\n"
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").endswith(both)
    assert metadata.get_all("Provides-Extra") == ["dashboard"]


def test_the_shell_and_python_need_no_library_of_the_pages_and_only_python_s_functions_import_torch():
    names = [requirement.name for requirement in requirements("dashboard")]
    program = (
        "import sys, sparsedash, sparsedash.shell.commands; dir(sparsedash); before = 'torch' in sys.modules\n"
        "assert all(callable(getattr(sparsedash, name)) for name in sparsedash.__all__)\n"
        f"print(before, 'torch' in sys.modules, [name for name in {names} if name in sys.modules])"
    )
    assert run("-c", program, cwd=ROOT).stdout.split(maxsplit=2) == [
        "False",
        "True",
        "[]\n",
    ]


REFUSED = (
    "sparsedash: Model: there is no model /nowhere on this machine; possible: a folder, a .gguf file, or a name of the "
    "hub as in owner/name@revision.\n"
)


@pytest.mark.parametrize(
    ("arguments", "code", "out", "error"),
    [
        (["--version"], 0, f"sparsedash {sparsedash.__version__}\n", ""),
        (["run", "--model", "/nowhere"], 2, "", REFUSED),
        ([], 2, "", "sparsedash: the following arguments are required: COMMAND\n"),
    ],
)
def test_the_command_is_the_module(
    wheel, tmp_path, monkeypatch, arguments, code, out, error
):
    monkeypatch.setenv("PYTHONPATH", str(wheel))
    monkeypatch.setenv("SPARSEDASH_DATA_DIR", str(tmp_path / "data"))
    for command in (["-c", RUN_THE_COMMAND], ["-m", "sparsedash"]):
        done = run(*command, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (code, out, error)
