"""What the dense and the headline model write after the run's prompts, side by side under the answer of a run."""

from sparsedash.reporting.html import Html, element, escape, readable
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, mark_divergence
from sparsedash.reporting.run_prompts import PromptTexts, prompt_texts
from sparsedash.reporting.run_results import RunResults
from sparsedash.service.backend import Backend
from sparsedash.ui import frame

_TO_COME, _NOT_STORED = "…", "(not stored)"


def show_prompts(backend: Backend, found: RunResults, *, grows: bool) -> None:
    """Draw the run's prompts with both texts, and the link to those of the other models; nothing where none is stored.

    grows: keep the room for texts to come.
    """
    rows = list(prompt_texts(backend, found))
    if not rows:
        return
    sparse, missing = found.headline, _NOT_STORED if found.run.finished else _TO_COME
    name = f"Sparse, {found.names[sparse.key]}" if sparse is not None else "Sparse"
    heads = (("Prompt", ""), ("Dense", "sd-dense"), (name, "sd-sparse"))
    head = element("tr", *(element("th", escape(text), scope="col", css=css) for text, css in heads))
    drawn = element("tbody", *(_row(row, name, missing) for row in rows))
    css = "sd-prompts sd-grows" if grows else "sd-prompts"
    frame.show(element("table", element("thead", head), drawn, css=css, aria_label="What the models write"))
    with frame.row("prompts"):
        frame.remark(f"Always the first choice. {DIVERGENCE_SIGN} marks where the two texts part.")
        if sparse is not None:
            others = "Other models, and prompts of your own" if len(found.sparse) > 1 else "Try a prompt of your own"
            frame.link("compare", others, **found.comparisons[sparse.key])


def _row(row: PromptTexts, name: str, missing: str) -> Html:
    """The prompt and both texts, without line breaks. name: of the sparse model. missing: in place of its text."""
    dense, sparse = (" ".join(readable(text).split()) for text in (row.dense, row.sparse or ""))
    left, right = mark_divergence(dense, sparse) if row.sparse is not None else (escape(dense), escape(missing))
    return element(
        "tr",
        element("th", escape(row.prompt), scope="row"),
        element("td", left, css="sd-dense", data_model="Dense"),
        element("td", right, css="sd-sparse", data_model=name),
    )
