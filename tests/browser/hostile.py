"""A run where every text is hostile: its model, passages, answers, prompts, what models wrote."""

from dataclasses import replace

from sparsedash.schema.pair_records import Continuation, ContinuationSettings, Divergence, DivergenceSettings, Place
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData
from tests.ui import specimens

TEXT = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ \u202eabc 👩‍🚀 nul\x00 "
SHOWN = "<img src=x onerror=alert(1)> **b** :red[x] <script>alert(2)</script> $x$ ⟨U+202E⟩abc 👩‍🚀 nul␀"
LONG = TEXT + "w" * 100_000
N_LONG = 13
"""So many passages have a hundred thousand letters."""


def _outcome(outcome, answer):
    return replace(
        outcome,
        target=TEXT,
        answer=answer,
        tokens=tuple(replace(token, text=TEXT) for token in outcome.tokens),
        top=tuple(replace(candidate, text=TEXT) for candidate in outcome.top),
    )


def put_hostile(store: Store) -> str:
    """Put the run into the store, older than the specimens' own; gives its key."""
    run, records = specimens.run(replace(specimens.SETTINGS, model="org/<img src=x onerror=alert(1)>**b**"))
    passages = replace(specimens.passages(), key="hostile", contexts=(LONG,) * N_LONG + (TEXT,) * (120 - N_LONG))
    texts = {"model": run.settings.model, "passages_key": passages.key}
    for i, record in enumerate(records):
        outcomes = tuple(_outcome(outcome, f"{TEXT}{i}") for outcome in record.outcomes)
        records[i] = replace(record, key=f"hostile-{record.key}", outcomes=outcomes, **texts)
    dense, *sparse = (record.key for record in records)
    run = replace(run, dense=dense, sparse=tuple(sparse), started_at=run.started_at - 60)
    pair = {"left": dense, "right": sparse[-1]}
    prompt = ContinuationSettings(**pair, prompt=TEXT)
    strip = DivergenceSettings(**pair, text=f"{TEXT} {TEXT}")
    places = (Place(text=TEXT, nats=1.0, left=TEXT, right=TEXT),) * 3
    written = Continuation(key=prompt.key(), prompt=TEXT, left=LONG, right=TEXT)
    for value in (*records, passages, run, written, Divergence(key=strip.key(), opening=TEXT, places=places)):
        store.put(value.key, value)
    UserData(store).keep_prompt(prompt)
    return run.key
