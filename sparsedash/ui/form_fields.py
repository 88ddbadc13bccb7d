"""Fields of the form, drawn from the rows of the field table, with errors underneath; uploads;
estimates beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import DeletedFile, UploadedFile

from sparsedash.catalog.builtin_tasks import DECIDING_TASKS
from sparsedash.catalog.choices import EVALUATION_CORPORA, OFFERED
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, fact_list, join, paragraph
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_CLOZE_402,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.service.backend import Backend
from sparsedash.service.estimates import Cached, Duration
from sparsedash.service.preflight import Memory
from sparsedash.service.request_checks import ReferenceField, hub_reference, is_hub_id
from sparsedash.stats.sparsity_search import TRIAL_ALPHA
from sparsedash.stats.tolerance import MIN_PASSAGES, detectable_ratio
from sparsedash.storage.serving import serving_rules
from sparsedash.storage.text_files import (
    MAX_MEGABYTES,
    MAX_TOTAL_BYTES,
    MIN_UPLOADED,
    TEXT_KINDS,
    UPLOAD,
    named_text_count,
)
from sparsedash.ui import address_bar, widgets
from sparsedash.ui.address_bar import BOUND, query_value
from sparsedash.ui.widgets import JOB_S

T = TypeVar("T")
_LONG_S = 12 * 3600.0
"""A longer run is confirmed before it starts."""
_REFUSED = "refused"
"""Whether a field was refused since the last expander began; and after its key, whether it is to
open.
"""

_UPLOAD_HELP = (
    "A .jsonl file has one JSON object with a text field in each line, a .txt file blank lines between its texts, a "
    f".parquet file a column named text. At most {MAX_MEGABYTES} MB. It is kept in the server's data folder, where"
)


def setting_field(row: FieldRow) -> Any:
    """Draw the field of a setting. Returns its value, which may be one that is refused under it;
    empty, the default.
    """
    about = row.help or None
    match row.kind:
        case "lines":
            text = (
                st.text_area(
                    row.label,
                    "\n".join(row.default),
                    height=120,
                    key=row.key,
                    bind=BOUND,
                    help=about,
                )
                or ""
            )
            return tuple(filter(None, (line.strip() for line in text.splitlines())))
        case "switch":
            return st.toggle(row.label, key=row.key, bind=BOUND, help=about)
        case "choice":
            usual = row.options.index(row.default)
            chosen = st.selectbox(
                row.label,
                row.options,
                index=usual,
                key=row.key,
                bind=BOUND,
                help=about,
                filter_mode=None,
            )
            return chosen or row.default
        case _:
            number, step, shown = (
                (int, 1, None) if row.kind == "whole" else (float, 0.01, "%.3g")
            )
            # Without limits: Streamlit keeps a value beyond them to itself, and a run would start
            # with the former one.
            value = st.number_input(
                row.label,
                value=row.default,
                step=step,
                format=shown,
                key=row.key,
                bind=address_bar.bound(row.key),
                placeholder=row.empty or None,
                help=about,
            )
            checked = row.default if value is None else number(value)
            validated(row.key, lambda: row.check(checked))
            return checked


def setting_fields(rows: Sequence[FieldRow], n_columns: int = 1) -> dict[str, Any]:
    """Draw fields side by side in so many columns. Returns their values by the keys of the
    settings.
    """
    values = {}
    columns: list[DeltaGenerator] = []
    for row in rows:
        columns = columns or st.columns(n_columns)
        with columns.pop(0):
            values[row.key] = setting_field(row)
    return values


def reference_field(
    backend: Backend, row: FieldRow, usual: str | None = None
) -> str | None:
    """Draw the field of a model or a text, and what the catalog says of it. Returns None where it
    cannot be used.

    usual: its value until the user chooses another; None: the setting's default.
    """
    # In a place of its own: Streamlit loses the address of a bound field that moves up because
    # something above it goes.
    with st.container():
        names = [choice.name for choice in OFFERED[row.title]]
        is_text = row.title != "model"
        if is_text:
            names += backend.uploads.kept()
        field = cast(ReferenceField, row.title)
        usual = usual or row.default
        follow_usual(row.key, usual)
        if typed := st.session_state.get(row.key):
            reference = hub_reference(typed.strip())
            if reference != typed:
                st.session_state[row.key] = reference
        name = st.selectbox(
            row.label,
            names,
            index=names.index(usual),
            key=row.key,
            bind=BOUND,
            accept_new_options=True,
            help=row.help,
        )
        usable = validated(row.key, lambda: _usable_reference(backend, row, name or ""))
        for choice in OFFERED[row.title]:
            if choice.name == name:
                hints = [f"{choice.title}: {choice.summary}"]
                if choice.reading:
                    terms = f"Licence: {choice.licence}. Size: {choice.size}."
                    hints.append(f"{terms} How it is read: {choice.reading}.")
                show_hint(*hints)
        if usable and backend.lacks_text(usable):
            widgets.note(
                "The hub does not answer, and this text was never read here. Without a cached copy the run fails."
            )
        if is_text:
            kinds = [kind.removeprefix(".") for kind in TEXT_KINDS]
            about = f"{_UPLOAD_HELP} {_who()} can choose it, and delete it."
            if usable and usable.startswith(UPLOAD):
                widgets.show(
                    element("p", _gives(backend, field, usable), css="sd-hint")
                )
            keep = partial(_keep_upload, backend, row)
            file_popover(
                "Upload a text",
                "A file of texts",
                kinds,
                f"{row.key}-upload",
                about,
                keep,
            )
        return usable


def _usable_reference(backend: Backend, row: FieldRow, name: str) -> str:
    """The reference of this name. Raises SparseDashError where it cannot be used."""
    # One from the address of this page may be an address itself.
    reference = hub_reference(name.strip())
    if not reference:
        raise SparseDashError(
            "Choose a model." if row.title == "model" else "Choose a text."
        )
    row.check(reference)
    problem = backend.reference_problem(cast(ReferenceField, row.title), reference)
    if problem:
        raise SparseDashError(problem)
    return reference


def _keep_upload(backend: Backend, row: FieldRow, file: UploadedFile) -> None:
    """Keep an uploaded text, and choose it in the field."""
    fewest = MIN_UPLOADED if row.title == "evaluation text" else 0
    st.session_state[row.key] = backend.uploads.keep(file.name, file.getvalue(), fewest)


def follow_usual(key: str, usual: Any) -> None:
    """Where a field's usual value has changed and the field still shows the former one, change it
    too.
    """
    before = st.session_state.get(f"usual-{key}", usual)
    st.session_state[f"usual-{key}"] = usual
    if before != usual and st.session_state.get(key) == before:
        st.session_state[key] = usual


def _gives(backend: Backend, field: ReferenceField, reference: str) -> Html:
    """Contents of an uploaded text, in words."""
    try:
        count = named_text_count(reference, backend.data_dir)
    except SparseDashError as error:
        return escape(error.message)
    if count is None:
        return Html("")
    name = wording.reference_title(reference)
    if field == "calibration text":
        texts = wording.quantity(count.n_texts, "text")
        return escape(f"{name}: {texts}, about {count.n_characters // 4:,} tokens")
    passages = wording.quantity(count.n_passages, "passage")
    gaps = escape(", ".join(gap[:40] for gap in count.gaps))
    return join(escape(f"{name}: {passages}; first gaps: "), element("b", gaps))


@contextmanager
def expander(
    label: str, key: str, names: Sequence[str], opened: bool = False
) -> Iterator[None]:
    """An expander that is open at first where the address has a value for one of these fields, or
    if `opened`.

    It opens where a field in it is refused.
    """
    st.session_state.setdefault(key, opened or any(map(address_bar.query_value, names)))
    if st.session_state.pop(f"{key}-{_REFUSED}", False):
        st.session_state[key] = True
    st.session_state[_REFUSED] = False
    with st.expander(label, key=key, on_change="rerun") as drawn:
        yield
    if st.session_state[_REFUSED] and not drawn.open:
        st.session_state[f"{key}-{_REFUSED}"] = True
        st.rerun()


def show_hint(*lines: str) -> None:
    """Draw small grey lines under a field."""
    if lines:
        widgets.show(*(paragraph(line, css="sd-hint") for line in lines))


def validated(key: str, build: Callable[[], T]) -> T | None:
    """The value that `build` returns; where it raises None, with the error under the field."""
    try:
        return build()
    except SparseDashError as error:
        show_problem(key, error)
        st.session_state[_REFUSED] = True
        return None


def show_problem(key: str, error: SparseDashError) -> None:
    """Draw an error, with a red border around the field."""
    fields = (
        "stTextInputRootElement]",
        "stNumberInputContainer]",
        "stSelectbox] [role=group]",
        "stTextAreaRootElement]",
    )
    marked = ", ".join(f".st-key-{key} [data-testid={field}" for field in fields)
    wrong = error.message
    message = element(
        "p",
        escape(f"{wrong} {error.advice}".strip()),
        css="sd-field-error",
        role="alert",
    )
    widgets.show(
        Html(f"<style>{marked} {{ border-color: var(--broke) !important }}</style>"),
        message,
    )


def file_popover(
    text: str,
    label: str,
    kinds: Sequence[str] | None,
    key: str,
    about: str,
    keep: Callable[[UploadedFile], None],
    *,
    several: bool = False,
) -> None:
    """Draw the button that opens a field for a file, or for several.

    keep: takes a file; a refusal that it raises is shown until the next one.
    """
    refusal = f"{key}-refused"

    def take() -> None:
        value = st.session_state[key]
        files: list[UploadedFile | DeletedFile | None] = value if several else [value]
        # A file that was taken and removed counts as changed once more, at the next press.
        new = [file for file in files if isinstance(file, UploadedFile)]
        if new:
            st.session_state[refusal] = None
        for file in new:
            _take_file(file, keep, refusal)

    with st.popover(text, icon=":material/upload_file:", type="tertiary"):
        refused: SparseDashError | None = st.session_state.get(refusal)
        if refused:
            # Above the file: the window may cut off what is below it.
            show_problem(key, refused)
        st.file_uploader(
            label,
            kinds,
            key=key,
            max_upload_size=MAX_MEGABYTES,
            help=about,
            on_change=take,
            accept_multiple_files=several,
        )


def _take_file(
    file: UploadedFile, keep: Callable[[UploadedFile], None], refusal: str
) -> None:
    """Hand a file on, and forget it. refusal: where the session keeps why it was refused."""
    try:
        keep(file)
    except SparseDashError as error:
        st.session_state[refusal] = error
    finally:
        # Streamlit keeps two copies of a file for as long as the session lasts.
        context = get_script_run_ctx(suppress_warning=True)
        if context is not None and isinstance(
            context.uploaded_file_mgr, MemoryUploadedFileManager
        ):
            context.uploaded_file_mgr.remove_file(
                session_id=context.session_id, file_id=file.file_id
            )
        file.seek(0)
        file.truncate()


def show_uploads(backend: Backend, usual: Mapping[str, str]) -> None:
    """Draw the uploaded texts with their sizes and a delete button each; nothing where there are
    none.

    usual: the text that a field goes back to, by its key, when the one it has chosen is deleted.
    """
    kept = backend.uploads.kept()
    # The label stays the same: another one would make another expander, which is closed.
    if (
        not kept
        or not (
            shown := st.expander("Uploaded texts", key="uploads", on_change="rerun")
        ).open
    ):
        return
    with shown:
        rules = serving_rules()
        room = wording.size(
            MAX_TOTAL_BYTES if rules is None else rules.quota.upload_mb * 1_000_000
        )
        used = wording.size(sum(kept.values()))
        widgets.remark(
            # An administrator sees the uploads of all.
            f"{used} of {room} are in use."
            if rules is None or not backend.administers
            else f"{used} by all users.",
            f"{_who().capitalize()} can choose these texts, and delete them.",
        )
        for reference, n_bytes in kept.items():
            with st.container(horizontal=True, wrap=False, vertical_alignment="center"):
                widgets.show(
                    paragraph(
                        f"{wording.reference_title(reference)}, {wording.size(n_bytes)}"
                    )
                )
                question = f"Delete this text of {wording.size(n_bytes)}? This cannot be undone. Results stay."
                widgets.delete_button(
                    f"delete-{reference}",
                    question,
                    partial(_delete_upload, backend, reference, usual),
                )


def _delete_upload(backend: Backend, reference: str, usual: Mapping[str, str]) -> None:
    """Delete an uploaded text; fields that have chosen it go back to their usual one."""
    backend.uploads.drop(reference)
    for key, name in usual.items():
        if str(st.session_state.get(key, "")).partition("[")[0] == reference:
            st.session_state[key] = name


def _who() -> str:
    return (
        "everyone with access to this page"
        if serving_rules() is None
        else "you and the administrators"
    )


BUSY = "Machine busy now: it takes longer."


class StartCheck(NamedTuple):
    """Whether a run can be started, what it takes, as the end of the button, and what to confirm
    before.
    """

    is_possible: bool
    takes: str = ""
    doubts: tuple[str, ...] = ()


def show_estimate(
    backend: Backend, settings: RunSettings | FindSettings | None
) -> StartCheck:
    """Draw the estimate: memory, what is wrong, and behind a button the rest."""
    if settings is None:
        widgets.note("Fix the highlighted fields.")
        return StartCheck(False)
    estimate = backend.preflight(settings)
    stored = estimate.stored
    memory = estimate.memory
    disk = estimate.disk
    duration = estimate.duration
    is_stored = stored.dense and stored.sparse == stored.n_sparse
    facts = {"Time": "seconds: all results are stored"}
    doubts = []
    takes = "seconds"
    if not is_stored:
        takes = (
            f"about {wording.duration_words(duration.total_s)}"
            if duration.total_s
            else ""
        )
        facts["Time"] = _time(duration)
        if isinstance(settings, FindSettings) and facts["Time"].startswith("about"):
            facts["Time"] += ", less where trials stop early"
        if len(duration.parts) > 1:
            facts["By stage"] = ", ".join(
                f"{name} {wording.duration_words(seconds)}"
                for name, seconds in duration.parts
            )
        if disk is not None:
            facts["Disk"] = wording.disk_words(disk.takes)
            if disk.too_little:
                free = wording.size(disk.free_bytes or 0)
                doubts.append(
                    f"The data folder's disk has {free} left: the run is likely to fill it."
                )
    facts["Reused from earlier runs"] = _reused_words(stored) or "nothing"
    if backend.is_measuring():
        facts["Machine"] = "its speed is being measured, so times may change"
    if not is_stored and backend.is_busy():
        widgets.note(BUSY)
    widgets.show(fact_list([("Memory", _memory(memory))]))
    with st.popover("What it will take", type="tertiary", key="takes"):
        widgets.show(fact_list(list(facts.items())))
    if duration.unknown and backend.is_measuring():
        wait_for_rates(backend)
    if memory.too_little:
        what = f"This machine has {wording.size(memory.there_bytes or 0)} of memory"
        doubts.append(
            f"{what}: the run is likely to run out of it. A smaller model or bfloat16 takes less."
        )
    if is_hub_id(settings.model) and backend.named_model(settings.model) is None:
        doubts.append(
            "The model is not on this machine; its size is not known before it is here."
        )
    if (duration.total_s or 0) > _LONG_S:
        doubts.append(f"It takes {takes}.")
    for text in doubts:
        widgets.note(text)
    for problem in estimate.problems:
        widgets.failure(problem)
    return StartCheck(not estimate.problems, takes, tuple(doubts))


def _reused_words(stored: Cached) -> str:
    """The results that a run finds stored, in words; empty where there are none."""
    reused = []
    if stored.calibration:
        reused.append("calibration")
    if stored.dense:
        reused.append("dense answers")
    if stored.sparse:
        models = wording.plural(stored.n_sparse, "model")
        reused.append(f"{stored.sparse} of {stored.n_sparse} sparse {models}")
    return ", ".join(reused)


@widgets.fragment(JOB_S)
def wait_for_rates(backend: Backend) -> None:
    """Redraw the page as soon as the speed of this machine is known."""
    if not backend.is_measuring():
        st.rerun()


def _time(duration: Duration) -> str:
    if duration.unknown and (not duration.seconds or len(duration.unknown) > 2):
        return "not known: no run like this has finished here yet"
    about = f"about {wording.duration_words(duration.seconds)}"
    if duration.unknown:
        parts = " and ".join(duration.unknown)
        return f"{about}, and {parts}, which has not been measured here yet"
    return (
        f"{about}, estimated from this machine's speed" if duration.counted else about
    )


def _memory(memory: Memory) -> str:
    """The memory of earlier runs, unless this one needs more."""
    measured = memory.measured_bytes
    least = memory.least
    if least and least.streamed:
        reason = wording.streaming_reason(memory.resident_bytes, memory.there_bytes)
        return f"{wording.least_memory_words(least)}. {reason}"
    if least and (measured is None or measured < least.n_bytes):
        return wording.least_memory_words(least)
    if measured is None:
        return "not known yet"
    unknown = (
        ", and more for the backward pass" if memory.backward and not least else ""
    )
    return f"about {wording.size(measured)}{unknown}"


_ROWS = field_rows(EvaluationSettings)
_TEXT = _ROWS["corpus"].key
_N_PASSAGES = _ROWS["n_passages"].key
_SIZE = "sure"
_OTHER = "As chosen below"
_N_TEXTS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
_SIZES = {
    "Quick look": BUILTIN_CLOZE,
    "Decide": BUILTIN_CLOZE_402,
    "Paper": "lambada_openai",
}
"""The passages of each evaluation size, all of which are answered."""


def usual_tasks(text: str) -> tuple[str, ...]:
    """Tasks beside these passages until the user chooses others: the built-in ones where more than
    a look is wanted.
    """
    decides = any(
        text == its_text for name, its_text in _SIZES.items() if name != "Quick look"
    )
    return DECIDING_TASKS if decides else ()


def other_passages_expander(*keys: str) -> AbstractContextManager[None]:
    """The expander of texts and tasks; open at first where the address names other passages.
    keys: of other fields in it.
    """
    is_open = query_value(_TEXT) not in ("", *_SIZES.values())
    return expander("Texts and tasks", "others", (*keys, _ROWS["tasks"].key), is_open)


def evaluation_size_field(
    backend: Backend, place: DeltaGenerator, settings: RunSettings | FindSettings | None
) -> None:
    """Draw the evaluation sizes in their place above the fields that they fill in.

    settings: of the form, for the times; None while a field is wrong.
    """

    text = str(st.session_state.get(_TEXT, ""))
    n_passages = st.session_state.get(_N_PASSAGES)
    names = list(_SIZES)
    captions = [_caption(backend, size_text, settings) for size_text in _SIZES.values()]
    size_names = {size_text: name for name, size_text in _SIZES.items()}
    chosen = size_names.get(text, _OTHER) if n_passages is None else _OTHER
    if chosen == _OTHER:
        names.append(_OTHER)
        captions.append("see “Texts and tasks”")
    st.session_state[_SIZE] = chosen
    place.radio(
        "How sure",
        names,
        key=_SIZE,
        captions=captions,
        label_visibility="collapsed",
        on_change=_fill_in_size,
    )


def _fill_in_size() -> None:
    """Fill in the text of the chosen size, all of it."""
    if text := _SIZES.get(st.session_state[_SIZE]):
        st.session_state.update({_TEXT: text, _N_PASSAGES: None})


def _caption(
    backend: Backend, text: str, settings: RunSettings | FindSettings | None
) -> str:
    """ "402 passages, about 38 min": at most six words."""
    passages = f"{_N_TEXTS[text]:,} passages"
    if backend.lacks_text(text):
        return f"{passages}; the hub does not answer"
    if settings is None:
        return passages
    evaluation = settings.evaluation
    tasks = evaluation.tasks
    if set(tasks) == set(usual_tasks(evaluation.corpus)):
        tasks = usual_tasks(text)
    evaluation = replace(evaluation, corpus=text, n_passages=None, tasks=tasks)
    duration = backend.preflight(replace(settings, evaluation=evaluation)).duration
    if duration.total_s is None:
        return f"{passages}, time not known"
    return f"{passages}, about {wording.duration_words(duration.total_s)}"


def _n_uploaded(backend: Backend, reference: str) -> int:
    """Passages of a text that the user uploaded; 0 where there are none, or it is another text."""
    if not reference.startswith(UPLOAD) or backend.reference_problem(
        "evaluation text", reference
    ):
        return 0
    with suppress(SparseDashError):
        count = named_text_count(reference, backend.data_dir)
        return count.n_passages if count else 0
    return 0


def detectable_words(
    backend: Backend, settings: RunSettings | FindSettings | None
) -> str:
    """The smallest loss that the chosen passages show to be beyond the limit; nothing of an unknown
    number.
    """
    text = str(st.session_state.get(_TEXT, ""))
    n_asked = st.session_state.get(_N_PASSAGES)
    n_texts = _N_TEXTS.get(text, 0) or _n_uploaded(backend, text)
    n_passages = min(n_asked or n_texts, n_texts or n_asked or 0)
    if n_passages < 1:
        return ""
    if n_passages < MIN_PASSAGES:
        return f"{wording.quantity(n_passages, 'passage')}: fewer than {MIN_PASSAGES} can never confirm a model"
    limit = Tolerance().ratio
    alpha = ALPHA / 2
    if isinstance(settings, FindSettings):
        limit = settings.tolerance.ratio
        alpha = TRIAL_ALPHA / 2
    elif settings is not None:
        alpha /= max(1, settings.n_sparse)
    ratio = wording.factor(detectable_ratio(n_passages, limit, alpha))
    passages = wording.quantity(n_passages, "passage")
    limit_words = wording.limit_factor(limit)
    return f"{passages} show that about {ratio} perplexity exceeds the limit of {limit_words}"
