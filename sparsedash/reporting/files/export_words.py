"""An export in words: its proof, where it loads and where not, and the command that takes it to the hub."""

import shlex
from dataclasses import dataclass
from typing import Literal

from sparsedash.catalog.presets import method_name
from sparsedash.reporting import wording
from sparsedash.schema.exports import Export, Proof
from sparsedash.schema.records import Record

FORM_NAMES = {
    "uniform": "one narrower width",
    "padded": "filled up with zeros",
    "masked": "dense shape, zeros in it",
    "gguf": "a file for llama.cpp",
}

Loads = Literal["proven here", "should load", "cannot"]


@dataclass(frozen=True, kw_only=True)
class RuntimeRow:
    """Whether one runtime loads the files. why: the proof, the source, or what stands against it."""

    runtime: str
    loads: Loads
    why: str


def proof_words(proof: Proof) -> str:
    """What a fresh process has seen, in a sentence."""
    return (
        f"Proven by {proof.runtime} {proof.version} in a fresh process: the logits of {proof.n_logits} passages differ "
        f"by at most {proof.logit_difference:.1e}, {proof.n_meant} of {proof.n_verdicts} passages are answered as by "
        f"the model in memory, {proof.n_run} as in the run."
    )


def export_title(export: Export, record: Record | None) -> str:
    """ "SmolLM2 135M (built in), best 20 %"."""
    model = wording.title(export.model)
    if record is None or record.pruned is None:
        return model
    return f"{model}, {method_name(record.pruned.method)} {wording.permille(record.sparsity_permille)}"


def upload_command(export: Export) -> str:
    """What a visitor types in a shell of their own; nothing is sent from here."""
    name = export.folder.rstrip("/").rpartition("/")[2]
    return shlex.join(["hf", "upload", f"YOUR-NAME/{name}", export.folder])


def runtimes(export: Export) -> list[RuntimeRow]:
    """Where the files load: what was proven, what should by its source, and what cannot."""
    proof = export.proof
    why = f"logits within {proof.logit_difference:.1e}, {proof.n_meant} of {proof.n_verdicts} answers as meant"
    proven = RuntimeRow(runtime=f"{export.proof.runtime} {export.proof.version}", loads="proven here", why=why)
    return [proven, *(_gguf_rows(export) if export.form == "gguf" else _folder_rows(export))]


def _gguf_rows(export: Export) -> list[RuntimeRow]:
    if export.layout.startswith("a width for each block"):
        why = "their readers take one width for the whole model"
        return [
            RuntimeRow(runtime="Ollama, LM Studio", loads="should load", why="they run llama.cpp; not tried here"),
            RuntimeRow(runtime="transformers, vLLM", loads="cannot", why=why),
        ]
    return [
        RuntimeRow(runtime="Ollama, LM Studio", loads="should load", why="they run llama.cpp; not tried here"),
        RuntimeRow(
            runtime="transformers", loads="should load", why="its GGUF reader knows the base's architecture; not tried"
        ),
    ]


def _folder_rows(export: Export) -> list[RuntimeRow]:
    vllm = "the config is the base's own, and vLLM's model code reads the width from it; by its source, not tried here"
    if export.form == "masked":
        vllm = "the files have the base's own shape; by its source, not tried here"
    return [
        RuntimeRow(runtime="vLLM", loads="should load", why=vllm),
        RuntimeRow(runtime="llama.cpp", loads="cannot", why="it reads GGUF files; export the form GGUF for it"),
    ]
