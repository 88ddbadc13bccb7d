"""One passage or prompt: both models' answers, the heat strip of how far they differ, and their
continuations.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import streamlit as st

from sparsedash.catalog.choices import is_example
from sparsedash.jobs.job import Job
from sparsedash.reporting.html import (
    Html,
    Table,
    Value,
    element,
    escape,
    join,
    paragraph,
    quoted,
    readable,
    token,
    visible,
)
from sparsedash.reporting.job_status import (
    job_activity,
    job_announcement,
    job_progress_words,
    stage_facts,
)
from sparsedash.reporting.passage_analysis import change_words, first_choices
from sparsedash.reporting.record_pair import (
    DIVERGENCE_SIGN,
    SIDES,
    Pair,
    end_of,
    mark_divergence,
)
from sparsedash.reporting.run_reports import sampling_words
from sparsedash.reporting.wording import (
    and_join,
    first_upper,
    likelihood,
    plural,
    quantity,
    record_names,
    signed_nats,
)
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import field_rows
from sparsedash.schema.pair_records import (
    MAX_OTHERS,
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    TokenDivergence,
)
from sparsedash.schema.records import Outcome, Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, browser_scripts, job_panel, widgets
from sparsedash.ui.compare_rows import short_cell, show_rows
from sparsedash.ui.compare_views import Shown, judge_blind, sides

_POLL_S = 0.25
"""How often texts that are being written are drawn again."""
_NOT_HERE = "The example's models do not ship: run it here to try a prompt."
_PROMPT = "own-prompt"
_ALL = "own-all"
_ROWS = field_rows(ContinuationSettings)
_DRAWS = "0: greedy decoding. Above 0 all models sample with the same random numbers, so that only the models differ."
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "temperature_percent": (
        "Temperature",
        0.0,
        _ROWS["temperature_percent"].high / 100,
        0.0,
        0.1,
        _DRAWS,
    ),
    "seed": ("Seed", 0, _ROWS["seed"].high, 0, 1, "Another seed samples other words."),
    "n_tokens": (
        "Tokens to write",
        1,
        _ROWS["n_tokens"].high,
        _ROWS["n_tokens"].default,
        1,
        None,
    ),
}
"""Label, limits, default, step and help of the fields."""
_SHOWN_CHARACTERS = 2_000
_AT_FIRST = 5


def continue_passage(backend: Backend, pair: Pair, context: str) -> None:
    """Draw the continuations of the context, or the button that asks for them."""
    try:
        request = _request(pair, prompt=context)
    except SettingsError as error:
        widgets.note(f"This passage cannot be continued: {error.message}")
        return
    if request in backend.user_data.prompts(pair.left.key, pair.right.key):
        widgets.remark("Continued below, among your prompts.")
        return
    job = backend.newest_job(request.key())
    # A job that is done has left a result; without one, somebody has cleared the store.
    if backend.result(Continuation, request.key()) is not None or (
        job is not None and job.state != "done"
    ):
        widgets.section("Continued by both models")
        _show_written(backend, pair, request, {})
        return
    about = f"Both models continue the passage by {request.n_tokens} tokens, greedily."
    submit = partial(backend.submit, request)
    widgets.action_button(
        "Continue with both models",
        submit,
        key="continue",
        icon="edit_note",
        help=about,
    )


def _show_written(
    backend: Backend,
    pair: Pair,
    request: ContinuationSettings,
    names: Mapping[str, str],
) -> None:
    """Draw what was or is being written.

    names: of the further models that write, by their records' keys.
    """
    others = [names.get(key, key[:8]) for key in request.others]
    job = backend.newest_job(request.key())
    stored = backend.continuation(request)
    if job is not None and job.live and (stored is None or stored.stopped):
        _watch_writing(backend, pair, others, job.id)
        return
    if stored is None and job is not None:
        if any(job.progress.texts):
            _draw_growing(pair, others, job)
        job_panel.draw_job(backend, job, brief=True)
        return
    remark = "The texts are no longer stored."
    if stored is not None:
        _draw_written(pair, others, (stored.left, stored.right, *stored.others))
        remark = "⊘ Stopped early: the texts are incomplete." if stored.stopped else ""
        if stored.n_unread:
            cut = quantity(stored.n_unread, "token")
            widgets.note(
                f"The prompt is longer than the context: its first {cut} were not read."
            )
    if remark:
        with widgets.row():
            widgets.note(remark)
            submit = partial(backend.submit, request)
            key = f"again-{request.key()}"
            widgets.action_button(
                "Write it again",
                submit,
                key=key,
                icon="refresh",
                kind="tertiary",
            )


@widgets.fragment(_POLL_S)
def _watch_writing(
    backend: Backend, pair: Pair, others: Sequence[str], job_id: int
) -> None:
    """All texts as far as they are. Reruns the page when the job has ended."""
    job = backend.job(job_id)
    if not job.live:
        st.rerun()
    progress = f"▶ {' · '.join(filter(None, (*job_activity(job), stage_facts(job))))}"
    if job.stopping:
        progress = "⊘ Stopping"
    elif job.state == "queued":
        progress = f"◷ Waiting: {job_progress_words(backend, job)[1]}"
    cancel = partial(backend.cancel, job.id)
    with st.container(key=f"writing-{job.id}", gap="small"):
        with widgets.row():
            widgets.show(element("p", escape(progress), css="sd-progress"))
            widgets.action_button(
                "Stop",
                cancel,
                key=f"stop-{job.id}",
                icon="stop_circle",
                disabled=job.stopping,
            )
        _draw_growing(pair, others, job)
    browser_scripts.announce(job_announcement(backend, job))


def _draw_growing(pair: Pair, others: Sequence[str], job: Job) -> None:
    """All texts under their models' names, with a sign in place of one to come."""
    texts = job.progress.texts or ("", "")
    _draw_texts(
        pair,
        others,
        [escape(text.strip() or "…") for text in texts],
        "sd-written sd-growing",
    )


def _draw_written(pair: Pair, others: Sequence[str], texts: Sequence[str]) -> None:
    """Draw all texts, with a mark where each diverges from the left model's."""
    first, *following = map(readable, texts)
    marked = [mark_divergence(first, text) for text in following]
    is_pair = pair.hidden or not others
    drawn_first = marked[0][0] if is_pair else escape(first)
    _draw_texts(
        pair,
        others,
        [drawn_first, *(text for _, text in marked)],
        "sd-written",
    )
    if is_pair and first == following[0]:
        widgets.remark("Both texts are identical.")
        return
    reference = "the other" if is_pair else f"that of {pair.left_name}"
    widgets.remark(f"{DIVERGENCE_SIGN} marks where a text diverges from {reference}.")


def _draw_texts(
    pair: Pair, others: Sequence[str], texts: Sequence[Html], css: str
) -> None:
    first, second, *more = (element("p", text, css=css) for text in texts)
    waiting = element("p", escape("…"), css="sd-written sd-growing")
    widgets.show(
        pair.beside(first, second, dict(zip_longest(others, more, fillvalue=waiting)))
    )


def try_prompt(backend: Backend, pair: Pair, run: Run, *, blind: bool) -> None:
    """Draw the run's prompts, the field of another with its settings, and those tried with these
    two, newest first.

    All models of the run can write at once.
    """
    names = {}
    for key, name in record_names(run).items():
        if key not in (pair.left.key, pair.right.key):
            names[key] = "Dense" if key == run.dense else f"Sparse, {name}"
    others = tuple(names)[:MAX_OTHERS]
    written = []
    for prompt in run.settings.prompts:
        request = _request(pair, prompt=prompt, others=others)
        if backend.continuation(request) is not None:
            written.append(request)
    if written:
        with st.expander("What the models of this run write"):
            for request in written:
                _show_prompt(backend, pair, request, names, blind=blind)
    widgets.section("Try a prompt of your own")
    if is_example(pair.left.key):
        widgets.note(_NOT_HERE)
        return
    _prompt_fields(names)
    widgets.action_button(
        "Continue this prompt",
        partial(_submit_prompt, backend, pair, tuple(names)),
        key="continue-own",
        icon="edit_note",
    )
    shown = {request.key() for request in written}
    prompts = backend.user_data.prompts(pair.left.key, pair.right.key)
    tried = [request for request in prompts if request.key() not in shown]
    if not tried:
        widgets.note("Your prompts will be listed here, also after a reload.")
    show_all = len(tried) <= _AT_FIRST or st.session_state.get("all-prompts", False)
    for request in tried if show_all else tried[:_AT_FIRST]:
        with st.container(border=True, key=f"tried-{request.key()[:16]}"):
            _show_prompt(backend, pair, request, names, blind=blind)
            drop = partial(backend.user_data.drop_prompt, request)
            key = f"remove-{request.key()}"
            widgets.action_button(
                "Remove from the list", drop, key=key, icon="close", kind="tertiary"
            )
    if not show_all:
        widgets.show_all(len(tried), "all-prompts")


def _request(pair: Pair, **values: Any) -> ContinuationSettings:
    return ContinuationSettings(left=pair.left.key, right=pair.right.key, **values)


def _prompt_fields(others: Collection[str]) -> None:
    """Draw the fields of a prompt. others: models of the run beside the two."""
    about = "All models continue it at the same time."
    st.text_area(
        "Prompt",
        key=_PROMPT,
        height=100,
        placeholder="The old harbour was quiet, and",
        help=about,
    )
    if others:
        about = "Off: only the two that are compared. These start first; each other one starts once it is rebuilt."
        st.toggle(
            f"All {len(others) + 2} models of the run", value=True, key=_ALL, help=about
        )
    with st.expander("More settings"):
        for column, (name, row) in zip(st.columns(3), _SETTINGS.items(), strict=True):
            label, low, high, usual, step, help_text = row
            key = f"own-{name}"
            column.number_input(label, low, high, usual, step, key=key, help=help_text)


def _submit_prompt(backend: Backend, pair: Pair, others: tuple[str, ...]) -> None:
    """Submit the prompt and put it at the head of the list. Raises SettingsError."""
    state = st.session_state
    values = {name: state.get(f"own-{name}", row[3]) for name, row in _SETTINGS.items()}
    values["temperature_percent"] = round(100 * values["temperature_percent"])
    values["prompt"] = state.get(_PROMPT, "")
    values["others"] = others if state.get(_ALL, False) else ()
    request = _request(pair, **values)
    if backend.continuation(request) is None:
        backend.submit(request)
    backend.user_data.keep_prompt(request)


def _show_prompt(
    backend: Backend,
    pair: Pair,
    request: ContinuationSettings,
    names: Mapping[str, str],
    *,
    blind: bool,
) -> None:
    """Draw a prompt and its continuations; blind: with hidden sides until they are judged."""
    text = element(
        "p", escape(end_of(request.prompt, _SHOWN_CHARACTERS)), css="sd-passage"
    )
    widgets.show(
        text, paragraph(first_upper(sampling_words(request)), css="sd-muted sd-small")
    )
    of_prompt = sides(backend, pair, request.key(), blind)
    _show_written(backend, of_prompt, request, names)
    stored = backend.continuation(request)
    if blind and stored is not None and not stored.stopped:
        judge_blind(backend, of_prompt, request.key())


LEVELS = (0.01, 0.05, 0.2, 0.8)
"""Nats from which a token is drawn one step stronger; the same for every passage, so that passages
can be compared.
"""
_BOUNDS = ("under 0.01", "from 0.01", "from 0.05", "from 0.2", "0.8 and more nats")
"""The steps in words."""
LARGEST = 20
SHOWN_PLACES = 3_000
"""Tokens with their number in reach of the keyboard; and those that are drawn, from the end of the
passage.
"""
SHOWN_CHARACTERS = 20_000
"""A longer context is shown from its end, where the target stands."""


def show_passage(
    backend: Backend, shown: Shown, passages: Passages | None, at: int, *, blind: bool
) -> None:
    """Draw the passage at this place; blind: with hidden sides until it is judged."""
    steps = [
        ("Previous", "chevron_left", shown.query(at - 1), "K"),
        ("Next", "chevron_right", shown.query(at + 1), "J"),
    ]
    address_bar.draw_steps(
        "step",
        steps,
        f"{at + 1:,} of {len(shown.positions):,}",
        "secondary",
    )
    position = shown.positions[at]
    outcome = shown.pair.left.outcomes[position]
    subject = f"passage-{outcome.index}"
    pair = sides(backend, shown.pair, subject, blind)
    pair = replace(pair, stem=f"{pair.stem}-passage-{outcome.index + 1}")
    _show_answers(position, pair, passages)
    if blind:
        judge_blind(backend, pair, subject, by_key=True)
    if passages is None or is_example(pair.left.key):
        return
    context = passages.contexts[position]
    continue_passage(backend, pair, context)
    if not pair.hidden:
        _show_strip(backend, pair, f"{context} {outcome.target}")


def _show_answers(position: int, pair: Pair, passages: Passages | None) -> None:
    """Draw the context with its target, and both answers."""
    outcomes = pair.outcomes(position)
    dense = outcomes[0]
    number = escape(f"Passage {dense.index + 1:,}")
    widgets.show(element("h2", number, css="sd-muted sd-small sd-passage-number"))
    if passages is None:
        widgets.note(
            "The text of this passage is no longer stored. Run again with the same settings to restore it."
        )
    else:
        context = end_of(passages.contexts[position], SHOWN_CHARACTERS)
        target = element("span", escape(dense.target), css="sd-target")
        if pair.hidden:
            target = escape("…")
        text = element("p", escape(context), Html(" "), target, css="sd-passage")
        # On a phone it scrolls in itself, from its end, where the target stands.
        widgets.show(
            element(
                "div",
                text,
                css="sd-reader",
                role="region",
                aria_label="The passage",
                tabindex="0",
            )
        )
    answers = [_answer(outcome, pair.hidden) for outcome in outcomes]
    widgets.show(pair.beside(answers[0], answers[1]))
    if pair.hidden:
        return
    drawn, choices = first_choices(pair, position)
    widgets.show(
        paragraph(change_words(-pair.fall(position), dense.target), css="sd-change"),
        drawn,
    )
    widgets.offer_table(choices)
    texts = [answer.text for answer in dense.tokens]
    if len(texts) > 1 and texts == [answer.text for answer in outcomes[1].tokens]:
        widgets.show_table(_tokens_table(pair, outcomes, texts))


def _tokens_table(
    pair: Pair, outcomes: tuple[Outcome, Outcome], texts: Sequence[str]
) -> Table:
    """The likelihood and rank of each token of the right word, by both models."""
    rows = [[text] for text in texts]
    data: list[dict[str, Value]] = [{"token": text} for text in texts]
    for side, outcome in zip(SIDES, outcomes, strict=True):
        for row, numbers, answer in zip(rows, data, outcome.tokens, strict=True):
            row.append(f"{likelihood(answer.log_likelihood)}, rank {answer.rank:,}")
            numbers[f"{side}_log_likelihood_nats"] = answer.log_likelihood
            numbers[f"{side}_rank"] = answer.rank
    caption = "The right word token by token, each given the ones before"
    head = ["Token", *pair.titles]
    firsts = list(map(token, texts))
    return Table(
        "Tokens of the right word",
        caption,
        head,
        rows,
        firsts,
        data,
        pair.stem,
    )


def _answer(outcome: Outcome, hidden: bool) -> Html:
    """The answer; unless hidden, whether it is right, and the target's probability and rank."""
    right = outcome.last_word_right
    text = escape(readable(outcome.answer))
    if hidden:
        return element("p", text, css="sd-word")
    sign, word, css = (
        ("✓", "right", "sd-right") if right else ("✕", "wrong", "sd-wrong")
    )
    ranks = and_join([f"{t.rank:,}" for t in outcome.tokens])
    rank = f"{plural(len(outcome.tokens), 'rank')} {ranks}"
    verdict = element(
        "span",
        element("span", escape(sign), css="sd-sign"),
        escape(f" {word}"),
        css=f"{css} sd-verdict",
    )
    return join(
        element("p", text, Html(" "), verdict, css="sd-word"),
        paragraph(
            f"{quoted(outcome.target)} gets {likelihood(outcome.log_likelihood)}, {rank}",
            css="sd-muted",
        ),
    )


def _show_strip(backend: Backend, pair: Pair, text: str) -> None:
    """Draw the heat strip, the job that computes it, or the button that asks for it."""
    try:
        request = DivergenceSettings(
            left=pair.left.key,
            right=pair.right.key,
            text=text,
        )
    except SettingsError as error:
        widgets.note(f"This passage cannot be compared token by token: {error.message}")
        return
    if (stored := backend.result(Divergence, request.key())) is not None:
        widgets.section("Where the two models' predictions differ")
        _draw_strip(pair, stored)
        return
    job = backend.newest_job(request.key())
    if job is not None and job.state != "done":
        job_panel.watch_job(backend, job, brief=True)
        return
    widgets.action_button(
        "Show where the two differ",
        lambda: backend.submit(request),
        key="strip",
        icon="gradient",
        help="Both models read the passage; tokens that they predict differently are marked.",
    )


def _draw_strip(pair: Pair, divergence: Divergence) -> None:
    places = divergence.places
    n = len(places)
    largest = sorted(range(n), key=lambda i: -places[i].nats)[:LARGEST]
    skipped = max(0, n - SHOWN_PLACES)
    spans = [escape("… " if skipped else divergence.opening)]
    for i in range(skipped, n):
        place = places[i]
        if not place.text:
            continue
        tip = (
            f"{place.nats:.2f} nats: {pair.left_name} predicts {_quoted(place.left)}, "
            f"{pair.right_name} {_quoted(place.right)}"
        )
        attributes = {"title": tip}
        if i in largest:
            attributes["data_tip"] = tip
            attributes["tabindex"] = "0"
            attributes["role"] = "img"
            attributes["aria_label"] = f"{place.text}: {tip}"
        css = f"sd-heat sd-heat-{bisect_right(LEVELS, place.nats)}"
        spans.append(element("span", escape(place.text), css=css, **attributes))
    legend = []
    for step, words in enumerate(_BOUNDS):
        legend.append(element("span", escape(words), css=f"sd-heat sd-heat-{step}"))
    widgets.remark(
        "The thicker the line under a token, the further apart the two predictions. Point at a token for its number; "
        "Tab reaches the twenty largest, which the table lists."
    )
    widgets.show(
        element("p", *legend, css="sd-heat-legend"),
        element("p", *spans, css="sd-passage sd-strip"),
    )
    with st.expander("The numbers as a table"):
        widgets.show_table(_strip_table(pair, [places[i] for i in largest], n))


def _strip_table(pair: Pair, largest: Sequence[TokenDivergence], n: int) -> Table:
    """The tokens with the largest divergence, of n."""
    caption = (
        f"The {len(largest)} largest of {n:,} tokens: KL({pair.left_name} ‖ {pair.right_name}) of the two "
        "predictions, in nats. 0: identical. Swap the models for the other direction."
    )
    head = [
        "Token",
        "Nats",
        f"{pair.left_name} predicts",
        f"{pair.right_name} predicts",
    ]
    rows = []
    data = []
    for place in largest:
        nats = f"{place.nats:.2f}"
        rows.append(
            [_quoted(place.text), nats, _quoted(place.left), _quoted(place.right)]
        )
        values: dict[str, Value] = {
            "token": place.text,
            "kl_nats": place.nats,
            "left_expects": place.left,
            "right_expects": place.right,
        }
        data.append(values)
    title = "Where the two models differ"
    return Table(title, caption, head, rows, data=data, stem=pair.stem)


def _quoted(text: str) -> str:
    return (
        quoted(visible(text.replace("\n", "⏎")[:60]))
        if text
        else "a part of a character"
    )


def show_passage_table(shown: Shown, passages: Passages | None, at: int) -> None:
    """Draw the page of the table with the passage at this place, and the page buttons."""
    pair, positions, kind = shown
    heads = ["Passage", "begins with"]
    if kind:
        heads = ["Passage", "Right word", pair.left_name, pair.right_name, "Change"]

    def row(place: int) -> tuple[str, str]:
        position = positions[place]
        if kind:
            return _row(pair, position)
        number = f"{pair.left.outcomes[position].index + 1:,}"
        return (
            number,
            f"**{short_cell(passages.contexts[position])}**" if passages else "",
        )

    show_rows(
        "rows" if kind else "rows-hidden", heads, len(positions), row, at, shown.query
    )


def _row(pair: Pair, position: int) -> tuple[str, str]:
    """The passage's number, and its cells: the right word, "✓" or "✕" with the wrong answer for
    each model, and the change.
    """
    number = f"{pair.left.outcomes[position].index + 1:,}"
    answers = [
        "✓" if outcome.last_word_right else f"✕ {short_cell(outcome.answer)}"
        for outcome in pair.outcomes(position)
    ]
    target = short_cell(pair.left.outcomes[position].target)
    change = signed_nats(-pair.fall(position))
    return number, f"**{target}** *{answers[0]}* *{answers[1]}* {change}"
