"""Says which installed packages have known weaknesses; fails where the product has one that audit.toml does not name.

    python -m supply.audit --tools DIR

What is known is asked of the services that pip-audit can ask. Where none answers, that is said in a line, and is no
failure: nothing has become worse.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from supply.installed import ROOT, others, product

SERVICES = ("pypi", "osv")
ANSWER_S = 5
LIMIT_S = 90


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """One known weakness. names: all under which it is known. mended_in: versions."""

    package: str
    names: frozenset[str]
    mended_in: tuple[str, ...]

    def __str__(self) -> str:
        mended = f"mended in {', '.join(self.mended_in)}" if self.mended_in else "mended in no version yet"
        return f"{self.package}: {', '.join(sorted(self.names))}; {mended}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a service knows. unknown: packages that it knew nothing about, which is not the same as no weakness."""

    weaknesses: tuple[Weakness, ...]
    n_asked: int
    unknown: tuple[str, ...]


def known_weaknesses(path: Path = ROOT / "audit.toml") -> dict[tuple[str, str], str]:
    """Why a weakness is no harm, by package and name. Raises KeyError where an entry lacks something."""
    rows = tomllib.loads(path.read_text())["known"]
    return {(canonicalize_name(row["package"]), row["id"]): f"{row['reason'].strip()} ({row['date']})" for row in rows}


def audited(packages: Iterable[Distribution], tools: Path) -> Audit | None:
    """What the first service knows that knows anything; None where none does. tools: where pip-audit lies."""
    # A local part, as in 2.13.0+cpu, is a build of the same version.
    lines = [f"{each.name}=={Version(each.version).public}" for each in packages]
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "installed.txt"
        pinned.write_text("\n".join(lines))
        for service in SERVICES:
            found = _ask(service, pinned, tools)
            if found and len(found.unknown) < found.n_asked:
                return found
    return None


def _ask(service: str, pinned: Path, tools: Path) -> Audit | None:
    quietly = ("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--aliases", "on")
    limits = ("--vulnerability-service", service, "--timeout", str(ANSWER_S))
    command = [str(tools / "pip-audit"), "--requirement", str(pinned), *quietly, *limits]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    weaknesses = tuple(
        Weakness(
            package=canonicalize_name(row["name"]),
            names=frozenset([each["id"], *each["aliases"]]),
            mended_in=tuple(each["fix_versions"]),
        )
        for row in rows
        for each in row.get("vulns", ())
    )
    unknown = tuple(canonicalize_name(row["name"]) for row in rows if "skip_reason" in row)
    return Audit(weaknesses=weaknesses, n_asked=len(rows), unknown=unknown)


def judged(found: Audit, ours: set[str], known: dict[tuple[str, str], str]) -> tuple[list[str], list[str]]:
    """What is said in any case, a line each, and what makes the audit fail."""
    said, failed, used = [], [], set()
    for weakness in found.weaknesses:
        entry = next((key for key in known if key[0] == weakness.package and key[1] in weakness.names), None)
        if entry:
            used.add(entry)
            said.append(f"known: {weakness}\n    {known[entry]}")
        elif weakness.package in ours:
            failed.append(str(weakness))
        else:
            said.append(f"a tool, not the product: {weakness}")
    for package, name in set(known) - used:
        if package not in found.unknown:
            said.append(f"audit.toml names {name} of {package}, which is not found any more: take it out")
    if found.unknown:
        said.append(f"nothing is known, good or bad, about {len(found.unknown)}: {', '.join(found.unknown)}")
    return said, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found. 1 where the product has a weakness that audit.toml does not name, else 0."""
    parser = argparse.ArgumentParser(prog="python -m supply.audit")
    parser.add_argument("--tools", type=Path, required=True, metavar="DIR", help="where pip-audit lies")
    tools = parser.parse_args(argv).tools
    known, ours = known_weaknesses(), product()
    found = audited([*ours.values(), *others().values()], tools)
    if found is None:
        print("Not audited: no service could be reached that knows these packages. Try again where one can be.")
        return 0
    said, failed = judged(found, set(ours), known)
    print(f"{found.n_asked - len(found.unknown)} of {found.n_asked} packages audited.", *said, sep="\n  ")
    if failed:
        print("Weaknesses that audit.toml does not name:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
