"""A run with all its answers as one JSON document, which `sparsedash run --json` writes.

docs/cli.md describes its fields.
"""

from dataclasses import asdict
from math import exp, isfinite
from typing import Any

from sparsedash.reporting.find_answer import find_document
from sparsedash.reporting.run_ending import run_ending
from sparsedash.reporting.wording import example_words
from sparsedash.schema.records import LARGEST_LOSS, Record, Run, Score
from sparsedash.schema.searches import FindResult
from sparsedash.stats.significance import compare, holm
from sparsedash.stats.tolerance import Loss, Tolerance, ToleranceVerdict, judge_all, losses
from sparsedash.storage.whole_file import RESULT_FORMAT


def run_document(
    run: Run, dense: Record, sparse: list[Record], tolerance: Tolerance | None = None, result: FindResult | None = None
) -> dict[str, Any]:
    """The run and its records as JSON values. sparse: in the order asked. tolerance: what may be lost; None: usual.

    result: of a search; its sentence is about what it was asked for.
    """
    allowed = tolerance or Tolerance()
    verdicts = judge_all([losses(dense, record) for record in sparse], allowed, run.n_compared)
    adjusted = holm([compare(dense, record).p_value for record in sparse], run.n_compared)
    by_permille = {record.sparsity_permille: verdict for record, verdict in zip(sparse, verdicts, strict=True)}
    return {
        "format": RESULT_FORMAT,
        "key": run.key,
        "model": {
            "reference": run.settings.model,
            "identity": run.model_identity,
            "dtype": run.settings.dtype,
            "source_type": run.source_type or None,
        },
        "corpora": {
            "calibration": _corpus(run, "calibration", run.settings.calibration.corpus),
            "evaluation": _corpus(run, "evaluation", run.settings.evaluation.corpus),
        },
        "settings": asdict(run.settings),
        "finished": run.finished,
        "ended": run_ending(run, None) or None,
        "seed": run.settings.calibration.seed,
        "find": result and find_document(result, run.settings.methods[0], by_permille),
        "dense": _answers(dense),
        "sparse": [
            _sparse(dense, record, p) | {"verdict": _verdict(verdict, allowed)}
            for record, p, verdict in zip(sparse, adjusted, verdicts, strict=True)
        ],
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "disk_bytes": run.disk_bytes,
        "cached": list(run.cached),
        "warnings": list(run.warnings),
        "versions": run.versions,
        "example": example_words(run) or None,
    }


def _corpus(run: Run, use: str, reference: str) -> dict[str, str]:
    return {"reference": reference, "identity": run.corpora[use]}


def _answers(record: Record) -> dict[str, Any]:
    return {
        "last_word": _score(record.last_word),
        "last_token": _score(record.last_token),
        "word_perplexity": record.word_perplexity if isfinite(record.word_perplexity) else None,
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


def _sparse(dense: Record, record: Record, p_adjusted: float) -> dict[str, Any]:
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
            "p_adjusted": p_adjusted,
            "difference": pairs.difference,
            "interval": list(pairs.interval),
        },
        "stopping": record.stopping and asdict(record.stopping),
        **_answers(record),
    }


def _score(score: Score) -> dict[str, int]:
    return {"right": score.right, "total": score.total}


def _verdict(found: ToleranceVerdict, tolerance: Tolerance) -> dict[str, Any]:
    """Both losses as they are spoken of: the perplexity as a multiple of dense's, the accuracy in points gained."""
    one, two = found.perplexity, found.accuracy
    return {
        "verdict": found.verdict,
        "tolerance": {"ratio": tolerance.ratio, "points": tolerance.points},
        "decided_by": list(found.decided_by),
        "ratio": _measured(one, _factor(one.value), _factor(one.low), _factor(one.high)),
        "points": two and _measured(two, *(0.0 - 100 * lost for lost in (two.value, two.high, two.low))),
        "passages_needed": found.passages_needed,
    }


def _measured(loss: Loss, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": loss.level, "verdict": loss.verdict}


def _factor(nats: float) -> float | None:
    """e to this power; None where that is no number of JSON: one passage has no interval."""
    return exp(nats) if -LARGEST_LOSS < nats < LARGEST_LOSS else None
