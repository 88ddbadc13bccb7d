"""A run with all its answers as one JSON document, which `sparsedash run --json` writes.

docs/cli.md describes its fields.
"""

from dataclasses import asdict
from typing import Any

from sparsedash.schema.records import Record, Run, Score
from sparsedash.stats.significance import compare


def run_document(run: Run, dense: Record, sparse: list[Record]) -> dict[str, Any]:
    """The run and its records as JSON values. sparse: in the order asked."""
    return {
        "model": {"reference": run.settings.model, "identity": run.model_identity, "dtype": run.settings.dtype},
        "corpora": {
            "calibration": _corpus(run, "calibration", run.settings.calibration.corpus),
            "evaluation": _corpus(run, "evaluation", run.settings.evaluation.corpus),
        },
        "settings": asdict(run.settings),
        "seed": run.settings.calibration.seed,
        "dense": _answers(dense),
        "sparse": [_sparse(dense, record) for record in sparse],
        "seconds": run.seconds,
        "cached": list(run.cached),
        "warnings": list(run.warnings),
        "versions": run.versions,
    }


def _corpus(run: Run, use: str, reference: str) -> dict[str, str]:
    return {"reference": reference, "identity": run.corpora[use]}


def _answers(record: Record) -> dict[str, Any]:
    return {
        "last_word": _score(record.last_word),
        "last_token": _score(record.last_token),
        "word_perplexity": record.word_perplexity,
        "passages": [
            {
                "index": outcome.index,
                "target": outcome.target,
                "last_word_right": outcome.last_word_right,
                "last_token_right": outcome.last_token_right,
                "log_likelihood": outcome.log_likelihood,
                "answer": outcome.answer,
            }
            for outcome in record.outcomes
        ],
    }


def _sparse(dense: Record, record: Record) -> dict[str, Any]:
    assert record.pruned is not None
    pairs = compare(dense, record)
    return {
        "method": asdict(record.pruned.method),
        "sparsity_percent": record.pruned.sparsity_permille / 10,
        "mlp_sparsity": record.pruned.mlp_sparsity,
        "matmul_ratio": record.pruned.matmul_ratio,
        "widths": list(record.pruned.widths),
        "layer_errors": list(record.pruned.layer_errors),
        "held_out_errors": list(record.pruned.held_out_errors),
        "uncompensated_errors": list(record.pruned.uncompensated_errors),
        "passage_errors": list(record.pruned.passage_errors),
        "sensitivities": list(record.pruned.sensitivities),
        "paired": {
            "broke": pairs.broke,
            "mended": pairs.mended,
            "p_value": pairs.p_value,
            "difference": pairs.difference,
            "interval": list(pairs.interval),
        },
        "stopping": record.stopping and asdict(record.stopping),
        **_answers(record),
    }


def _score(score: Score) -> dict[str, int]:
    return {"right": score.right, "total": score.total}
