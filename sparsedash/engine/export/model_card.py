"""Model card and recipe of an export: what it is made of, how, what that cost, how to load and to rebuild it.

Names from models, files and licences are foreign text: in the card's body they stand in code spans, see `_code`; its
metadata is YAML that the hub's library writes. The recipe is JSON with every setting and hash. Both are public: of
local paths they hold names only.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, metadata_load
from yaml import YAMLError

from sparsedash.catalog import presets
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.models.hub import fetch
from sparsedash.engine.models.loading import Source, gguf_file
from sparsedash.engine.run.run_context import software_versions
from sparsedash.engine.run.sparse_models import PrunedChannels, RebuiltModel
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.html import visible
from sparsedash.reporting.run_results import Judged
from sparsedash.reporting.verdicts import change_cells, times_dense_cells
from sparsedash.schema.errors import ModelError
from sparsedash.schema.export_settings import ExportSettings, Proof
from sparsedash.schema.records import Pruned, Record
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.model_folders import RECIPE


def recipe_json(
    settings: ExportSettings, record: Record, made: RebuiltModel, proof: Proof, files: Mapping[str, str]
) -> str:
    """The JSON text. files: the sha256 of each of the others by its name."""
    assert record.pruned is not None
    sparse = made.sparse
    kept = [narrow.kept.tolist() for narrow in sparse.narrowed] if isinstance(sparse, PrunedChannels) else None
    pruned = record.pruned
    document = {
        "made_by": software_versions(),
        "export": settings.key(),
        "form": settings.form,
        "weights": settings.weights,
        "shard_mb": settings.shard_mb,
        "base": {"model": public_model(record), "identity": record.model_identity, "dtype": record.dtype},
        "method": asdict(pruned.method),
        "sparsity_permille": pruned.sparsity_permille,
        "calibration": asdict(pruned.calibration) | {"corpus": public_name(pruned.calibration.corpus)},
        "calibration_identity": made.calibration_identity,
        "dense_widths": list(pruned.dense_widths),
        "widths": list(pruned.widths),
        "kept_channels": kept,
        "evaluation": {"corpus": public_name(record.corpus), "identity": record.corpus_identity},
        "proof": asdict(proof),
        "sha256": dict(files),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def public_name(reference: str) -> str:
    """A reference without the folders of this machine."""
    kind, colon, path = reference.partition(":") if reference.startswith(("file:", "upload:")) else ("", "", reference)
    is_path = bool(colon) or path.startswith(("/", "~", "."))
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2] if is_path else path}"


def is_hub_model(record: Record) -> bool:
    """Whether the record's model is of the hub: its identity is a commit there, not a hash of files."""
    return not record.model_identity.startswith("sha256:")


def public_model(record: Record) -> str:
    """The reference of the record's model without the folders of this machine."""
    if is_hub_model(record) or record.model == BUILTIN_MODEL:
        return record.model
    return record.model.rstrip("/").rpartition("/")[2]


BUILTIN_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
_CARD = "README.md"
_UNKNOWN = "licence unknown: the base's files state none; find it out before you pass this on"
_LONGEST = 60
_ACTIVE_IN_CODE = str.maketrans({mark: f"⟨U+{ord(mark):04X}⟩" for mark in "`|\\"})
"""Would end a code span, or the cell of a table that it stands in."""


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """What is known of the model that was pruned. hub: its name on the hub; empty where it is no model of the hub.

    licence: empty where it is unknown. source_type: as in Run. file_bytes: of a quantised GGUF file.
    """

    name: str
    hub: str
    licence: str
    source_type: str = ""
    file_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card says. judged: the sparse model beside dense, as the pages of its run judge it.

    size: bytes of the weights; base_size: of the dense model's, alike.
    """

    settings: ExportSettings
    base: BaseFacts
    dense: Record
    sparse: Record
    judged: Judged
    tolerance: Tolerance
    proof: Proof
    layout: str
    size: int
    base_size: int
    file: str = ""


def model_card(facts: CardFacts) -> str:
    """README.md: metadata and text."""
    data = ModelCardData(
        base_model=facts.base.hub or None,
        license=facts.base.licence or "unknown",
        library_name="llama.cpp" if facts.settings.form == "gguf" else "transformers",
        pipeline_tag="text-generation",
        tags=["pruned", *(["width-pruning"] if _pruned(facts).method.takes_channels else []), *_gguf(facts)],
    )
    sections = (_opening_section, _making_section, _loss_section, _loading_section, _rebuilding_section)
    text = "\n\n".join(section(facts) for section in sections)
    # Made and read again by the hub's own class: metadata that cannot be read raises here.
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def base_facts(source: Source, record: Record) -> BaseFacts:
    """What the card says of a record's base. source: its files."""
    hub = record.model.partition("@")[0] if is_hub_model(record) else ""
    file = gguf_file(record.model)
    return BaseFacts(
        name=public_model(record),
        hub=BUILTIN_BASE if record.model == BUILTIN_MODEL else hub,
        licence=_gguf_licence(file) if file else _licence(source.folder, record.model if hub else ""),
        source_type=source.source_type,
        file_bytes=file.stat().st_size if file and source.source_type else 0,
    )


def _gguf_licence(file: Path) -> str:
    field = opened_gguf(file).fields.get("general.license")
    with suppress(ValueError):
        return _licence_name(field.contents()) if field else ""
    return ""


def _licence(folder: Path, hub: str) -> str:
    """The licence that the base's own card states. hub: its reference where it is of the hub, which then has the card.

    A model of the hub is read without its card, so that this is fetched where the hub answers.
    """
    card = folder / _CARD
    if hub and not card.is_file():
        with suppress(ModelError):
            # The folder is named by its commit.
            fetch(hub, folder.name, _CARD)
    # A pipe would be read for ever.
    if not card.is_file():
        return ""
    try:
        return _licence_name((metadata_load(card) or {}).get("license"))
    except (OSError, ValueError, YAMLError, RecursionError):
        return ""


def _licence_name(found: object) -> str:
    """What can stand as the name of a licence."""
    return found if isinstance(found, str) and len(found) < _LONGEST and found.isprintable() else ""


def _code(text: str) -> str:
    """Foreign text as a code span on one line, in which nothing is markup; also in a table and a heading."""
    return f"`{_line(text).translate(_ACTIVE_IN_CODE) or '?'}`"


def _line(text: str) -> str:
    """Foreign text on one line, with everything in it visible."""
    return visible(" ".join(text.split()))


def _pruned(facts: CardFacts) -> Pruned:
    assert facts.sparse.pruned is not None
    return facts.sparse.pruned


def _gguf(facts: CardFacts) -> list[str]:
    return ["gguf"] if facts.settings.form == "gguf" else []


def _opening_section(facts: CardFacts) -> str:
    made = _pruned(facts)
    base = _code(facts.base.hub or facts.base.name)
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
        f"A sparse model of {base}: {what} were {gone_how} by SparseDash, {100 * made.matmul_ratio:.1f} % of all "
        f"weights in matrix products. In {facts.settings.weights}: {size}.{unsmaller}{_quantised(facts)}"
    )


def _quantised(facts: CardFacts) -> str:
    """That the base was quantised, and how large its file is."""
    base = facts.base
    if not base.source_type:
        return ""
    larger = " smaller than the weights here" if base.file_bytes < facts.size else ""
    size = f"{base.file_bytes / 1e6:,.1f} MB{',' if larger else ''}{larger}"
    return f"\n\n{wording.source_note(base.source_type)} That file takes {size}."


def _making_section(facts: CardFacts) -> str:
    made, record = _pruned(facts), facts.sparse
    calibration = made.calibration
    text = (
        f"{_code(public_name(calibration.corpus))}, {calibration.n_samples:,} samples of {calibration.length:,} tokens"
    )
    rows = [
        ("Base", _code(facts.base.name)),
        ("Revision", _code(record.model_identity)),
        *([("Type of the base's file", facts.base.source_type)] if facts.base.source_type else []),
        ("Licence of the base", _code(facts.base.licence) if facts.base.licence else _UNKNOWN),
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


def _loss_section(facts: CardFacts) -> str:
    dense, sparse, judged = facts.dense, facts.sparse, facts.judged
    pairs, found = judged.comparison, judged.verdict
    change, accuracy, *_ = change_cells(judged)
    times, perplexity, _ = times_dense_cells(judged)
    rows = [
        ("last word right", _right(dense), _right(sparse), f"{change} points", accuracy or "none"),
        (
            "word perplexity",
            wording.perplexity(dense.word_perplexity),
            wording.perplexity(sparse.word_perplexity),
            times,
            perplexity,
        ),
    ]
    name = "the sparse model"
    said = [wording.first_upper(verdicts.verdict_sentence(name, found)), verdicts.loss_sentence(found)]
    said += verdicts.verdict_basis(name, found, facts.tolerance)
    test = "a test that holds although it stopped early" if pairs.anytime else "exact McNemar"
    return (
        f"## What it lost\n\n**{verdicts.VERDICT_SIGNS[found.verdict]}**: {' '.join(said)}\n\n"
        f"Both models answered the same {pairs.n_passages:,} passages of {_code(public_name(sparse.corpus))}. "
        f"{verdicts.flip_words(pairs)} Of equal accuracy: {wording.p_value(judged.p_value)} ({test}). Where a run has "
        "several sparse models, p and the levels of the intervals allow for all of them.\n\n"
        f"{_table(('', 'dense', 'sparse', 'change', 'interval of the change (level)'), rows)}\n\n"
        "Nothing else was measured: other tasks, other languages and safety may have suffered otherwise."
    )


def _right(record: Record) -> str:
    score = record.last_word
    return f"{100 * score.accuracy:.1f} % ({score.right} of {score.total})"


def _loading_section(facts: CardFacts) -> str:
    proof = facts.proof
    said = (
        f"{proof.runtime} {proof.version}, in a fresh process without network and without remote code: the logits of "
        f"{proof.n_logits} passages differ by at most {proof.logit_difference:.1e} from those of the model in memory, "
        f"and {proof.n_meant} of {proof.n_verdicts} passages are answered as by it ({proof.n_run} as in the run)."
    )
    if facts.settings.form == "gguf":
        usage = f"```sh\nllama-cli -m {shlex.quote(_line(facts.file))} -p 'Once upon a time'\n```"
    else:
        usage = (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("PATH", dtype="{facts.settings.weights}")\n'
            'tokenizer = AutoTokenizer.from_pretrained("PATH")\n```'
        )
    return f"## How it is loaded\n\n{usage}\n\nProven: {said}"


def _rebuilding_section(facts: CardFacts) -> str:
    return (
        f"## How it is made again\n\n`{RECIPE}` beside this file holds every setting, the kept channels of each block, "
        "the identities of the base and of the texts, and the versions. From the same base and text SparseDash makes "
        "the same weights again, to the bit on the same machine."
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
