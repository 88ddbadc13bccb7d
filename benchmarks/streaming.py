"""What a model of a published size takes, resident and streamed: python -m benchmarks.streaming
--shape llama-1b

Writes random weights of this shape once (bfloat16, in shards), and lets a process of its own do
each way's whole job: calibrate, prune at every sparsity, answer passages of text that ships with
the program, and with --export write the sparsest model. Prints for each way the seconds of every
stage beside what the form would have foreseen after measuring this machine, the most memory that
the process held in it, and the whole as multiples of the first way's. Which answers are right means
nothing; that both ways give the same ones is looked at.

A large shape takes long: --ways streamed leaves the other one out. A real model instead, by every
preset:

    python -m benchmarks.streaming --model builtin:smollm2-135m --dtype float32 --method all --sparsity 20 \\
        --calibration file:TEXTS.jsonl --evaluation file:PASSAGES.jsonl --passages 500
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.arguments import run_parser, run_settings
from benchmarks.child import answer_of
from sparsedash.catalog.cost_model import Speeds, least_memory
from sparsedash.catalog.model_sizes import CONFIGS, read_shape
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.engine.comparison.machine_rates import measure_machine
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.run import pipeline, run_context
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.reporting.model_card import stored_card
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Record
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_TEXT, RunSettings
from sparsedash.service.estimates import run_parts, run_workload
from sparsedash.storage.local_machine import forget_peak_memory, peak_memory_bytes
from sparsedash.storage.shape_notes import known_shape
from sparsedash.storage.store import Store

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
SHAPES = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
    },
}
"""Of LLaMA's architecture; every config that ships with the program is a shape besides."""

_STEPS = {
    "export": ("write", "prove"),
    "calibrate": ("calibrate", "walk"),
    "prune": ("prune", "walk"),
}
"""Steps of a stage, where they have other names."""
_ORDER = ("load", "text", "calibrate", "prune", "continue", "evaluate", "export")
_SHARD_BYTES = 2**30


def main() -> None:
    arguments = _arguments()
    if arguments.one_way:
        print(json.dumps(run_one_way(arguments)))
        return
    arguments.folder = folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    if not arguments.model:
        model = written_model(arguments.shape, folder)
        n_bytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        print(f"{arguments.shape}: {n_bytes / 1e9:.2f} GB in bfloat16")
    figures = {}
    for way in arguments.ways.split(","):
        words = [*sys.argv[1:], "--folder", str(folder), "--one-way", way]
        figures[way] = answer_of("benchmarks.streaming", *words)
    first = next(iter(figures.values()))
    for way, of_way in figures.items():
        print_way(replace(_settings(arguments), residency=way), of_way, first)


def written_model(shape: str, folder: Path) -> Path:
    """A folder with random weights of this shape and a tokenizer of the program's own texts;
    written once.
    """
    model = folder / shape
    if (model / "config.json").exists():
        return model
    model.mkdir(parents=True, exist_ok=True)
    values = (
        LLAMA | SHAPES[shape]
        if shape in SHAPES
        else json.loads((CONFIGS / f"{shape}.json").read_text())
    )
    config = AutoConfig.for_model(
        **values | {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    )
    with torch.device("meta"):
        parameters = dict(
            AutoModelForCausalLM.from_config(
                config, trust_remote_code=False
            ).named_parameters()
        )
    files = {}
    shard = {}
    last = list(parameters)[-1]
    for name, parameter in parameters.items():
        shard[name] = _random_weight(name, parameter.shape)
        if (
            name == last
            or sum(weight.nbytes for weight in shard.values()) >= _SHARD_BYTES
        ):
            file = f"model-{len(files):05}.safetensors"
            save_file(shard, model / file, metadata={"format": "pt"})
            files |= dict.fromkeys(shard, file)
            shard = {}
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )
    config.dtype = "bfloat16"
    _tokenizer().save_pretrained(model)
    config.save_pretrained(model)
    return model


def _random_weight(name, shape):
    if len(shape) == 1:
        return torch.full(shape, float("weight" in name), dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.empty(shape, dtype=torch.bfloat16).normal_(
        std=0.02, generator=generator
    )


def _tokenizer():
    tokenizer = ByteLevelBPETokenizer()
    texts = [
        *read_texts(BUILTIN_CLOZE, Path()).texts,
        *read_texts(BUILTIN_TEXT, Path()).texts,
    ]
    tokenizer.train_from_iterator(
        texts, 8000, min_frequency=0, special_tokens=["<s>"], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token="<s>",
        eos_token="<s>",
        pad_token="<s>",
    )


class Peaks:
    """Hears the steps of a job. bytes: the most memory that this process has held in each stage so
    far.
    """

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._stage = "start"

    def __call__(self, step: Step) -> None:
        """Measure at the end of each stage."""
        if step.stage != self._stage:
            self.measure()
            self._stage = step.stage

    def measure(self) -> None:
        """Record the peak of the present stage."""
        self.bytes[self._stage] = max(
            self.bytes.get(self._stage, 0), peak_memory_bytes()
        )
        forget_peak_memory()


def run_one_way(arguments: argparse.Namespace) -> dict:
    """The figures of the whole job in this process."""
    folder = arguments.folder
    speeds = measure_machine(folder)
    store = Store(folder / f"data-{arguments.one_way}")
    model_cache = ModelCache()
    peaks = Peaks()
    run = pipeline.run(_settings(arguments), store, peaks, model_cache)
    seconds = dict(run.seconds)
    if arguments.export:
        if arguments.one_way == "streamed":
            # An export asks the machine where weights have room, as `auto` does.
            run_context.memory_bytes = lambda: 0
        settings = ExportSettings(
            dense=run.dense,
            sparse=run.sparse[-1],
            form="uniform",
            weights=arguments.dtype,
        )
        begun = time.perf_counter()
        export_model(settings, store, model_cache, peaks, partial(stored_card, store))
        seconds["export"] = time.perf_counter() - begun
    peaks.measure()
    answers = []
    verdicts = []
    sparse = [store.get(Record, key) for key in run.sparse]
    for record in (store.get(Record, run.dense), *sparse):
        answers += [outcome.log_likelihood for outcome in record.outcomes]
        verdicts += [
            (outcome.last_word_right, outcome.last_token_right)
            for outcome in record.outcomes
        ]
    return {
        "seconds": seconds,
        "peaks": peaks.bytes,
        "speeds": speeds,
        "shape": known_shape(
            store, locate_model(run.settings.model, store).identity
        ).plain(),
        "answers": answers,
        "widths": [record.pruned.widths for record in sparse],
        "verdicts": verdicts,
    }


def print_way(settings: RunSettings, figures: dict, first: dict) -> None:
    """Print one way's figures, relative to the first way's."""
    shape = read_shape(figures["shape"])
    least = least_memory(
        shape, settings, streamed=settings.residency == "streamed"
    ).n_bytes
    peak = max(figures["peaks"].values())
    first_peak = max(first["peaks"].values())
    whole = sum(figures["seconds"].values())
    first_whole = sum(first["seconds"].values())
    print(
        f"{settings.residency}: {peak / 1e9:.2f} GB at most ({peak / first_peak:.2f} times; at least "
        f"{least / 1e9:.2f} by the estimate), {whole:.1f} s ({whole / first_whole:.2f} times)"
    )
    workload = run_workload(settings, shape, Speeds(**figures["speeds"]), Path())
    parts = run_parts(settings, workload)
    for stage in sorted(figures["seconds"], key=_ORDER.index):
        seconds = figures["seconds"][stage]
        peak = max(
            figures["peaks"].get(step, 0) for step in _STEPS.get(stage, (stage,))
        )
        estimate = sum(part.seconds for part in parts if part.stage == stage)
        ratio = (
            f"{seconds / estimate:6.2f} times the {estimate:.1f} s estimated"
            if estimate
            else ""
        )
        print(f"  {stage:10}{seconds:9.1f} s {peak / 1e9:6.2f} GB {ratio}")
    pairs = zip(figures["answers"], first["answers"], strict=True)
    apart = max(abs(answer - other) for answer, other in pairs)
    equal = {True: "equal", False: "NOT equal"}
    widths = equal[figures["widths"] == first["widths"]]
    verdicts = equal[figures["verdicts"] == first["verdicts"]]
    print(
        f"  {len(figures['answers'])} answers: log-likelihoods at most {apart:.1e} nats apart, "
        f"widths {widths}, verdicts {verdicts}"
    )


def _settings(arguments):
    names = arguments.method.split(",")
    if arguments.method == "all":
        names = [method.name for method in METHODS]
    settings = run_settings(
        arguments,
        map(method_named, names),
        model=arguments.model or str(arguments.folder / arguments.shape),
        calibration=arguments.calibration or f"file:{_shuffled_words(arguments)}",
    )
    return replace(settings, residency=arguments.one_way or "auto")


def _shuffled_words(arguments):
    """A file of as many texts as calibration asks for, of words of the program's own drawn by
    lot.
    """
    file = arguments.folder / f"{arguments.samples}x{arguments.length}.jsonl"
    if not file.exists():
        rng = random.Random(0)
        words = " ".join(read_texts(BUILTIN_TEXT, Path()).texts).split()
        texts = [
            " ".join(rng.choices(words, k=arguments.length))
            for _ in range(arguments.samples)
        ]
        file.write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in texts),
            encoding="utf-8",
        )
    return file


def _arguments():
    parser = run_parser(
        __doc__,
        model=(str, "this one, whose weights are there, instead of a shape"),
        calibration=(str, "texts instead of words drawn by lot"),
        ways="resident,streamed",
        method=("least-squares", "several by commas, or all"),
        folder=(Path, "for models and data; a new one where not given"),
        export=(False, "write the sparsest model, and load it again as a proof"),
        one_way=(str, argparse.SUPPRESS),
        samples=64,
        length=512,
        passages=100,
        sparsity="10,20",
    )
    shipped = sorted(file.stem for file in CONFIGS.glob("*.json"))
    parser.add_argument("--shape", default="llama-1b", choices=[*SHAPES, *shipped])
    parser.set_defaults(dtype="bfloat16", packing="packed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
