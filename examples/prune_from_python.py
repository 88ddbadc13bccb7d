"""Prune a language model from Python, and say what it lost: the same steps that the dashboard takes.

    python -m examples.prune_from_python
    python -m examples.prune_from_python --model /path/to/model --sparsity 10,30 --passages 132 --data-dir results

Call it like this in the checkout, with the Python of `make install`. Without arguments it takes the built-in model,
which needs no network, and a few minutes. With --data-dir a second call answers at once, and a dashboard that is
started with SPARSEDASH_DATA_DIR set to that folder shows the run.
"""

import argparse
import tempfile
from pathlib import Path

from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.run import pipeline
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_MODEL,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.stats.significance import compare_records
from sparsedash.storage.store import Store


def main() -> None:
    """Prune as asked on the command line, and print the verdict on each sparse model."""
    arguments = parse_arguments()
    settings = RunSettings(
        model=arguments.model,
        methods=(method_named(DEFAULT_METHOD),),
        sparsities_permille=parse_percents(arguments.sparsity),
        # The dense model writes its own calibration text: at least 4 tokens a channel, and with more less is lost.
        calibration=CalibrationSettings(corpus="self", n_samples=64, length=128),
        evaluation=EvaluationSettings(corpus=BUILTIN_CLOZE, n_passages=arguments.passages),
    )
    with tempfile.TemporaryDirectory() as temporary:
        dense, *sparse = answers(settings, arguments.data_dir or Path(temporary))
    print(f"{settings.model}, {DEFAULT_METHOD}, the first {arguments.passages} passages of {BUILTIN_CLOZE}")
    print(f"dense      {dense.last_word.accuracy:.1%} right")
    for record in sparse:
        print(f"{record.sparsity_permille / 10:g} % sparse", verdict(dense, record))


def answers(settings: RunSettings, folder: Path) -> list[Record]:
    """The dense model's answers, then those of every sparse model, in the order asked. folder: where they are kept."""
    store = Store(folder)
    try:
        run = pipeline.run(settings, store)
        records = [store.get(Record, key) for key in (run.dense, *run.sparse)]
        return [record for record in records if record is not None]
    finally:
        store.close()


def verdict(dense: Record, sparse: Record) -> str:
    """What was lost. Both answered the same passages, so what counts is how many answers flipped, and which way."""
    paired = compare_records(dense, sparse)
    low, high = (100 * end for end in paired.interval)
    return (
        f"{sparse.last_word.accuracy:.1%} right: {paired.broke} answers broke, {paired.mended} were mended; "
        f"McNemar p {paired.p_value:.2g}, {100 * paired.difference:+.1f} points (95 %: {low:+.1f} to {high:+.1f})"
    )


def parse_arguments() -> argparse.Namespace:
    """What to prune, by how much, and how much to ask it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=BUILTIN_MODEL, help="hub id, folder or .gguf file")
    parser.add_argument("--sparsity", default="10,20", help="percents of the MLPs' channels, with commas between")
    parser.add_argument("--passages", type=int, default=60, help="so many of the 132 built-in ones are answered")
    parser.add_argument("--data-dir", type=Path, help="keeps what is computed; a temporary folder where not given")
    return parser.parse_args()


if __name__ == "__main__":
    main()
