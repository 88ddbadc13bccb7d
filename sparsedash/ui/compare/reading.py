"""One passage on the compare page: both answers, what both models write after it, and where they differ in it."""

from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Passages
from sparsedash.service.backend import Backend
from sparsedash.ui.compare import blind
from sparsedash.ui.compare.continuation import continue_passage
from sparsedash.ui.compare.divergence_strip import show_strip
from sparsedash.ui.compare.passage import show_passage


def read_passage(backend: Backend, pair: Pair, passages: Passages | None, position: int, is_blind: bool) -> None:
    """Draw the passage at this position; while it waits to be judged blind, without what tells the sides apart."""
    outcome = pair.left.outcomes[position]
    subject = f"passage-{outcome.index}"
    seen = blind.side_by_side(backend, pair, subject, is_blind)
    show_passage(position, seen, passages)
    if is_blind:
        blind.preference_buttons(backend, seen, subject)
    if passages is None:
        return
    context = passages.contexts[position]
    continue_passage(backend, seen, context)
    if not seen.hidden:
        show_strip(backend, pair, f"{context} {outcome.target}")
