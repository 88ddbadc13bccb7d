"""Runs like the specimens' of other models, one of them hostile in every text: passages, answers,
what models wrote.
"""

from dataclasses import replace

from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    TokenDivergence,
)
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData
from tests.ui import specimens

TEXT = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ \u202eabc 👩‍🚀 nul\x00 "
SHOWN = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ ⟨U+202E⟩abc 👩‍🚀 nul␀"
LONG = TEXT + "w" * 100_000
N_LONG = 13
"""So many hostile passages have a hundred thousand letters."""


def run_of(model: str, name: str, age_s: float = 0.0):
    """A finished run of this model, its records and its texts. name: in all their keys. age_s: how
    much older it is.
    """
    run, records = specimens.run(replace(specimens.SETTINGS, model=model))
    texts = replace(specimens.passages(), key=f"texts-{name}")
    records = [
        replace(
            record,
            key=f"{name}-{record.key}",
            model=model,
            passages_key=texts.key,
        )
        for record in records
    ]
    dense, *sparse = (record.key for record in records)
    return (
        replace(
            run,
            dense=dense,
            sparse=tuple(sparse),
            started_at=run.started_at - age_s,
        ),
        records,
        texts,
    )


def _hostile(outcome, answer):
    tokens = tuple(replace(token, text=TEXT) for token in outcome.tokens)
    top = tuple(replace(candidate, text=TEXT) for candidate in outcome.top)
    return replace(
        outcome,
        target=TEXT,
        answer=answer,
        tokens=tokens,
        top=top,
    )


def put_hostile(store: Store) -> str:
    """Put a run where every text is hostile into the store, older than the specimens' own; gives
    its key.
    """
    run, records, texts = run_of(
        "org/<img src=x onerror=alert(1)>**b**", "hostile", age_s=60
    )
    texts = replace(texts, contexts=(LONG,) * N_LONG + (TEXT,) * (120 - N_LONG))
    for i, record in enumerate(records):
        outcomes = tuple(_hostile(outcome, f"{TEXT}{i}") for outcome in record.outcomes)
        records[i] = replace(record, outcomes=outcomes)
    pair = {"left": run.dense, "right": run.sparse[-1]}
    prompt = ContinuationSettings(**pair, prompt=TEXT)
    strip = DivergenceSettings(**pair, text=f"{TEXT} {TEXT}")
    places = (TokenDivergence(text=TEXT, nats=1.0, left=TEXT, right=TEXT),) * 3
    written = Continuation(
        key=prompt.key(),
        prompt=TEXT,
        left=LONG,
        right=TEXT,
    )
    for value in (
        *records,
        texts,
        run,
        written,
        Divergence(key=strip.key(), opening=TEXT, places=places),
    ):
        store.put(value.key, value)
    UserData(store).keep_prompt(prompt)
    return run.key
