"""Which causal models of the installed transformers can be pruned: a tiny random model of every type, by the API.

    python -m benchmarks.model_coverage [--types llama,qwen3] [--methods best,layers] [--write docs/models.md]

proven: its MLPs or experts were found, and removing channels equals setting them to zero. narrower, shorter, fewer
experts, narrower experts: a model made from the changed config, saved and loaded by stock code, gives the same logits;
loaded alike counts the types with any of these.
A method: a quarter was removed by it, and the result, saved and loaded, answers alike. Types that see what they are to
predict are left out.
"""

import tempfile
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

import sparsedash
from benchmarks.arguments import parser_of
from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.engine.models.structure_proof import (
    NotProvenError,
    problem_of,
    require_causal,
    some_ids,
    tiny_random_model,
)
from sparsedash.engine.models.tiny_config import tiny_config
from sparsedash.schema.errors import first_line
from tests.engine.tiny import tiny_tokenizer

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_UNSTATED = {
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 2,
    "n_routed_experts": 8,
}
"""Sizes that some default configs leave open; published configs state them."""
_TOLERANCE = 2e-5
_HEAD = ("proven", "narrower", "shorter", "fewer experts", "narrower experts")


def main():
    """Print a row a type, and the counts."""
    arguments = parser_of(
        __doc__,
        types=(",".join(TYPES), "of transformers, with commas between"),
        methods=(
            "best,layers,experts,expert-channels",
            "run at a quarter; empty for none",
        ),
        write=("", "a file of docs/ whose table is written anew"),
    ).parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    methods = [name for name in arguments.methods.split(",") if name]
    rows = []
    for kind in arguments.types.split(","):
        row = coverage_of(kind, methods)
        rows.append(row)
        print(f"{kind:26} " + "  ".join(row.values()), flush=True)
    counts = Counter()
    for row in rows:
        counts["causal"] += row["made"] == "yes"
        loads = [row.get(name) == "yes" for name in _HEAD[1:]]
        counts["loaded alike"] += any(loads)
        for name in (*_HEAD, *methods):
            counts[name] += row.get(name) == "yes"
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    if arguments.write:
        write_table(
            arguments.write,
            dict(zip(arguments.types.split(","), rows, strict=True)),
            counts,
        )


def coverage_of(kind, methods):
    """What can be done to a model of this type, or why not, by step."""
    try:
        config = tiny_of(kind)
        model = tiny_random_model(config)
        require_causal(model, some_ids())
    except NotProvenError as error:
        return {"made": f"no: {error}"}
    except Exception as error:  # noqa: BLE001 - a type may fail by any error
        return {"made": f"no: {first_line(error)}"}
    row = {"made": "yes"}
    try:
        structure = inspect_model(config, kind).structure
    except sparsedash.SparseDashError as error:
        return row | {"proven": error.message.partition(": ")[2]}
    row["proven"] = "yes"
    if any(structure.mlps):
        row["narrower"] = structure.width_problem or "yes"
    row["shorter"] = structure.layers_problem or "yes"
    if structure.mixtures:
        row["fewer experts"] = structure.experts_problem or "yes"
        row["narrower experts"] = structure.expert_width_problem or "yes"
    for method in methods:
        if method_named(method).prunes_experts and not structure.mixtures:
            continue
        row[method] = problem_of(require_pruned, model, method) or "yes"
    return row


def tiny_of(kind):
    """A tiny config of the type, from the default one."""
    config = AutoConfig.for_model(kind)
    tiny = tiny_config(config)
    try:
        tiny_random_model(tiny)
    except Exception:  # noqa: BLE001 - a type may fail by any error
        for name, value in _UNSTATED.items():
            if getattr(config, name, value) is None:
                setattr(config, name, value)
        tiny = tiny_config(config)
    return tiny


def require_pruned(model, method):
    """Raise NotProvenError unless a quarter can be removed, saved and loaded with equal logits."""
    texts = [
        "The lamp and the boat and the letter went home, and the dog ran after them. "
        * 4
    ] * 60
    options = (
        {"width_multiple": 8} if method_named(method).uses("width_multiple") else {}
    )
    pruned = sparsedash.prune(
        model,
        tiny_tokenizer(),
        texts,
        method=method,
        share=0.25,
        n_samples=40,
        length=64,
        **options,
    )
    ids = some_ids()
    with torch.inference_mode():
        logits = pruned.model(input_ids=ids, use_cache=False).logits
        if "uniform" not in pruned.forms:
            # No stock code loads it: in place it must run all the same.
            return
        with tempfile.TemporaryDirectory() as folder:
            pruned.model.save_pretrained(folder)
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
            )
        again = loaded.eval()(input_ids=ids, use_cache=False).logits
    if float((logits - again).abs().max()) > _TOLERANCE * max(
        1.0, float(logits.abs().max())
    ):
        raise NotProvenError("saved and loaded it answers otherwise")


def write_table(file, rows, counts):
    """Write the table of a document anew, between its two marks."""
    names = [name for name in counts if name not in ("causal", "loaded alike")]
    lines = [f"| type | {' | '.join(names)} |", f"|{'-|' * (1 + len(names))}"]
    for kind, row in sorted(rows.items()):
        if row["made"] == "yes":
            cells = [row.get(name, "").replace("|", "/") for name in names]
            lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    total = ", ".join(f"{name} {counts[name]}" for name in counts)
    lines += [
        "",
        f"Of {counts['causal']} causal types that a tiny model can be made of: {total}.",
    ]
    document = Path(file)
    before, mark, rest = document.read_text(encoding="utf-8").partition(
        "<!-- types -->\n"
    )
    _, end, after = rest.partition("<!-- end -->\n")
    table = "\n".join(lines)
    document.write_text(f"{before}{mark}{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
