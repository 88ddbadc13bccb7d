"""Model card of an export: base, method, loss, usage and reproduction.

Names of models, files, tasks and licences are foreign text: in the card's body all of them go
through `_code`, which makes code spans; its metadata is YAML that the hub's library writes. It is
public: of local paths it holds names only.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from huggingface_hub import ModelCard, ModelCardData

from sparsedash.catalog import presets
from sparsedash.catalog.export_forms import one_width
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.deployment import proof_words
from sparsedash.reporting.divergence_words import divergence_line
from sparsedash.reporting.html import visible
from sparsedash.reporting.kind_words import forgotten_sentence, kind_cells
from sparsedash.reporting.model_results import ModelResult, judge, measure
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.verdicts import loss_cells
from sparsedash.schema.card_facts import CardFacts, hub_name, public_model, public_name
from sparsedash.schema.records import Pruned, Record
from sparsedash.schema.sparse_spec import Quantisation
from sparsedash.service.stored_results import StoredResults
from sparsedash.stats.tolerance import ToleranceVerdict
from sparsedash.storage.model_folders import RECIPE
from sparsedash.storage.store import Store

_UNKNOWN = (
    "licence unknown: the base's files state none; check it before you share this model"
)
_KIND_TAGS: dict[str, list[str]] = {
    "channelx1": ["width-pruning"],
    "layer": ["depth-pruning"],
    "expert": ["expert-pruning", "moe"],
    "expert-channel": ["width-pruning", "moe"],
}
_ACTIVE_IN_CODE = str.maketrans({mark: f"⟨U+{ord(mark):04X}⟩" for mark in "`|\\"})
"""Would end a code span, or the cell of its table."""


def stored_card(store: Store, facts: CardFacts) -> str:
    """The card of an export, with the verdict of its run's pages; of its own where it has none."""
    tolerance = facts.settings.tolerance
    results = run_results(
        StoredResults(store),
        facts.run,
        tolerance,
    )
    for judged in results.sparse_models if results else ():
        if judged.record.key == facts.sparse.key:
            return model_card(facts, judged)
    (judged,) = judge([measure(facts.dense, facts.sparse)], tolerance)
    return model_card(facts, judged)


def model_card(facts: CardFacts, judged: ModelResult) -> str:
    """README.md: metadata and text. judged: sparse against dense."""
    pruned = facts.sparse.pruned
    settings = facts.settings
    proof = facts.proof
    written = facts.written
    assert pruned is not None
    channels = pruned.method.is_structured
    is_gguf = settings.form == "gguf"
    hub = hub_name(facts.sparse)
    data = ModelCardData(
        base_model=hub or None,
        license=facts.licence or "unknown",
        library_name="llama.cpp" if is_gguf else "transformers",
        pipeline_tag="text-generation",
        tags=[
            "pruned",
            *_KIND_TAGS.get(pruned.method.pattern, ()),
            *(["gguf"] if is_gguf else []),
        ],
    )
    base = _code(hub or public_model(facts.sparse))
    removed, gone = _removed_words(pruned)
    if pruned.healed and pruned.healed.kept_step:
        removed += ", and the MLPs and norms that are left were trained to predict as the dense model does,"
    note = "" if channels else "Zeros alone make a model neither smaller nor faster."
    if facts.source_type and facts.source_bytes:
        note += f" {wording.source_note(facts.source_type)}"
        note += (
            f" The file of the dense model takes {facts.source_bytes / 1e6:,.1f} MB."
        )
    if settings.weights in get_args(Quantisation):
        note += f" What is said of losses was measured before the weights were rounded to {settings.weights}."
    usage = f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH", dtype="{settings.weights}")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```"""
    if is_gguf:
        usage = f"```sh\nllama-cli -m {shlex.quote(_line(written.file))} -p 'Once upon a time'\n```"
    types: tuple[str, str] = (settings.weights, settings.base_weights)
    if settings.weights == "as-stored":
        types = ("the types of the dense file", "the same")
    text = f"""# {base}, pruned by {gone}

A sparse model of {base}: {removed} by SparseDash, {100 * pruned.reached.weights:.1f} % of the decoder blocks' weights.
In {types[0]} it takes {written.size / 1e6:,.1f} MB, the dense model in {types[1]}
{written.base_size / 1e6:,.1f} MB. {note.strip()}

## Method

{_making_table(facts, pruned)}

## Loss

{_loss_section(facts, judged)}

Nothing else was measured: other tasks, other languages and safety may have suffered more.

## Usage

{usage}

{proof_words(proof)} It had no network and ran no remote code.

## Reproduction

`{RECIPE}` holds every setting, what each block keeps, the identities of the base and of the texts, and the
versions. From the same base and text SparseDash rebuilds the same weights, bit for bit on the same machine."""
    # Parsed by the hub's own class: metadata that cannot be read raises here.
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def _code(text: str) -> str:
    """Foreign text as a code span on one line, without markup; also in a table and a heading."""
    return f"`{_line(text).translate(_ACTIVE_IN_CODE) or '?'}`"


def _line(text: str) -> str:
    """Foreign text on one line, with every character visible."""
    return visible(" ".join(text.split()))


def _removed_words(pruned: Pruned) -> tuple[str, str]:
    """The pruning as a sentence without its end, and the share removed."""
    if pruned.method.removes_layers:
        return (
            "whole layers were removed",
            f"{len(pruned.removed_layers)} of {len(pruned.widths)} layers",
        )
    if pruned.method.removes_experts:
        share = f"{100 * pruned.reached.channels:.1f} % of the experts"
        return "whole experts were removed, the same number of each mixture", share
    if pruned.method.prunes_experts:
        share = f"{100 * pruned.reached.channels:.1f} % of the experts' channels"
        return "inner channels were removed, the same number of each expert", share
    share = f"{100 * pruned.reached.channels:.1f} % of the MLPs'"
    if pruned.method.is_structured:
        return "inner channels of the MLPs were removed", f"{share} channels"
    return "single weights were set to zero", f"{share} weights"


def _making_table(facts: CardFacts, pruned: Pruned) -> str:
    text = pruned.calibration
    method = pruned.method
    dense = pruned.dense_widths
    kept = pruned.widths
    choices = [
        f"{name} {getattr(method, name)}"
        for name in ("saliency", "pattern", "compensation", "allocation")
    ]
    calibration = f"{_code(public_name(text.corpus))}, {text.n_samples:,} samples of {text.length:,} tokens"
    whole = f"{max(dense):,}" if one_width(dense) else ", ".join(map(str, dense))
    widths = f"{max(kept):,} channels" if one_width(kept) else ", ".join(map(str, kept))
    where = " in every block" if one_width(kept) else ", block by block"
    rows = {
        "Base": _code(public_model(facts.sparse)),
        "Revision": _code(facts.sparse.model_identity),
        "Type that the base was rounded to": facts.source_type,
        "Licence of the base": _code(facts.licence) if facts.licence else _UNKNOWN,
        "Method": f"{presets.spec_name(pruned.spec)}: {', '.join(choices)}",
        "Healing": wording.healing_words(pruned.healed) if pruned.healed else "",
        "Sparsity asked for": f"{pruned.sparsity_permille / 10:g} % {wording.share_of(method)}",
        "Widths": "" if method.prunes_experts else f"{widths} of {whole}{where}",
        "Layers that are gone, counted from 1": ", ".join(
            str(index + 1) for index in pruned.removed_layers
        ),
        "Kept of the experts": _experts_words(pruned),
        "Weights": _weights_words(facts, pruned),
        "In the files": facts.written.layout,
        "Calibration": calibration
        if method.reads_text
        else "none: the method reads no text",
        "Number format": facts.sparse.dtype,
    }
    return _table(("", ""), [row for row in rows.items() if row[1]])


def _experts_words(pruned: Pruned) -> str:
    """Share of their experts that the layers keep; empty if all of them stay."""
    if not pruned.method.prunes_experts:
        return ""
    noun = wording.kept_noun(pruned.method)
    counts = pruned.kept_of_dense
    mixtures = dict.fromkeys((kept, dense) for kept, dense in counts if dense)
    if len(mixtures) > 1:
        return ", ".join(f"{kept} of {dense}" for kept, dense in counts)
    kept, dense = next(iter(mixtures))
    n_mixtures = sum(dense > 0 for _, dense in counts)
    where = (
        "each layer"
        if n_mixtures == len(counts)
        else f"{n_mixtures} of {len(counts)} layers"
    )
    return f"{kept} of {dense} {noun} in {where}"


def _weights_words(facts: CardFacts, pruned: Pruned) -> str:
    """Numbers of a mixture's weights, total and active; empty for other models."""
    if not facts.shape.structure.mixtures:
        return ""
    dense_weights = wording.weights_of(facts.shape, facts.shape.whole)
    return (
        f"{wording.weights_of(facts.shape, pruned.kept)}; the base has {dense_weights}"
    )


def _loss_section(facts: CardFacts, judged: ModelResult) -> str:
    models = (facts.dense, facts.sparse)
    judged = _with_coded_tasks(judged)
    pairs = judged.comparison
    verdict = judged.verdict
    times, change = (cell.text.split("\n") for cell in loss_cells(judged)[:2])
    scores = (record.last_word for record in models)
    right = [
        f"{100 * score.accuracy:.1f} % ({score.right} of {score.total})"
        for score in scores
    ]
    rows = [
        ("last word right", *right, f"{change[0]} points", change[1]),
        (
            "word perplexity",
            *(wording.perplexity(record.word_perplexity) for record in models),
            *times,
        ),
    ]
    limits = verdicts.limits_sentence(verdict, facts.settings.tolerance)
    test = "valid under early stopping" if pairs.anytime else "exact McNemar"
    return f"""**{verdicts.verdict_sign(verdict)}**{verdicts.accuracy_open(verdict)}. {limits}

{wording.first_upper(verdicts.loss_words(verdict))}.

Both models were evaluated on the same {pairs.n_passages:,} passages of {_code(public_name(facts.sparse.corpus))}.
{_tasks_words(verdict)}{verdicts.flip_words(pairs)}
Equal accuracy: {wording.p_value(judged.p_value)} ({test}). p and the levels of the
intervals allow for every sparse model of the run.

{_table(("", "dense", "sparse", "change", "interval of the change"), rows)}
{_kinds_section(facts.sparse)}"""


def _kinds_section(sparse: Record) -> str:
    """The model's losses by kind of text, as a table with a sentence; empty where that was not
    measured.
    """
    rows = [tuple(cells) for cells in kind_cells(sparse)]
    if not rows:
        return ""
    table = _table(
        ("kind of text", "KL from dense, nats a token", f"{wording.LEVEL} interval"),
        rows,
    )
    line = divergence_line(sparse.divergence) if sparse.divergence else ""
    return f"\n{forgotten_sentence(sparse)}\n\n{table}\n\n{line}".rstrip()


def _with_coded_tasks(judged: ModelResult) -> ModelResult:
    """The verdict whose sentences show the tasks' names, which are foreign text, as code spans."""
    verdict = judged.verdict
    tasks = tuple(replace(loss, task=_code(loss.task)) for loss in verdict.tasks)
    unjudged = tuple(map(_code, verdict.unjudged))
    return replace(
        judged,
        verdict=replace(verdict, tasks=tasks, unjudged=unjudged),
    )


def _tasks_words(verdict: ToleranceVerdict) -> str:
    """The model's losses on tasks, each with its limit and verdict, as the beginning of a paragraph;
    nothing without any.
    """
    lost = [
        f"{verdicts.loss_with_limit(loss)}, {verdicts.VERDICT_SIGNS[loss.verdict]}"
        for loss in verdict.tasks
    ]
    lost += [f"{task}, not judged" for task in verdict.unjudged] + [
        "some not answered"
    ] * verdict.unanswered
    return f"Tasks: {'; '.join(lost)}. " if lost else ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
