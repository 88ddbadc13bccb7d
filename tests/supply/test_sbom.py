"""The bill of materials holds the product, its model and nothing else."""

from gguf import GGUFReader

from supply.installed import BUILT_IN_MODEL
from supply.sbom import ROOT_REF, built_in_model_file, model_component, product_bom


def part(name: str) -> dict[str, str]:
    return {"type": "library", "name": name, "bom-ref": f"{name}==1", "version": "1"}


BOM = {
    "specVersion": "1.6",
    "metadata": {"timestamp": "now"},
    "components": [part(name) for name in ("torch", "pytest", BUILT_IN_MODEL, "Sym_py")],
    "dependencies": [{"ref": "torch==1", "dependsOn": ["Sym_py==1", "pytest==1"]}, {"ref": "pytest==1"}],
}
MODEL = {"type": "machine-learning-model", "bom-ref": "model:m", "name": "m"}


def made():
    return product_bom(BOM, {"torch", "sym-py", BUILT_IN_MODEL}, {"torch", BUILT_IN_MODEL}, MODEL)


def test_tools_are_left_out_and_the_model_is_a_part_of_its_package():
    bom = made()
    assert [part["name"] for part in bom["components"]] == ["Sym_py", BUILT_IN_MODEL, "m", "torch"]
    assert {row["ref"]: row["dependsOn"] for row in bom["dependencies"]} == {
        ROOT_REF: [f"{BUILT_IN_MODEL}==1", "torch==1"],
        "torch==1": ["Sym_py==1"],
        "Sym_py==1": [],
        f"{BUILT_IN_MODEL}==1": ["model:m"],
        "model:m": [],
    }


def test_it_is_the_bill_of_this_program_and_keeps_when_it_was_made():
    metadata = made()["metadata"]
    assert metadata["component"]["name"] == "sparsedash"
    assert metadata["timestamp"] == "now"


def test_the_model_has_the_licence_that_its_file_names():
    file = built_in_model_file()
    said = GGUFReader(file).fields["general.license"].contents()
    (licence,) = model_component(file)["licenses"]
    assert licence["license"]["id"].lower() == said == "apache-2.0"
