"""Writes what SparseDash runs on as a CycloneDX bill of materials, the built-in model included.

    python -m supply.sbom --tools DIR sbom.json

The same environment gives the same file, but for its time and its serial number.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

import sparsedash
from supply.installed import BUILT_IN_MODEL, direct, product

SPEC = "1.6"
ROOT_REF = "sparsedash"
_VALIDATE = f"""
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V{SPEC.replace(".", "_")}).validate_str(sys.stdin.read())
sys.exit(error and str(error))
"""


def environment_bom(tools: Path) -> dict[str, Any]:
    """Everything that is installed beside this Python, as cyclonedx-py lists it. tools: where that lies."""
    command = [str(tools / "cyclonedx-py"), "environment", "--spec-version", SPEC, "--output-format", "JSON"]
    done = subprocess.run([*command, sys.executable], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def product_bom(bom: dict[str, Any], packages: set[str], asked: set[str], model: dict[str, Any]) -> dict[str, Any]:
    """The same without the tools, as the bill of SparseDash: what it asks for, and the built-in model.

    packages: what it runs on, and asked: what it names itself, by name. model: the component of the model file.
    """
    parts = {part["bom-ref"]: part for part in bom["components"] if canonicalize_name(part["name"]) in packages}
    refs = {canonicalize_name(part["name"]): ref for ref, part in parts.items()}
    needs = {row["ref"]: set(row.get("dependsOn", ())) & set(parts) for row in bom["dependencies"]}
    links = {ref: needs.get(ref, set()) for ref in parts}
    links[refs[BUILT_IN_MODEL]] = {model["bom-ref"]}
    links |= {ROOT_REF: {refs[name] for name in asked}, model["bom-ref"]: set()}
    root = {
        "type": "application",
        "bom-ref": ROOT_REF,
        "name": "sparsedash",
        "version": sparsedash.__version__,
        "licenses": [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}],
    }
    return bom | {
        "metadata": bom["metadata"] | {"component": root},
        "components": sorted([*parts.values(), model], key=lambda part: part["bom-ref"]),
        "dependencies": [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(links.items())],
    }


def model_component(file: Path) -> dict[str, Any]:
    """The built-in model as a part of its own: it is no code, and its package only carries it."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{file.name}",
        "name": file.stem,
        "description": "The built-in model: SmolLM2 135M Instruct by HuggingFaceTB, quantised to Q4_1",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        # As the file says of itself, under general.license.
        "licenses": [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}],
    }


def built_in_model_file() -> Path:
    """Where the package of the built-in model has put it."""
    (file,) = (each for each in product()[BUILT_IN_MODEL].files or () if each.suffix == ".gguf")
    return Path(str(file.locate()))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the bill, unless it breaks the specification: then 1."""
    parser = argparse.ArgumentParser(prog="python -m supply.sbom")
    parser.add_argument("--tools", type=Path, required=True, metavar="DIR", help="where cyclonedx-py lies")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args(argv)
    asked = {canonicalize_name(each.name) for each in direct()} | {BUILT_IN_MODEL}
    model = model_component(built_in_model_file())
    bom = product_bom(environment_bom(arguments.tools), set(product()), asked, model)
    text = json.dumps(bom, indent=1, sort_keys=True) + "\n"
    checked = subprocess.run([str(arguments.tools / "python"), "-c", _VALIDATE], input=text, text=True)
    if checked.returncode:
        return 1
    arguments.file.write_text(text)
    print(f"{arguments.file}: {len(bom['components'])} components, valid CycloneDX {SPEC}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
