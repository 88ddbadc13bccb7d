"""The form of the prune page: model, sparsities or a search for the largest one, methods, passages,
more settings.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from math import log
from typing import Any, NamedTuple, cast, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.catalog import resources
from sparsedash.catalog.budgets import BUDGET_TITLES
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.choices import NO_HARNESS
from sparsedash.catalog.export_forms import llama_cpp_problem
from sparsedash.catalog.presets import (
    DEFAULT_METHOD,
    METHODS,
    Method,
    method_name,
    method_named,
)
from sparsedash.catalog.run_rules import removal_error, require_possible
from sparsedash.catalog.usual_settings import (
    method_meant,
    methods_meant,
    refit_tokens,
    usual_method,
    usual_samples,
)
from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, element, escape, paragraph
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.method_settings import (
    Budget,
    MethodSettings,
    uses_parameter,
    with_budget,
)
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import (
    BUILTIN_MIXED,
    BUILTIN_MODEL,
    SELF,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
    percents_text,
)
from sparsedash.schema.sparse_spec import Quantisation
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.service.backend import Backend
from sparsedash.service.estimates import MAX_MINUTES, STEP_MULTIPLE
from sparsedash.stats.tolerance import MIN_PASSAGES, passages_to_judge
from sparsedash.ui import browser_scripts, form_fields, widgets
from sparsedash.ui.address_bar import BOUND, choose_budget, tolerance_fields
from sparsedash.ui.form_address import (
    CHOICES,
    EXPERTS,
    FRESH,
    GOALS,
    LAYERS,
    MASKS,
    OWN,
    PRESETS,
    QUANTISE,
    SEARCH,
    SWEEP,
)
from sparsedash.ui.form_model import model_field
from sparsedash.ui.navigation import LIMITS, parse_limits

_RUN = field_rows(RunSettings)
_METHOD = field_rows(MethodSettings)
_CALIBRATION = field_rows(CalibrationSettings)
_EVALUATION = field_rows(EvaluationSettings)
_ROWS = [
    *_RUN.values(),
    *_CALIBRATION.values(),
    *_EVALUATION.values(),
    *_METHOD.values(),
]
_AT_MOST = replace(
    _EVALUATION["n_passages"],
    label="Passages, at most",
    help="The dense model is evaluated on all of them. A trial stops once its verdict is certain; the search "
    "treats an undecided one as too much.",
)
_MORE: dict[str, tuple[tuple[FieldRow, ...], ...]] = {
    "Calibration": (
        tuple(_CALIBRATION[name] for name in ("n_samples", "length", "seed")),
        (_CALIBRATION["token_weights"],),
        (_CALIBRATION["packed"],),
    ),
    "Evaluation": (
        (_EVALUATION["shuffle_seed"],),
        (_EVALUATION["stop_early"],),
        (_EVALUATION["rule"],),
    ),
    "Numbers": ((_RUN["dtype"], _METHOD["width_multiple"], _RUN["residency"]),),
}
"""Fields that stand side by side, under their headings."""
_OF_TASKS = (_EVALUATION["task_limit"], _EVALUATION["task_shots"])
_HEAL = "heal"
"""Key of the field of healing."""
_HEALING = re.compile(r"(\d{1,6}) ?(m|min|minutes?|steps?)?")
_OF_SWEEPS = ("sparsity", QUANTISE, *PRESETS)
"""Parameters of an address that name chosen sparsities, where it says no goal."""
_LAYERS = (
    "Fewer layers make a plain model that is smaller and faster wherever it runs, with a smaller KV cache. At equal "
    "weights it loses more than narrower layers."
)
_BESIDE_EXPERTS = "Methods for channels narrow the MLPs beside this model's experts; the experts stay as they are."
_MASKS = "Single weights are set to zero in place: such masks do not make the model smaller or faster by themselves."


def first_run_settings(backend: Backend) -> RunSettings:
    """The settings of "Try the built-in model": a sparsity that few passages can confirm, and one
    that costs too much.

    By a named method, so that the next step opens a plain form, on little of the text that ships
    with the program, in the number format that this machine multiplies fastest.
    """
    return RunSettings(
        dtype=backend.fastest_dtype(),
        methods=(method_named("quick"),),
        sparsities_permille=(20, 300),
        calibration=CalibrationSettings(corpus=BUILTIN_MIXED, n_samples=48),
    )


@dataclass(frozen=True, kw_only=True)
class FormValues:
    """Values of the form's fields, before they are checked together.

    is_search: whether the goal is a search. tolerance: None where it cannot be used. presets,
    custom: the chosen methods; custom: None where its choices do not go together. kinds: types that
    models are also quantised to. healing: minutes and steps, one of them 0; None where it is no
    such text. by_key: values of settings, by the keys of their rows. shape: of
    the model; None where it is not known.
    """

    is_search: bool
    budget: Budget
    tolerance: Tolerance | None
    presets: tuple[MethodSettings, ...]
    custom: tuple[MethodSettings, ...] | None
    kinds: tuple[Quantisation, ...]
    healing: tuple[int, int] | None
    by_key: Mapping[str, Any]
    shape: ModelShape | None

    @property
    def methods(self) -> tuple[MethodSettings, ...]:
        """The methods that the form asks for: a search has one."""
        custom = self.custom or ()
        if self.is_search:
            return custom or self.presets
        return (*self.presets, *custom)

    @property
    def is_usable(self) -> bool:
        """Whether no field is refused; what is wrong is said under each."""
        parts = (self.tolerance, self.methods, self.by_key["sparsity"])
        if not all(parts) or self.custom is None or self.by_key["prompts"] is None:
            return False
        return self.healing is not None and not _refused(_ROWS, self.by_key)

    @property
    def calibration(self) -> CalibrationSettings:
        """The calibration. Raises SettingsError."""
        return CalibrationSettings(**self._fields_of(_CALIBRATION))

    def request(self) -> RunSettings | FindSettings:
        """The settings of the run or the search, neither healed nor quantised. Raises SettingsError."""
        methods = []
        for method in dict.fromkeys(self.methods):
            if method.uses("width_multiple"):
                method = replace(method, width_multiple=self.by_key["width"])
            methods.append(method)
        methods = list(with_budget(methods, self.budget))
        settings: dict[str, Any] = {
            **self._fields_of(_RUN),
            "calibration": self.calibration,
            "evaluation": EvaluationSettings(**self._fields_of(_EVALUATION)),
        }
        if not self.is_search:
            return RunSettings(methods=tuple(methods), **settings)
        del settings["sparsities_permille"]
        assert self.tolerance is not None, "a form without limits is not usable"
        return FindSettings(method=methods[0], tolerance=self.tolerance, **settings)

    def _fields_of(self, rows: Mapping[str, FieldRow]) -> dict[str, Any]:
        """The values of these settings, by their names."""
        return {
            row.name: self.by_key[row.key]
            for row in rows.values()
            if row.key in self.by_key
        }


class _Places(NamedTuple):
    """Containers of what is said once all fields are drawn."""

    passages: DeltaGenerator
    run: DeltaGenerator
    methods: DeltaGenerator
    healing: DeltaGenerator
    quantising: DeltaGenerator
    sizes: DeltaGenerator


def prune_form(backend: Backend) -> RunSettings | FindSettings | None:
    """Draw the form. Returns its settings, or None while a field is wrong; the error is under that
    field.
    """
    if st.query_params.pop(FRESH, ""):
        # Streamlit keeps the value of a field that left the page, over that of an address which
        # equals its default.
        keys = [row.key for row in _ROWS]
        for key in (*keys, _HEAL, "goal", "with", *PRESETS, OWN, QUANTISE):
            st.session_state.pop(key, None)
            st.session_state.pop(f"usual-{key}", None)
    is_new = "goal" not in st.session_state and "goal" not in st.query_params
    if is_new and any(name in st.query_params for name in _OF_SWEEPS):
        st.session_state["goal"] = st.query_params["goal"] = SWEEP
    form, places = _draw_fields(backend)
    with places.methods:
        _show_methods(form)
    settings: RunSettings | FindSettings | None = None
    if form.is_usable:
        with places.run:
            settings = form_fields.validated(
                "with" if form.is_search else "sparsity",
                lambda: _possible(form.request(), form.shape),
            )
        if settings is not None and form.healing is not None and any(form.healing):
            with places.healing:
                settings = _healed(backend, settings, *form.healing)
        with places.run:
            if isinstance(settings, RunSettings):
                _show_sweep(settings)
            elif settings is not None:
                _show_search(settings)
        if settings is not None and form.kinds:
            with places.quantising:
                settings = _quantised(settings, form.kinds)
    form_fields.evaluation_size_field(backend, places.sizes, settings)
    with places.passages:
        form_fields.show_hint(
            *filter(None, [form_fields.detectable_words(backend, settings)])
        )
    browser_scripts.confirm_typed_choices()
    return settings


def _draw_fields(backend: Backend) -> tuple[FormValues, _Places]:
    """Draw all fields, in their order on the page, with room for what is said of them."""
    widgets.section("Which model?")
    model = model_field(backend, _RUN["model"])
    named = backend.named_model(model) if model else None
    shape = named.shape if named else None
    widgets.section("How much to remove?")
    goal = st.segmented_control(
        "What to do",
        GOALS,
        default=SEARCH,
        key="goal",
        bind=BOUND,
        required=True,
        on_change=_keep_method,
        label_visibility="collapsed",
    )
    is_search = goal == SEARCH
    tolerance = (
        parse_limits(st.query_params.get(LIMITS, "")) if is_search else Tolerance()
    )
    sparsities: tuple[int, ...] | None = RunSettings.sparsities_permille
    with st.container():
        if is_search:
            is_possible = tolerance_fields(tolerance, ("ratio",))
        else:
            is_possible = True
            sparsities = _sparsity_field()
    about_run = st.container()
    about_methods = st.container()
    heal_column, quantise_column = st.columns(2)
    with heal_column:
        healing_asked = _healing_field()
    with quantise_column:
        kinds = _quantise_field(backend, model)
    healing = st.container()
    quantising = st.container()
    widgets.section("How sure?")
    sizes = st.container()
    with _method_expander(is_search):
        budget_row = _METHOD["budget"]
        budget = choose_budget(budget_row.key, budget_row.label, budget_row.default)
        presets = _preset_fields(is_search, shape)
        label = (
            "Use a method of your own instead"
            if is_search
            else "Add a method of your own"
        )
        custom = _custom_method_fields(label)
        widgets.show(element("div", _methods_table().html, css="sd-wrapped"))
    values: dict[str, Any] = {"model": model, "sparsity": sparsities}
    corpus = _CALIBRATION["corpus"]
    # The text of the built-in model is there already.
    usual_text = BUILTIN_MIXED if model == BUILTIN_MODEL else SELF
    with form_fields.other_passages_expander(
        corpus.key, _RUN["prompts"].key, _AT_MOST.key
    ):
        values["text"] = form_fields.reference_field(backend, _EVALUATION["corpus"])
        about_passages = st.container()
        values |= form_fields.setting_fields(
            [_AT_MOST if is_search else _EVALUATION["n_passages"]]
        )
        values |= _task_fields(backend, form_fields.usual_tasks(values["text"] or ""))
        if is_search and not tolerance_fields(tolerance, ("points",)):
            is_possible = False
        values[corpus.key] = form_fields.reference_field(backend, corpus, usual_text)
        values |= _prompt_field(backend)
    values |= _more_fields(is_search, (*presets, *(custom or ())), shape)
    texts = {row.key: row.default for row in (_EVALUATION["corpus"], corpus)}
    form_fields.show_uploads(backend, texts)
    form = FormValues(
        is_search=is_search,
        budget=budget,
        tolerance=tolerance if is_possible else None,
        presets=presets,
        custom=custom,
        kinds=kinds,
        healing=healing_asked,
        by_key=values,
        shape=shape,
    )
    return form, _Places(
        about_passages, about_run, about_methods, healing, quantising, sizes
    )


def _methods_table() -> Table:
    """Table of the named methods: what each removes, its cost, how its models load in transformers."""
    rows = []
    for method in METHODS:
        settings = method.settings
        cost = "one pass over the text"
        if not settings.reads_text:
            cost = "reads no text"
        elif settings.rounds > 1:
            cost = "a backward pass for each share"
        elif settings.needs_curves:
            cost = "curves of every layer"
        elif settings.saliency == "perplexity":
            cost = "the loss without each layer"
        if settings.in_sequence and settings.reads_text:
            cost = f"{cost}, then layer after layer"
        loads = "yes, zeros in it"
        if settings.removes_layers:
            loads = "yes, with fewer layers"
        elif settings.removes_experts:
            loads = "yes, with fewer experts"
        elif settings.is_structured:
            is_even = settings.allocation == "uniform"
            loads = "yes, narrower" if is_even else "padded; narrower in llama.cpp"
        rows.append([method.name, method.summary, cost, loads])
    head = ["Method", "Removes", "Costs", "Loads in transformers"]
    return Table("The methods", "", head, rows)


def _method_expander(search: bool) -> AbstractContextManager[object]:
    fields = ("with",) if search else tuple(PRESETS)
    names = (*fields, OWN, _METHOD["budget"].key)
    return form_fields.expander("Methods", "methods", names)


def _show_methods(form: FormValues) -> None:
    """Draw the names of the chosen methods, and the calibration tokens that they need."""
    names = list(map(method_name, form.methods))
    if len(names) > 1:
        widgets.show(paragraph(f"{len(names)} methods to compare: {', '.join(names)}."))
    elif names:
        recommended = " (recommended)" if names[0] == usual_method(form.shape) else ""
        widgets.show(paragraph(f"Method: {names[0]}{recommended}."))
    elif form.custom is not None:
        problem = SparseDashError("No method is chosen.", "Choose at least one.")
        form_fields.show_problem("method", problem)
    narrows_mlps = any(method.removes_channels for method in form.methods)
    if narrows_mlps and form.shape is not None and form.shape.structure.mixtures:
        form_fields.show_hint(_BESIDE_EXPERTS)
    n_needed = refit_tokens(form.methods, form.shape)
    if n_needed and not _refused(_CALIBRATION.values(), form.by_key):
        form_fields.show_hint(wording.refit_words(n_needed, form.calibration))


def _healed(
    backend: Backend, settings: RunSettings | FindSettings, minutes: int, steps: int
) -> RunSettings | FindSettings | None:
    """The request with healing; None where it cannot be healed, or not yet, which the field
    says.
    """
    if steps:
        return form_fields.validated(_HEAL, lambda: settings.healed(steps))
    if form_fields.validated(_HEAL, lambda: settings.healed(1)) is None:
        return None
    try:
        steps = backend.healing_steps(minutes, planned_run(settings))
    except SparseDashError as error:
        if backend.is_measuring():
            form_fields.show_hint(
                "Measuring how fast this machine is, for the number of steps."
            )
            form_fields.wait_for_rates(backend)
        else:
            form_fields.show_problem(_HEAL, error)
        return None
    work = f"{steps:,} steps of {resources.HEAL_BATCH_TOKENS:,} tokens."
    hint = f"About {minutes:,} min a model on this machine: {work}"
    if steps == STEP_MULTIPLE:
        hint = f"The minimum: {work} The estimate has their time."
    form_fields.show_hint(hint)
    return settings.healed(steps)


def _healing_field() -> tuple[int, int] | None:
    """Draw for how long models are healed. Returns minutes and steps, one of them 0; None where it
    is no such text.
    """
    text = st.text_input(
        "Heal for",
        key=_HEAL,
        bind=BOUND,
        placeholder="6 min, or 800 steps",
        help="The dense model teaches each one with fewer channels or layers for about so long, on the calibration "
        "text and more of it. Healed models come next to those before healing. Given in steps, the same model "
        "comes out on any machine. Empty: none is healed.",
    )
    entered = (text or "").strip().lower()
    if not entered:
        return 0, 0
    parts = _HEALING.fullmatch(entered)
    if parts is not None and (parts[2] or "").startswith("step"):
        return 0, int(parts[1])
    if parts is not None and int(parts[1]) <= MAX_MINUTES:
        return int(parts[1]), 0
    problem = SparseDashError(
        f"Enter up to {MAX_MINUTES:,} minutes, or steps.",
        "For example “6 min” or “800 steps”.",
    )
    form_fields.show_problem(_HEAL, problem)
    return None


def _quantise_field(backend: Backend, model: str | None) -> tuple[Quantisation, ...]:
    """Draw the types that models are also quantised to; where there can be none, why."""
    named = backend.named_model(model) if model else None
    problem = llama_cpp_problem(model, named.family if named else None) if model else ""
    about = (
        "Adds the dense model and every sparse one, of a search its answer, as llama.cpp quantises them, over the size "
        "of their files."
    )
    types = [kind.upper() for kind in get_args(Quantisation)]
    chosen = st.pills(
        "Quantised too",
        types,
        selection_mode="multi",
        key=QUANTISE,
        bind=BOUND,
        help=about,
        disabled=bool(problem),
    )
    if problem:
        form_fields.show_hint(f"Not possible here: {problem}.")
        return ()
    return tuple(cast(Quantisation, kind.lower()) for kind in types if kind in chosen)


def _quantised(
    settings: RunSettings | FindSettings, kinds: Sequence[Quantisation]
) -> RunSettings | FindSettings | None:
    """The request with quantised models, of which the number is drawn; None where it cannot have
    any, which is said.
    """
    quantised = form_fields.validated(
        QUANTISE, lambda: replace(settings, quantise=tuple(kinds))
    )
    if quantised is not None:
        planned = planned_run(quantised)
        n_more = planned.n_sparse - planned_run(settings).n_sparse
        models = (
            f"dense and {wording.quantity(n_more // len(kinds) - 1, 'sparse model')}"
        )
        if isinstance(settings, FindSettings):
            models = "dense and the answer"
        types = wording.and_join([kind.upper() for kind in kinds])
        widths = sorted({method.width_multiple for method in planned.methods})
        form_fields.show_hint(
            f"{n_more} more models: {models}, each in {types}. "
            f"Widths are multiples of {', '.join(map(str, widths))}."
        )
    return quantised


def _refused(rows: Iterable[FieldRow], values: Mapping[str, Any]) -> bool:
    """Whether one of these values, by the keys of their rows, is refused under its field."""
    return any(row.problem(values[row.key]) for row in rows if row.key in values)


def _possible(
    settings: RunSettings | FindSettings, shape: ModelShape | None
) -> RunSettings | FindSettings:
    """The settings, where their methods can remove so much of the model. Raises SettingsError.

    shape: None where the model is not known.
    """
    if shape is None:
        return settings
    if isinstance(settings, RunSettings):
        require_possible(settings, shape)
    elif error := removal_error(settings.method, shape):
        raise error
    return settings


def _sparsity_field() -> tuple[int, ...] | None:
    """Draw the chosen sparsities; None where they cannot be used."""
    row = _RUN["sparsities_permille"]
    first = percents_text(row.starts["form"])
    text = st.text_input(row.label, first, key=row.key, bind=BOUND, help=row.help) or ""
    sparsities = form_fields.validated(
        row.key,
        lambda: (
            RunSettings(sparsities_permille=parse_percents(text)).sparsities_permille
        ),
    )
    if any(0 < permille < 10 for permille in sparsities or ()):
        form_fields.show_hint("In percent: 50 is half of them.")
    return sparsities


def _task_fields(backend: Backend, usual: Sequence[str]) -> dict[str, Any]:
    """Draw the tasks beside the passages, and how much of them, where some are chosen. usual: until
    others are.
    """
    row = _EVALUATION["tasks"]
    harness = find_spec("lm_eval") is not None
    form_fields.follow_usual(row.key, list(usual))
    chosen = st.multiselect(
        row.label,
        backend.offered_tasks(),
        list(usual),
        key=row.key,
        bind=BOUND,
        help=row.help,
        accept_new_options=backend.administers and harness,
    )
    if backend.administers and not harness:
        form_fields.show_hint(NO_HARNESS)
    values: dict[str, Any] = {row.key: tuple(chosen)}
    form_fields.validated(row.key, lambda: row.check(values[row.key]))
    # What is built in has its own examples.
    rows = _OF_TASKS if set(chosen) - BUILTIN_TASKS.keys() else _OF_TASKS[:1]
    return values | (form_fields.setting_fields(rows, len(_OF_TASKS)) if chosen else {})


def _more_fields(
    search: bool, methods: Sequence[MethodSettings], shape: ModelShape | None
) -> dict[str, Any]:
    """Draw what repeats a paper: the last-token rule, packing, seeds, widths and number format.

    methods, shape: of the request, by which the number of samples is proposed.
    """
    values: dict[str, Any] = {}
    samples = _CALIBRATION["n_samples"]
    length = _CALIBRATION["length"]
    length_now = st.session_state.get(length.key) or length.default
    proposed = usual_samples(methods, shape, length_now)
    form_fields.follow_usual(samples.key, proposed)
    elsewhere = (_EVALUATION["stop_early"],) if search else ()
    keys = []
    for line in chain.from_iterable(_MORE.values()):
        keys += [row.key for row in line if row not in elsewhere]
    with form_fields.expander("To repeat a paper", "more", keys):
        for heading, lines in _MORE.items():
            widgets.show(element("h3", escape(heading), css="sd-group"))
            for line in lines:
                rows = [row for row in line if row not in elsewhere]
                if samples in rows:
                    rows[rows.index(samples)] = replace(samples, default=proposed)
                if rows:
                    values |= form_fields.setting_fields(rows, len(rows))
    return values


def _prompt_field(backend: Backend) -> dict[str, Any]:
    """Draw the prompts, which begin with the user's own, and the button that keeps them as
    these.
    """
    widgets.show(element("h3", escape("Prompts"), css="sd-group"))
    row = _RUN["prompts"]
    kept = backend.user_data.own_prompts()
    if kept is None:
        kept = row.default
    lines = form_fields.setting_fields([replace(row, default=kept)])[row.key]
    prompts = form_fields.validated(row.key, lambda: RunSettings(prompts=lines).prompts)
    if prompts is not None and prompts != kept:
        keep = partial(backend.user_data.keep_own_prompts, prompts)
        widgets.action_button(
            "Keep as my prompts", keep, key="keep-prompts", icon="keep", kind="tertiary"
        )
    return {row.key: prompts}


def _preset_fields(
    search: bool, shape: ModelShape | None
) -> tuple[MethodSettings, ...]:
    """Draw the presets: one for a search; else those that remove channels or layers or zero
    weights, to race them. shape: of the model, whose impossible methods are not offered.
    """
    usual = usual_method(shape)
    if search:
        form_fields.follow_usual("with", usual)
        chosen = [st.session_state.get("with"), st.query_params.get("with")]
        names = _offered(
            [method for method in METHODS if method.searchable], shape, chosen
        )
        name = st.selectbox(
            "Method",
            names,
            index=names.index(usual),
            key="with",
            bind=BOUND,
            filter_mode=None,
        )
        return (method_named(method_meant(name or usual, shape)),)

    about = "Choose several to compare them on the same passages."
    names = _preset_pills("Method", "method", usual, shape, about)
    names += _preset_pills("Methods that remove whole layers", LAYERS, usual, shape)
    form_fields.show_hint(_LAYERS)
    names += _preset_pills(
        "Methods that remove experts, or channels of them", EXPERTS, usual, shape
    )
    names += _preset_pills(
        "Methods that set single weights to zero", MASKS, usual, shape
    )
    form_fields.show_hint(_MASKS)
    return tuple(map(method_named, methods_meant(names, shape)))


def _offered(
    methods: Iterable[Method], shape: ModelShape | None, chosen: Sequence[str | None]
) -> list[str]:
    """The names of those methods that this model allows, and of those chosen already."""
    return [
        method.name
        for method in methods
        if method.name in chosen
        or shape is None
        or removal_error(method.settings, shape) is None
    ]


def _preset_pills(
    title: str, key: str, usual: str, shape: ModelShape | None, about: str | None = None
) -> list[str]:
    """Draw the presets of one field; nothing where the model allows none of them."""
    usual_names = [usual] if usual in [method.name for method in PRESETS[key]] else []
    form_fields.follow_usual(key, usual_names)
    others = [field for field in ("method", LAYERS, EXPERTS) if field != key]
    if any(map(st.query_params.get_all, others)) and not st.query_params.get_all(key):
        # An address that names methods does not mean the recommended one.
        st.session_state.setdefault(key, [])
    chosen = [*(st.session_state.get(key) or []), *st.query_params.get_all(key)]
    names = _offered(PRESETS[key], shape, chosen)
    if not names:
        return []
    return st.pills(
        title,
        names,
        selection_mode="multi",
        default=usual_names,
        key=key,
        bind=BOUND,
        help=about,
    )


def _keep_method() -> None:
    """Search with the first chosen method that can be, or prune by that of the search, once the
    goal is another.

    Streamlit writes a value into the address that the user gives, and none that is set here.
    """
    state = st.session_state
    chosen = list(chain.from_iterable(state.get(key) or () for key in PRESETS))
    kept: dict[str, Any] = {}
    if state["goal"] == SEARCH:
        names = [
            method.name
            for method in METHODS
            if method.searchable and method.name in chosen
        ]
        kept["with"] = names[0] if names else state.get("usual-with", DEFAULT_METHOD)
    elif (searched := state.get("with")) and searched not in chosen:
        for key, presets in PRESETS.items():
            names = [preset.name for preset in presets]
            kept[key] = [searched] if searched in names else []
    for key, value in kept.items():
        state[key] = st.query_params[key] = value


def _custom_method_fields(title: str) -> tuple[MethodSettings, ...] | None:
    """Draw the custom method, where it is wanted. Returns None where its choices do not go
    together.
    """
    about = "Combine a saliency, a pattern, a compensation and an allocation."
    if not st.toggle(title, key=OWN, bind=BOUND, help=about):
        return ()
    values = form_fields.setting_fields([_METHOD[name] for name in CHOICES], 2)
    chosen = {name: values[_METHOD[name].key] for name in CHOICES}
    elsewhere = (*CHOICES, "width_multiple", "budget")
    with st.container(horizontal=True, key="own-parameters"):
        for row in _METHOD.values():
            # In a place of its own each, as `reference_field`.
            with st.container():
                idle = (
                    row.name == "schedule" and values.get(_METHOD["rounds"].key, 1) == 1
                )
                if (
                    row.name not in elsewhere
                    and uses_parameter(row.name, **chosen)
                    and not idle
                ):
                    values[row.key] = form_fields.setting_field(row)
    if _refused(_METHOD.values(), values):
        return None
    by_name = {
        row.name: values[row.key] for row in _METHOD.values() if row.key in values
    }
    method = form_fields.validated(OWN, lambda: MethodSettings(**by_name))
    if method is None:
        return None
    form_fields.show_hint(f"Name in charts: {method_name(method)}")
    if not method.is_structured:
        form_fields.show_hint(_MASKS)
    return (method,)


def _show_sweep(settings: RunSettings) -> None:
    """Draw the number of sparse models of a race, sparsities that a pattern decides itself, and
    other shares.
    """
    n_sparsities = len(settings.sparsities_permille)
    if settings.names_methods:
        sparsities = "1 sparsity" if n_sparsities == 1 else f"{n_sparsities} sparsities"
        methods = wording.quantity(len(settings.methods), "method")
        models = wording.quantity(settings.n_sparse, "sparse model")
        form_fields.show_hint(
            f"{methods} at {sparsities}: {models} on one calibration, in one job."
        )
    for method in settings.methods:
        sparsities_permille = method.sparsities(settings.sparsities_permille)
        title = wording.method_title(method)
        if sparsities_permille != settings.sparsities_permille:
            percents = wording.sparsity_percents(sparsities_permille)
            form_fields.show_hint(f"{title}: {percents}, which its pattern decides.")
        elif (
            share := wording.share_of(method)
        ) != f"of the {BUDGET_TITLES[settings.budget]}":
            form_fields.show_hint(f"{title}: shares {share}.")


def _show_search(settings: FindSettings) -> None:
    """Draw how many passages an exact answer of a search takes."""
    ratio = settings.tolerance.ratio
    needed = passages_to_judge(log(ratio) / 2, ratio, ALPHA / 2) or MIN_PASSAGES
    form_fields.show_hint(
        f"Below about {wording.round_up(needed):,} passages: a lower bound and an estimate."
    )
