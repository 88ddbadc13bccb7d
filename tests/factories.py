"""Small whole results that several tests look at."""

from dataclasses import replace

from sparsedash.catalog.presets import method_named
from sparsedash.schema.export_settings import Proof
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import (
    ExpertsLayout,
    MlpLayout,
    ModelShape,
    ModelStructure,
)
from sparsedash.schema.records import (
    Candidate,
    Outcome,
    Pruned,
    Reached,
    Record,
    Run,
    Stopping,
    TargetToken,
)
from sparsedash.schema.settings import CalibrationSettings, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec


def plain(text: str) -> str:
    """The text with plain spaces for those that do not break."""
    return text.replace("\u00a0", " ")


def outcome(
    index: int = 0, right: bool = True, log_likelihood: float = -1.5
) -> Outcome:
    return Outcome(
        index=index,
        target="door",
        answer="door" if right else "wall",
        last_word_right=right,
        last_token_right=True,
        log_likelihood=log_likelihood,
        tokens=(TargetToken(text=" door", log_likelihood=log_likelihood, rank=1),),
        top=(
            Candidate(text=" door", probability=0.5),
            Candidate(text=" “wall”", probability=0.25),
        ),
    )


PRUNED = Pruned(
    spec=SparseSpec(MethodSettings(saliency="magnitude"), 125),
    calibration=CalibrationSettings(corpus="wikitext-2"),
    widths=(96, 64),
    dense_widths=(128, 64),
    reached=Reached(channels=32 / 192, weights=0.13, bytes=0.09, macs=0.1),
    layer_errors=(0.25, 0.0),
    held_out_errors=(0.5, 0.0),
)

THREE_LAYERS = replace(
    PRUNED,
    widths=(96, 64, 32),
    dense_widths=(128, 64, 64),
    layer_errors=(0.1, 0.02, 0.4),
    held_out_errors=(0.11, 0.02, 0.5),
    uncompensated_errors=(0.2, 0.04, 0.5),
    passage_errors=(0.12, 0.03, 0.4),
    alone=(0.02, 0.01, 0.04),
)
"""With everything measured that can be."""

MIXTURE = replace(
    PRUNED,
    spec=SparseSpec(method_named("experts"), 500),
    widths=(64, 0, 0),
    dense_widths=(64, 0, 0),
    reached=Reached(channels=0.5, weights=0.4, bytes=0.3, macs=0.0),
    layer_errors=(0.0, 0.2, 0.1),
    held_out_errors=(0.0, 0.22, 0.1),
    uncompensated_errors=(0.0, 0.4, 0.3),
    experts=((), (0, 2), (1, 3)),
    expert_use=((), (0.5, 0.0, 0.4, 0.1), (0.3, 0.3, 0.2, 0.2)),
    few_tokens=1,
)
"""A dense layer, then two mixtures of four experts, of which two stay."""

_EXPERTS = ExpertsLayout(
    path="mlp.experts",
    router="mlp.gate",
    tensors={},
    n=4,
    width=16,
    n_chosen=2,
    n_groups=1,
    key="num_experts",
)
PER_EXPERT = 3 * 32 * 16 + 32
MIXTURE_SHAPE = ModelShape(
    family="glm4_moe",
    hidden=32,
    vocabulary=400,
    widths=(64, 0, 0),
    per_channel=96,
    bias_per_channel=0,
    n_matmul=50_000,
    n_head=12_800,
    n_parameters=60_000,
    attention=32,
    cache_per_token=96,
    other_weights=(4096, 4096 + 4 * PER_EXPERT, 4096 + 4 * PER_EXPERT),
    other_parameters=(64, 64, 64),
    stored_bytes=2,
    structure=ModelStructure(
        blocks="model.layers",
        mlps=(MlpLayout(inner=("mlp.up",), out="mlp.down", width=64), None, None),
        experts=(None, _EXPERTS, _EXPERTS),
    ),
    per_expert=PER_EXPERT,
    per_expert_channel=96,
)
"""Of the model that MIXTURE was made of."""

STOPPED = Stopping(
    decision="difference",
    n_answered=40,
    n_passages=120,
    p_value=0.01,
    interval=(-0.3, -0.1),
    margin=0.02,
    n_comparisons=1,
)

RECORD = Record(
    key="k",
    model="gpt2",
    model_identity="a" * 40,
    dtype="float32",
    corpus="lambada",
    corpus_identity="b" * 40,
    passages_key="p",
    pruned=PRUNED,
    outcomes=(outcome(0), outcome(1, right=False, log_likelihood=-2.5)),
    seconds=1.25,
    tokens_per_second=1000.0,
)

RUN = Run(
    key="r",
    settings=RunSettings(sparsities_permille=(125,)),
    model_identity="a" * 40,
    corpora={"calibration": "c" * 40, "evaluation": "b" * 40},
    dense="d",
    sparse=("k",),
    finished=False,
    started_at=1.0,
    finished_at=None,
    seconds={"load": 0.5},
    cached=("calibrate",),
    warnings=(),
    versions={"torch": "2"},
)

PROOF = Proof(
    runtime="transformers",
    version="5.24.0",
    n_logits=16,
    logit_difference=3.1e-5,
    logit_allowed=1e-3,
    n_verdicts=50,
    n_meant=50,
    n_run=50,
    made_at=1_764_000_300.0,
)


def answered(key: str, n: int, **changes: object) -> Record:
    """A dense record under this key that answers n passages right, all alike."""
    outcomes = tuple(
        replace(outcome(i), log_likelihood=-1.0, tokens=(), top=()) for i in range(n)
    )
    same = {
        "model": "owner/model",
        "model_identity": "m",
        "seconds": 1.0,
        "pruned": None,
        "outcomes": outcomes,
    }
    return replace(RECORD, key=key, **same | changes)  # type: ignore[arg-type]


def losing(key: str, nats: float, n: int, **changes: object) -> Record:
    """A record under this key whose n answers lost so many nats each, against the same with
    none.
    """
    (one,) = answered(key, 1).outcomes
    outcomes = tuple(
        replace(one, index=i, log_likelihood=-2 - nats - 0.01 * (i % 3))
        for i in range(n)
    )
    return answered(key, n, outcomes=outcomes, **changes)
