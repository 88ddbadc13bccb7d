"""Made-up but believable records: one dense model and sparse ones that break more as more is
removed.
"""

import random
from dataclasses import replace
from math import log

from sparsedash.catalog.budgets import reached
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.engine.evaluation.early_stopping import StopRule, evaluation_chunks
from sparsedash.schema.find_settings import FindResult, FindSettings, Trial
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import KeptParts
from sparsedash.schema.records import (
    Candidate,
    Outcome,
    Passages,
    Pruned,
    Record,
    Run,
    TargetToken,
)
from sparsedash.schema.settings import EvaluationSettings, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.sparsity_search import channel_steps, next_trial, search_bounds

SETTINGS = RunSettings(sparsities_permille=(100, 200, 300))
DENSE_WIDTHS = (1536,) * 30
_WORDS = [
    "letter",
    "garden",
    "kettle",
    "harbour",
    "violin",
    "lantern",
    "orchard",
    "window",
    "sister",
    "ladder",
]
_STORY = (
    "Mara had looked for it all morning: under the bed, behind the stove, in the pockets of every coat. "
    "“You had it yesterday,” her brother said without looking up, “when you came in from the rain.” She "
    "sat down on the stairs and went through the evening again, step by step. The wet shoes, the tea, the "
    "old clock that had stopped at nine. And then she knew, and laughed, and went to fetch the"
)


def outcome(index: int, target: str, right: bool, rng: random.Random) -> Outcome:
    """One answer: a likely target where it is right, another word in its place where it is
    wrong.
    """
    probability = rng.uniform(0.3, 0.9) if right else rng.uniform(0.0005, 0.2)
    others = rng.sample([word for word in _WORDS if word != target], 4)
    remaining = sorted((rng.uniform(0.001, 0.25) for _ in others), reverse=True)
    top = [
        (f" {word}", share * (1 - probability))
        for word, share in zip(others, remaining, strict=True)
    ]
    top.append((f" {target}", probability))
    if not right:
        top[0] = (top[0][0], 0.25 + probability)
    ranked = sorted(top, key=lambda pair: -pair[1])
    rank = [text for text, _ in ranked].index(f" {target}") + 1
    return Outcome(
        index=index,
        target=target,
        answer=target if right else ranked[0][0].strip(),
        last_word_right=right,
        last_token_right=right or rng.random() < 0.2,
        log_likelihood=log(probability),
        tokens=(
            TargetToken(
                text=f" {target}",
                log_likelihood=log(probability),
                rank=rank,
            ),
        ),
        top=tuple(Candidate(text=text, probability=share) for text, share in ranked),
    )


def record(
    verdicts: list[bool],
    permille: int = 0,
    method: MethodSettings | None = None,
    seed: int = 0,
) -> Record:
    """A record with these verdicts; sparse when permille is given."""
    rng = random.Random(seed + permille)
    method = method or MethodSettings()
    kept = round(1536 * (1 - permille / 1000) / 32) * 32
    pruned = Pruned(
        spec=SparseSpec(method, permille),
        calibration=SETTINGS.calibration,
        widths=(kept,) * 30,
        dense_widths=DENSE_WIDTHS,
        reached=reached(shipped_shape("smollm2-135m"), KeptParts(widths=(kept,) * 30)),
        layer_errors=tuple(permille / 4000 for _ in DENSE_WIDTHS),
        held_out_errors=tuple(permille / 3500 for _ in DENSE_WIDTHS),
    )
    outcomes = tuple(
        outcome(i, _WORDS[i % len(_WORDS)], right, rng)
        for i, right in enumerate(verdicts)
    )
    return Record(
        key=f"{method.saliency}-{method.compensation}-{permille}-{seed}",
        model=SETTINGS.model,
        model_identity=f"sha256:{'0123' * 16}",
        dtype="float32",
        corpus=SETTINGS.evaluation.corpus,
        corpus_identity="sha256:4567",
        passages_key="passages",
        pruned=pruned if permille else None,
        outcomes=outcomes,
        seconds=21.5,
        tokens_per_second=912.0,
    )


def verdicts(n: int = 120) -> list[bool]:
    """Dense verdicts."""
    rng = random.Random(1)
    return [rng.random() < 0.36 for _ in range(n)]


def harmed(dense: list[bool], permille: int) -> list[bool]:
    """The verdicts after removing this much: some right answers break, a few wrong ones are
    fixed.
    """
    rng = random.Random(2 + permille)
    breaks = permille / 1000 * 1.1
    mends = permille / 1000 * 0.12
    return [
        rng.random() >= breaks if right else rng.random() < mends for right in dense
    ]


def run(
    settings: RunSettings = SETTINGS, finished: bool = True, n_sparse: int | None = None
) -> tuple[Run, list[Record]]:
    """A run with its records, dense first; shorter when only n_sparse of them are there yet."""
    dense = verdicts()
    records = [record(dense)]
    for method in settings.methods:
        harm = 1.0 if method.compensation == "least-squares" else 1.7
        records += [
            record(harmed(dense, round(permille * harm)), permille, method)
            for permille in settings.sparsities_permille
        ]
    records = records if n_sparse is None else records[: 1 + n_sparse]
    made_run = Run(
        key=settings.key(),
        settings=settings,
        model_identity=f"sha256:{'0123' * 16}",
        corpora={"evaluation": "sha256:4567", "calibration": "self"},
        dense=records[0].key,
        sparse=tuple(r.key for r in records[1:]),
        finished=finished,
        started_at=1_764_000_000.0,
        finished_at=1_764_000_262.0 if finished else None,
        seconds={
            "load": 2.1,
            "text": 58.0,
            "calibrate": 41.0,
            "prune": 12.0,
            "evaluate": 86.0,
        },
        cached=(),
        warnings=(),
        versions={"torch": "2.13.0"},
    )
    return made_run, records


def passages(n: int = 120) -> Passages:
    """Texts for the outcomes of `record`."""
    return Passages(
        key="passages",
        indices=tuple(range(n)),
        contexts=(_STORY,) * n,
        targets=tuple(_WORDS[i % len(_WORDS)] for i in range(n)),
    )


WIDE = Tolerance(ratio=1.3, points=30.0)
"""Of searches."""


def search(
    slope: float = 0.3, n_trials: int | None = None
) -> tuple[Run, list[Record], FindResult]:
    """A search with its run and records. slope: nats lost by share that goes. n_trials: it goes on
    after these.
    """
    settings = FindSettings(
        evaluation=EvaluationSettings(n_passages=120),
        tolerance=WIDE,
    )
    dense = record(verdicts())
    steps = channel_steps(DENSE_WIDTHS, 32)
    done = n_trials is None
    rule = StopRule(dense=dense.outcomes, n_comparisons=6, tolerance=WIDE)
    tried: list[tuple[int, bool]] = []
    records = [dense]
    trials = []
    while (place := next_trial(len(steps), tried)) is not None and len(
        trials
    ) != n_trials:
        sparse = _tried(dense, rule, steps[place], slope)
        decision = sparse.stopping.decision
        verdict = "undecided" if decision == "open" else decision
        trial = Trial(
            permille=steps[place],
            record=sparse.key,
            verdict=verdict,
            n_passages=len(sparse.outcomes),
        )
        trials.append(trial)
        records.append(sparse)
        tried.append((place, verdict == "within"))
    low, _ = search_bounds(len(steps), tried)
    answer = steps[low] if done and low >= 0 else None
    limits = {"tolerance": WIDE, "n_passages": 120, "finished": done}
    result = FindResult(
        key=settings.key(), steps=steps, trials=tuple(trials), answer=answer, **limits
    )
    permilles = tuple(trial.permille for trial in trials) + (
        () if done else (steps[place],)
    )
    keys = tuple(one_record.key for one_record in records[1:])
    request = {
        "key": settings.key(),
        "settings": settings.run(permilles),
        "find": settings,
    }
    return (
        replace(
            run(finished=done)[0],
            sparse=keys,
            **request,
        ),
        records,
        result,
    )


def _tried(dense: Record, rule: StopRule, permille: int, slope: float) -> Record:
    answered: dict[int, Outcome] = {}
    for chunk in evaluation_chunks(len(dense.outcomes)):
        for row in chunk:
            lost = slope * permille / 1000 * (1 + row % 5 / 5)
            answered[row] = replace(
                dense.outcomes[row],
                log_likelihood=dense.outcomes[row].log_likelihood - lost,
            )
        stopping = rule.stopping(answered)
        if stopping and stopping.decision != "open":
            break
    outcomes = tuple(answered[row] for row in sorted(answered))
    return replace(
        record([True], permille),
        outcomes=outcomes,
        stopping=stopping,
    )
