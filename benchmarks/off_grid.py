"""Pruning beside quantising, of a model off the grid that its file was rounded to, or as it comes.

    python -m benchmarks.off_grid --evaluation 'file:lambada.jsonl[:300]' --calibration 'file:lambada.jsonl[3600:]'

A file that was quantised before costs little to quantise again. So the model's residual stream is turned by a random
orthogonal matrix: the scales of its norms are folded into the projections that follow, the embedding is turned, and the
head gets weights of its own. It is the same function, whose logits in FP32 are compared first, but none of its weights
is on the grid any more. It is written as a GGUF file of F16, which is dense from then on.

Prints, of dense and of each sparse model, in 16 bits and quantised: the size of the file's tensors; the nats a word
lost on the passages, with their 95 % interval; KL from dense, on tokens of the first passages; the share of its first
choices for the last word that are kept; the tensors by type. `--as-it-comes` takes the model's own file: no line of
that ranks. What is in the data folder already is not computed again. `--files FOLDER` writes each model's GGUF file
there, to be timed by `benchmarks.llama_speed`.
"""

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFValueType, GGUFWriter, LlamaFileType, quants

from benchmarks.arguments import answers_parser
from sparsedash.catalog.gguf_reader import SOURCE_TYPE, opened_gguf
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.evaluation.divergence import mean_divergence, next_token_scores
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.gguf_making import gguf_of
from sparsedash.engine.models.gguf_quantising import write_quantised
from sparsedash.engine.models.gguf_writing import gguf_type
from sparsedash.engine.models.loading import ModelShelf, gguf_file, load_model, locate_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.model_making import prune_model
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.reporting import wording
from sparsedash.reporting.quantised_words import quantised_sentence
from sparsedash.reporting.run_results import StoredResults, run_results
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    BUILTIN_TEXT,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.stats.races import likelihood_differences
from sparsedash.stats.significance import shared_outcomes
from sparsedash.storage.store import Store

SAME = 1e-3
"""How far logits in FP32 may be apart after turning."""

N_COMPARED = 8
"""Passages on which they are compared."""

FOLLOWS = {"attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "output": "output_norm"}
FOLLOWS |= {"ffn_gate": "ffn_norm", "ffn_up": "ffn_norm"}
"""The norm whose output a projection reads."""

TYPES = {"F32": LlamaFileType.ALL_F32, "F16": LlamaFileType.MOSTLY_F16}


def main():
    arguments = _arguments()
    store = Store(arguments.data_dir)
    settings = RunSettings(
        model=arguments.model if arguments.as_it_comes else str(_off_grid(arguments, store)),
        methods=tuple(map(method_named, arguments.methods.split(","))),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=CalibrationSettings(
            corpus=arguments.calibration, n_samples=arguments.samples, length=arguments.length, packed=True
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
        prompts=(),
    ).quantised(arguments.types.split(","))
    shelf = ModelShelf()
    found = run_results(StoredResults(store), pipeline.run(settings, store, ignore_steps, shelf))
    context = RunContext(settings, store, ignore_steps, shelf)
    print("\n| model | MB | nats a word lost | KL | first choices kept | words right | tensors |")
    print("|---|---|---|---|---|---|---|")
    _print_row("dense, 16 bits", found.file_bytes(found.judged[0])[1], "", "", "", found.dense)
    for (method, permille), each in zip(settings.points, found.judged, strict=True):
        lost = likelihood_differences([(found.dense, each.record)])[0]
        # The run's own are without what else was likely.
        both = shared_outcomes(*(store.get(Record, record.key) for record in (found.dense, each.record)))
        kept = sum(before.top[0].text == after.top[0].text for before, after in both) / len(both)
        _print_row(
            found.names[each.record.key] + ", 16 bits" * (not method.quantise),
            found.file_bytes(each)[0],
            f"{lost.value:.3f} ({lost.low:.3f} to {lost.high:.3f})",
            f"{_divergence(context, method, permille, each.record.pruned.quantised):.4f}",
            f"{100 * kept:.1f} %",
            each.record,
        )
    of, n = next(of for each in found.judged if (of := each.record.pruned.quantised)), found.dense.last_word.total
    print(f"\n{n} passages, of whose last words the first choices are; KL on {of.n_tokens:,} tokens of the first ones")
    print(wording.source_note(found.run.source_type) or quantised_sentence(found))
    if arguments.files:
        _write_files(context, found, arguments.files)


def _write_files(context, found, folder):
    """Each model's GGUF file, of its type or of 16 bits, by its name; dense's in 16 bits as `dense.gguf`."""
    folder.mkdir(parents=True, exist_ok=True)
    base, whole = gguf_of(context.source, context.store), PrunedChannels.whole(context.loaded)
    files = [("dense", whole, "float16")]
    for (method, permille), each in zip(context.settings.points, found.judged, strict=True):
        made = prune_model(context, method.unquantised, permille) if permille else whole
        files.append((found.names[each.record.key], made, method.quantise or "float16"))
    for name, made, weights in files:
        file = folder / f"{name.replace(' %', '').replace(', ', '-').replace(' ', '-')}.gguf"
        write_quantised(file, base, made, weights, is_base=True, require_room=lambda n_bytes: None)
        print(file)


def _divergence(context, method, permille, quantised):
    """KL from dense; measured here on the same tokens where the model is in 16 bits."""
    if quantised:
        return quantised.divergence
    dense = context.dense_scores
    with prune_model(context, method, permille).applied():
        return mean_divergence(dense, next_token_scores(context.loaded, context.first_passages))


def _print_row(name, n_bytes, lost, divergence, kept, record):
    quantised, types = record.pruned and record.pruned.quantised, ""
    if quantised:
        types = wording.tensor_types(quantised.tensors, quantised.fell_back).removeprefix("tensors: ")
    cells = name, f"{n_bytes / 1e6:.1f}", lost, divergence, kept, str(record.last_word.right), types
    print(f"| {' | '.join(cells)} |", flush=True)


def _off_grid(arguments, store):
    """The turned model's file in F16; its logits, and those in F32, are compared with the model's own first."""
    reader, place = opened_gguf(gguf_file(arguments.model)), arguments.data_dir
    if (own := reader.values["general.architecture"]) != "llama" or any(".bias" in t.name for t in reader.tensors):
        raise SystemExit(f"Only LLaMA models without biases are turned; this is {own}.")
    files = {kind: place / f"off-grid-{arguments.seed}-{kind}.gguf" for kind in TYPES}
    for kind, file in files.items():
        _write(file, reader, kind, arguments.seed)
    texts = choose_passages(read_texts(arguments.evaluation), EvaluationSettings(n_passages=N_COMPARED))
    pairs = list(zip(texts.contexts, texts.targets, strict=True))
    wanted = _logits(arguments.model, store, pairs)
    for kind, file in files.items():
        apart = max(float((a - b).abs().max()) for a, b in zip(wanted, _logits(str(file), store, pairs), strict=True))
        most, n = max(float(logits.abs().max()) for logits in wanted), sum(map(len, wanted))
        print(f"turned, {kind}: logits at most {apart:.2g} from the model's, which reach {most:.1f}; n = {n:,} tokens")
        if kind == "F32" and apart > SAME:
            raise SystemExit(f"They may be {SAME} apart: this is another function.")
    sizes = [sum(int(t.n_elements) for t in of.tensors) for of in (reader, opened_gguf(files["F16"]))]
    print(f"weights: {sizes[0] / 1e6:.1f} million; with a head of its own {sizes[1] / 1e6:.1f} million")
    return files["F16"]


@torch.inference_mode()
def _logits(model, store, pairs):
    loaded = load_model(locate_model(model, store), "float32")
    ids = [torch.tensor([loaded.tokens(context + target)]) for context, target in pairs]
    return [loaded.model(input_ids=each, use_cache=False).logits[0] for each in ids]


def _write(file, reader, kind, seed):
    """The turned model as a GGUF file of this type. It does not say where its weights come from: they are full now."""
    writer, values = GGUFWriter(file, "llama"), reader.values
    for name, value in values.items():
        of, item = (*reader.fields[name].types, None)[:2]
        left_out = name in ("general.architecture", "general.file_type", SOURCE_TYPE)
        if not left_out and (of, item) != (GGUFValueType.ARRAY, None):
            writer.add_key_value(name, value, of, sub_type=item)
    writer.add_file_type(int(TYPES[kind]))
    for name, weight in _turned(reader, seed):
        own = gguf_type(name, weight.shape, "float16" if kind == "F16" else "float32")
        writer.add_tensor(name, quants.quantize(weight.astype(np.float32), own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _turned(reader, seed):
    """Names and weights (out, in) of the same function with its residual stream x as x Q, in float64."""
    weights = {
        tensor.name: quants.dequantize(tensor.data, tensor.tensor_type)
        .reshape([int(n) for n in reversed(tensor.shape)])
        .astype(np.float64)
        for tensor in reader.tensors
    }
    # A tied head becomes one of its own, since the scale of the last norm is folded into it.
    weights.setdefault("output.weight", weights["token_embd.weight"])
    width = weights["token_embd.weight"].shape[1]
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]
    for name, weight in weights.items():
        *block, part, _ = name.split(".")
        if part.endswith("norm"):
            yield name, np.ones_like(weight)
        elif part in ("attn_output", "ffn_down"):
            yield name, turn.T @ weight
        elif part in FOLLOWS:
            yield name, weight * weights[".".join([*block, FOLLOWS[part], "weight"])] @ turn
        else:
            yield name, weight @ turn if part == "token_embd" else weight


def _arguments():
    parser = answers_parser(__doc__)
    parser.add_argument("--calibration", default=BUILTIN_TEXT)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--methods", default=DEFAULT_METHOD, help="names with commas between")
    parser.add_argument("--sparsity", default="10,20")
    parser.add_argument("--types", default="q8_0,q6_k,q4_k_m")
    parser.add_argument("--seed", type=int, default=0, help="draws the matrix")
    parser.add_argument("--as-it-comes", action="store_true", help="the model's own file, not turned")
    parser.add_argument("--files", type=Path, help="a folder for each model's GGUF file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
