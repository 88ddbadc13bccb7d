"""Prints the licence of every package that SparseDash runs on; fails, naming it, where one is not allowed.

python -m supply.licences
"""

import re
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution

from supply.installed import others, product

ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC"),
    *("MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "ZPL-2.1"),
}
"""All of them let a program under Apache-2.0 be built on them. MPL-2.0 asks for nothing but its own files' source."""

EXCEPTIONS = {"nvidia-": "its maker's own", "cuda-": "its maker's own"}
"""Beginnings of names. They come with torch's builds for NVIDIA's GPUs, from NVIDIA; nothing here passes them on."""

SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""How packages write it that do not use SPDX yet. "BSD" alone is one of the two that are both allowed."""


def licence_of(package: Distribution) -> str:
    """The licence as an SPDX expression, or in the package's own words; empty where it says nothing short."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [str(line).split(" :: ") for line in metadata.get_all("Classifier", [])]
    said = [str(metadata.get("License") or ""), *(parts[-1] for parts in classifiers if parts[0] == "License")]
    # Some put the whole text into that field.
    short = [words.strip() for words in said if words.strip() and len(words) < 100 and "\n" not in words]
    known = [SPELLINGS.get(words.lower(), words) for words in short]
    return next((licence for licence in known if is_allowed(licence)), known[0] if known else "")


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression allows what is done here: one side of each OR, all of the rest.

    An expression with brackets must be allowed in all of its parts. Exceptions after WITH only ever allow more.
    """
    plain = re.sub(r"\s+WITH\s+[\w.-]+", "", expression)
    choices = [re.sub(r"\sOR\s", " AND ", plain)] if "(" in plain else re.split(r"\s+OR\s+", plain)
    return any(all(part.strip("() ") in ALLOWED for part in re.split(r"\s+AND\s+", choice)) for choice in choices)


def refused(licences: Mapping[str, str]) -> list[str]:
    """One line for each package whose licence is not allowed. licences: by the package's name."""
    return [
        f"{name}: {licence or 'says nothing'}"
        for name, licence in licences.items()
        if not is_allowed(licence) and not name.startswith(tuple(EXCEPTIONS))
    ]


def main() -> int:
    """Print both lists. 1 where a licence of the product is refused, else 0."""
    ours, tools = ({name: licence_of(each) for name, each in part.items()} for part in (product(), others()))
    for title, licences in (("What SparseDash runs on", ours), ("Tools that are installed beside it", tools)):
        print(f"{title}: {len(licences)} packages")
        print("\n".join(f"  {name:28} {licence}" for name, licence in licences.items()))
    found = refused(ours)
    if found:
        print("Not on the list in supply/licences.py:", *found, sep="\n  ", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
