"""The card of an export: what it is made of, how, what that cost, where it loads. Written by the hub's own classes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from sparsedash.catalog import presets
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.export.recipe import public_name
from sparsedash.engine.models.hub import fetch
from sparsedash.engine.models.loading import gguf_file
from sparsedash.schema.errors import ModelError
from sparsedash.schema.exports import ExportSettings, Proof
from sparsedash.schema.records import Pruned, Record
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.stats.significance import compare
from sparsedash.stats.tolerance import Tolerance, judge_all, losses
from sparsedash.storage.export_folders import RECIPE

BUILTIN_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
_CARD = "README.md"
UNKNOWN = "not stated by the base's files: find it out before you pass this on"
_LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card says beside the records. size: bytes of the weights; base_size: of the dense model's, alike."""

    settings: ExportSettings
    dense: Record
    sparse: Record
    proof: Proof
    layout: str
    size: int
    base_size: int
    licence: str
    file: str = ""


def model_card(facts: CardFacts) -> str:
    """README.md: metadata and text."""
    data = ModelCardData(
        base_model=_base(facts.sparse.model) or None,
        license=facts.licence or None,
        library_name="llama.cpp" if facts.settings.form == "gguf" else "transformers",
        pipeline_tag="text-generation",
        tags=["pruned", *(["width-pruning"] if _pruned(facts).method.takes_channels else []), *_gguf(facts)],
    )
    sections = (_opening, _made, _lost, _loads, _again)
    text = "\n\n".join(section(facts) for section in sections)
    # Made and read again by the hub's own class: metadata that cannot be read raises here.
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def licence_of(base: Path, reference: str) -> str:
    """The licence that the base's own card states, or its GGUF file; empty where they state none."""
    if file := gguf_file(reference):
        field = opened_gguf(file).fields.get("general.license")
        return _short(field.contents()) if field else ""
    try:
        found: Any = ModelCard.load(_card_of(base, reference), ignore_metadata_errors=True).data.license
    except (OSError, ValueError, AttributeError, YAMLError):
        return ""
    return _short(found)


def _card_of(base: Path, reference: str) -> Path:
    """The base's own card; a model of the hub is read without it, so that it is fetched where the hub answers."""
    if not (base / _CARD).is_file() and _base(reference):
        with suppress(ModelError):
            # The folder is named by its commit.
            fetch(reference, base.name, _CARD)
    return base / _CARD


def _short(found: object) -> str:
    """What can stand as the name of a licence; foreign text."""
    return found if isinstance(found, str) and len(found) < _LONGEST and found.isprintable() else ""


def _pruned(facts: CardFacts) -> Pruned:
    assert facts.sparse.pruned is not None
    return facts.sparse.pruned


def _base(reference: str) -> str:
    """The base's name on the hub; empty where it is a file of somebody's own."""
    if reference == BUILTIN_MODEL:
        return BUILTIN_BASE
    name = reference.partition("@")[0]
    return "" if public_name(reference) != reference or name.endswith(".gguf") else name


def _gguf(facts: CardFacts) -> list[str]:
    return ["gguf"] if facts.settings.form == "gguf" else []


def _opening(facts: CardFacts) -> str:
    made = _pruned(facts)
    base = _base(facts.sparse.model) or public_name(facts.sparse.model)
    what, gone_how = (
        ("inner channels of the MLPs", "removed") if made.method.takes_channels else ("single weights", "set to zero")
    )
    gone = f"{100 * made.mlp_sparsity:.1f} % of the MLPs' {'channels' if made.method.takes_channels else 'weights'}"
    size = f"{facts.size / 1e6:,.1f} MB of weights, where the dense model takes {facts.base_size / 1e6:,.1f} MB"
    unsmaller = (
        ""
        if made.method.takes_channels
        else " Zeros by themselves make a model neither smaller nor faster: no speed-up is expected."
    )
    return (
        f"# {base}, pruned by {gone}\n\n"
        f"A sparse model of `{base}`: {what} were {gone_how} by SparseDash, {100 * made.matmul_ratio:.1f} % of all "
        f"weights in matrix products. In {facts.settings.weights}: {size}.{unsmaller}"
    )


def _made(facts: CardFacts) -> str:
    made, record = _pruned(facts), facts.sparse
    calibration = made.calibration
    text = f"`{public_name(calibration.corpus)}`, {calibration.n_samples:,} samples of {calibration.length:,} tokens"
    rows = [
        ("Base", f"`{public_name(record.model)}`"),
        ("Revision", f"`{record.model_identity}`"),
        ("Licence of the base", facts.licence or UNKNOWN),
        ("Method", f"{presets.method_name(made.method)}: {_choices(made)}"),
        ("Asked for", f"{made.sparsity_permille / 10:g} %"),
        ("Widths", _widths(made.widths, made.dense_widths)),
        ("In the files", facts.layout),
        ("Calibration", text if made.method.reads_text else "none: the method reads no text"),
        ("Computed in", record.dtype),
    ]
    return f"## How it was made\n\n{_table(('', ''), rows)}"


def _choices(made: Pruned) -> str:
    method = made.method
    parts = (method.saliency, method.pattern, method.compensation, method.allocation)
    return f"saliency {parts[0]}, pattern {parts[1]}, compensation {parts[2]}, allocation {parts[3]}"


def _widths(kept: Sequence[int], dense: Sequence[int]) -> str:
    whole = f"of {dense[0]:,}" if len(set(dense)) == 1 else f"of {', '.join(map(str, dense))}"
    if len(set(kept)) == 1:
        return f"{kept[0]:,} channels {whole} in every block"
    return f"{', '.join(map(str, kept))} {whole}, block by block"


def _lost(facts: CardFacts) -> str:
    dense, sparse = facts.dense, facts.sparse
    pairs = compare(dense, sparse)
    (judged,) = judge_all([losses(dense, sparse)], Tolerance())
    ratio = judged.perplexity
    low, high = pairs.interval
    rows = [
        ("last word right", _right(dense), _right(sparse), f"{100 * low:+.1f} to {100 * high:+.1f} points"),
        (
            "word perplexity",
            f"{dense.word_perplexity:,.2f}",
            f"{sparse.word_perplexity:,.2f}",
            f"{exp(min(ratio.low, 700)):.2f} to {exp(min(ratio.high, 700)):.2f} times ({100 * ratio.level:g} %)",
        ),
    ]
    valid = "; the intervals hold although it stopped early" if pairs.anytime else ""
    return (
        f"## What it lost\n\nBoth models answered the same {pairs.n_passages:,} passages of "
        f"`{public_name(sparse.corpus)}`{valid}: {pairs.broke} answers broke, {pairs.mended} were mended, "
        f"p = {pairs.p_value:.2g} (exact McNemar).\n\n"
        f"{_table(('', 'dense', 'sparse', 'difference, 95 % interval'), rows)}\n\n"
        "Nothing else was measured: other tasks, other languages and safety may have suffered otherwise."
    )


def _right(record: Record) -> str:
    score = record.last_word
    return f"{100 * score.accuracy:.1f} % ({score.right} of {score.total})"


def _loads(facts: CardFacts) -> str:
    proof = facts.proof
    said = (
        f"{proof.runtime} {proof.version}, in a fresh process without network and without remote code: the logits of "
        f"{proof.n_logits} passages differ by at most {proof.logit_difference:.1e} from those of the model in memory, "
        f"and {proof.n_meant} of {proof.n_verdicts} passages are answered as by it ({proof.n_run} as in the run)."
    )
    if facts.settings.form == "gguf":
        usage = f"```sh\nllama-cli -m {facts.file} -p 'Once upon a time'\n```"
    else:
        usage = (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("PATH", dtype="{facts.settings.weights}")\n'
            'tokenizer = AutoTokenizer.from_pretrained("PATH")\n```'
        )
    return f"## How it is loaded\n\n{usage}\n\nProven: {said}"


def _again(facts: CardFacts) -> str:
    return (
        f"## How it is made again\n\n`{RECIPE}` beside this file holds every setting, the kept channels of each block, "
        "the identities of the base and of the texts, and the versions. From the same base and text SparseDash makes "
        "the same weights again, to the bit on the same machine."
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
