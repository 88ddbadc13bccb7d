"""What a model of a published size takes, resident and streamed: python -m benchmarks.streaming --shape llama-1b

Writes random weights of this shape once (bfloat16, in shards), and lets a process of its own do each way's whole job:
calibrate, prune at every sparsity, answer passages of text that ships with the program, and with --export write the
sparsest model. Prints for each way the seconds of every stage beside what the form would have foreseen after measuring
this machine, the most memory that the process held in it, and the whole as multiples of the first way's. Which answers
are right means nothing; that both ways give the same ones is looked at.

A large shape takes long: --ways streamed leaves the other one out. A real model instead, by every preset:

    python -m benchmarks.streaming --model builtin:smollm2-135m --dtype float32 --method all --sparsity 20 \\
        --calibration file:TEXTS.jsonl --evaluation file:PASSAGES.jsonl --passages 500
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.child import answer_of
from sparsedash.catalog.model_shape import CONFIGS, ModelShape, model_shape
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.resources import least_memory
from sparsedash.engine.comparison.machine_rates import measure_machine
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models.loading import ModelShelf, locate_model
from sparsedash.engine.run import pipeline, run_context
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_TEXT,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.service.time_forecast import Speeds, counted_seconds
from sparsedash.storage.local_machine import forget_peak_memory, peak_memory_bytes
from sparsedash.storage.store import Store

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4},
    "llama-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
"""Of LLaMA's architecture; every config that ships with the program is a shape besides."""

LLAMA = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False}
_PARTS = {"export": ("write", "prove"), "calibrate": ("calibrate", "walk"), "prune": ("prune", "walk")}
"""The stages that a row's memory is of, where it goes by other names."""

_ORDER = ("load", "text", "calibrate", "prune", "continue", "evaluate", "export")

_WORDS = 8000
_SHARD_BYTES = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    shipped = sorted(path.stem for path in CONFIGS.glob("*.json"))
    parser.add_argument("--shape", default="llama-1b", choices=[*SHAPES, *shipped])
    parser.add_argument("--model", help="this one, whose weights are there, instead of a shape")
    parser.add_argument("--dtype", default="bfloat16", choices=get_args(Dtype))
    parser.add_argument("--calibration", help="texts instead of words drawn by lot")
    parser.add_argument("--evaluation", default=BUILTIN_CLOZE)
    parser.add_argument("--ways", default="resident,streamed")
    parser.add_argument("--method", default="least-squares", help="several by commas, or all")
    parser.add_argument("--sparsity", default="10,20")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--passages", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="for models and data; a new one where not given")
    parser.add_argument("--export", action="store_true", help="write the sparsest model, and load it again as a proof")
    parser.add_argument("--one-way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_way:
        one_way(arguments)
        return
    arguments.folder = folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    if not arguments.model:
        model = written(arguments.shape, folder)
        n_bytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        print(f"{arguments.shape}: {n_bytes / 1e9:.2f} GB in bfloat16")
    done = {way: measured(way, folder) for way in arguments.ways.split(",")}
    tell(arguments, done)


def written(shape: str, folder: Path) -> Path:
    """A folder with random weights of this shape and a tokenizer of the program's own texts; made once."""
    plain = LLAMA | SHAPES[shape] if shape in SHAPES else json.loads((CONFIGS / f"{shape}.json").read_text())
    return write_model(plain, folder / shape)


def write_model(plain: dict, model: Path) -> Path:
    """The folder with random weights for this config; made once."""
    if (model / "config.json").exists():
        return model
    model.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    config = AutoConfig.for_model(**plain | {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0})
    with torch.device("meta"):
        shapes = {
            name: tuple(p.shape)
            for name, p in AutoModelForCausalLM.from_config(config, trust_remote_code=False).named_parameters()
        }
    index: dict[str, str] = {}
    for number, names in enumerate(_shards(shapes)):
        file = f"model-{number:05}.safetensors"
        tensors = {name: _drawn(name, shapes[name]) for name in names}
        save_file(tensors, model / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.dtype = "bfloat16"
    tokenizer.save_pretrained(model)
    config.save_pretrained(model)
    return model


def one_way(arguments: argparse.Namespace) -> None:
    """The whole job in this process, and what it took as one line of JSON."""
    folder = arguments.folder
    speeds = measure_machine(folder)
    store, shelf, peaks = Store(folder / f"data-{arguments.one_way}"), ModelShelf(), Peaks()
    run = pipeline.run(_settings(arguments), store, peaks, shelf)
    records = [record for key in (run.dense, *run.sparse) if (record := store.get(Record, key)) is not None]
    answers = [[o.log_likelihood for o in record.outcomes] for record in records]
    verdicts = [[(o.last_word_right, o.last_token_right) for o in record.outcomes] for record in records]
    widths = [record.pruned.widths for record in records if record.pruned is not None]
    seconds = run.seconds
    if arguments.export:
        if arguments.one_way == "streamed":
            # An export asks the machine where weights have room, as `auto` does.
            run_context.memory_bytes = lambda: 0
        asked = ExportSettings(dense=run.dense, sparse=run.sparse[-1], form="uniform", weights=arguments.dtype)
        begun = time.perf_counter()
        export_model(asked, store, shelf, peaks)
        seconds = seconds | {"export": time.perf_counter() - begun}
    peaks.look()
    found = {"seconds": seconds, "answers": answers, "verdicts": verdicts, "widths": widths}
    config = json.loads((locate_model(run.settings.model, store).folder / "config.json").read_text())
    print(json.dumps(found | {"speeds": speeds, "peaks": peaks.of, "config": config}))


class Peaks:
    """Hears the steps of a job. of: the most memory that this process has held in each stage so far, in bytes."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self._stage = "start"

    def __call__(self, step: Step) -> None:
        """Look at the end of each stage."""
        if step.stage != self._stage:
            self.look()
            self._stage = step.stage

    def look(self) -> None:
        """Put what the present stage has taken down."""
        self.of[self._stage] = max(self.of.get(self._stage, 0), peak_memory_bytes())
        forget_peak_memory()


def measured(way: str, folder: Path) -> dict:
    """Of one way: what its process printed."""
    return answer_of("benchmarks.streaming", *sys.argv[1:], "--folder", str(folder), "--one-way", way)


def tell(arguments: argparse.Namespace, done: dict[str, dict]) -> None:
    """Print every way, and all of them against the first."""
    first = next(iter(done.values()))
    counted = model_shape(first["config"])
    for way, found in done.items():
        settings = replace(_settings(arguments), residency=way)
        least = least_memory(counted, settings, streamed=way == "streamed").n_bytes
        share, slower = _most(found) / _most(first), _whole(found) / _whole(first)
        print(
            f"{way}: {_most(found) / 1e9:.2f} GB at most ({share:.2f} times; at least {least / 1e9:.2f} by the "
            f"estimate), {_whole(found):.1f} s ({slower:.2f} times)"
        )
        foreseen = _foreseen(settings, Speeds(**found["speeds"]), counted)
        for stage, seconds in sorted(found["seconds"].items(), key=lambda each: _ORDER.index(each[0])):
            expected = foreseen.get(stage)
            ratio = f"{seconds / expected:6.2f} times the {expected:.1f} s foreseen" if expected else ""
            peak = max(found["peaks"].get(each, 0) for each in _PARTS.get(stage, (stage,)))
            print(f"  {stage:10}{seconds:9.1f} s {peak / 1e9:6.2f} GB {ratio}")
        away = max(
            abs(a - b)
            for mine, theirs in zip(found["answers"], first["answers"], strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )
        same = [f"{name} {'equal' if found[name] == first[name] else 'NOT equal'}" for name in ("widths", "verdicts")]
        n_answers = sum(map(len, found["answers"]))
        print(f"  {n_answers} answers: log-likelihoods at most {away:.1e} nats apart, {', '.join(same)}")


def _foreseen(settings: RunSettings, speeds: Speeds, shape: ModelShape) -> dict[str, float]:
    """Seconds of every stage of the whole run by arithmetic, which know one model's."""
    found = counted_seconds(settings, speeds, shape)
    n_of = {"evaluate": 1 + settings.n_sparse, "prune": settings.n_sparse}
    return {stage: n_of.get(stage, 1) * seconds for stage, seconds in found.items() if seconds}


def _most(found: dict) -> int:
    return max(found["peaks"].values())


def _whole(found: dict) -> float:
    return sum(found["seconds"].values())


def _settings(arguments: argparse.Namespace) -> RunSettings:
    names = [each.name for each in METHODS] if arguments.method == "all" else arguments.method.split(",")
    drawn = f"file:{words_drawn(arguments.samples, arguments.length, arguments.folder)}"
    return RunSettings(
        model=arguments.model or str(arguments.folder / arguments.shape),
        dtype=arguments.dtype,
        methods=tuple(method_named(name) for name in names),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=CalibrationSettings(
            corpus=arguments.calibration or drawn, n_samples=arguments.samples, length=arguments.length, packed=True
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
        residency=arguments.one_way or "auto",
    )


def words_drawn(n_texts: int, length: int, folder: Path) -> Path:
    """A file of such texts: words of the program's own drawn by lot, as many as are asked for, which none ships."""
    file, drawn = folder / f"{n_texts}x{length}.jsonl", random.Random(0)
    if not file.exists():
        words = " ".join(read_texts(BUILTIN_TEXT, Path()).texts).split()
        texts = (" ".join(drawn.choices(words, k=length)) for _ in range(n_texts))
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names, n_bytes = [], 0
    for name, shape in shapes.items():
        names.append(name)
        n_bytes += 2 * torch.Size(shape).numel()
        if n_bytes >= _SHARD_BYTES:
            yield names
            names, n_bytes = [], 0
    if names:
        yield names


def _drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(sum(map(ord, name)))
    if len(shape) == 1:
        return torch.full(shape, float("weight" in name), dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=drawn)


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [*read_texts(BUILTIN_CLOZE, Path()).texts, *read_texts(BUILTIN_TEXT, Path()).texts]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>", pad_token="<s>")


if __name__ == "__main__":
    main()
