"""What models wrote for a comparison, for the report: after prompts that visitors tried, and after broken passages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparsedash.reporting import model_names
from sparsedash.reporting.html import Html, element, escape, join, paragraph
from sparsedash.reporting.record_pair import Kind, Pair
from sparsedash.reporting.text_diff import SIGN, parted
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend

MOST = 100
PROMPT_SHOWN = 600
"""Characters of a prompt's end that stand above what was written after it."""
_FLIPS: tuple[Kind, ...] = ("broke", "mended")
_NOTHING = "(nothing)"


@dataclass(frozen=True, kw_only=True)
class Written:
    """One prompt with the texts that were written after it, by the names of the models, the left one first.

    how: which passage it was, or with what settings it was written.
    """

    prompt: str
    how: str
    texts: dict[str, str]


def written(backend: Backend, run: Run, pair: Pair, passages: Passages | None) -> list[Written]:
    """What is stored of both models' writing: prompts first, newest first, then passages that broke or were mended."""
    names = dict(model_names.record_names(run))
    found: list[Written] = []
    for how, request in (*_prompts(backend, pair), *_passages(pair, passages)):
        stored = backend.continuation(request.key())
        if stored is not None and len(found) < MOST:
            others = dict(zip((names.get(key, key[:8]) for key in request.others), stored.others, strict=False))
            stopped = ", stopped before the end" if stored.stopped else ""
            texts = {pair.left_name: stored.left, pair.right_name: stored.right, **others}
            found.append(Written(prompt=request.prompt, how=f"{how}{stopped}", texts=texts))
    return found


def _prompts(backend: Backend, pair: Pair) -> Iterator[tuple[str, ContinuationSettings]]:
    for request in backend.user_data.prompts(pair.left.key, pair.right.key):
        yield f"A visitor's prompt, {how_written(request)}", request


def _passages(pair: Pair, passages: Passages | None) -> Iterator[tuple[str, ContinuationSettings]]:
    """Those that the page's button asks to be continued; a context that cannot be is left out."""
    kinds = pair.kinds(range(len(pair.left.outcomes)) if passages else [])
    for kind in _FLIPS:
        for position in kinds[kind]:
            assert passages is not None, "without texts there are no positions"
            try:
                request = ContinuationSettings(
                    left=pair.left.key, right=pair.right.key, prompt=passages.contexts[position]
                )
            except SettingsError:
                continue
            yield f"Passage {pair.left.outcomes[position].index + 1:,}, {kind}", request


def how_written(request: ContinuationSettings) -> str:
    """ "first choices, 40 tokens", "temperature 0.7, seed 5, 12 tokens"."""
    if request.temperature_percent == 0:
        return f"first choices, {request.n_tokens} tokens"
    return f"temperature {request.temperature_percent / 100:g}, seed {request.seed}, {request.n_tokens} tokens"


def section(found: Sequence[Written]) -> list[Html]:
    """The part of the report that shows them, each text with a mark where it parts from the left model's."""
    if not found:
        return []
    heading = element("h2", escape("What the models wrote"))
    first = next(iter(found[0].texts))
    legend = paragraph(f"The mark {SIGN} stands where a text parts from that of {first}.", css="sd-muted")
    return [heading, legend, *(_drawn(each) for each in found)]


def _drawn(each: Written) -> Html:
    prompt = each.prompt if len(each.prompt) <= PROMPT_SHOWN else f"… {each.prompt[-PROMPT_SHOWN:]}"
    (left, first), *rest = ((name, text.strip() or _NOTHING) for name, text in each.texts.items())
    rows = [(left, escape(first)), *((name, parted(first, text)[1]) for name, text in rest)]
    body = (element("tr", element("th", escape(name), scope="row"), element("td", text)) for name, text in rows)
    table = element("table", element("tbody", *body), css="written")
    return join(paragraph(each.how, css="sd-muted"), paragraph(prompt), table)
