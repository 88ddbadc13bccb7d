"""Numbers, settings and names in words, the same everywhere. Plain text: escape it before it
becomes markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from math import ceil, exp, floor, isfinite, log, log10
from sys import float_info
from time import time

from sparsedash.catalog.budgets import BUDGET_TITLES
from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA, MODELS
from sparsedash.catalog.cost_model import LeastMemory
from sparsedash.catalog.model_sizes import active_count, parameter_count
from sparsedash.catalog.presets import spec_name
from sparsedash.catalog.resources import RunDisk
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.model_shape import KeptParts, ModelShape
from sparsedash.schema.progress import STAGE_TITLES
from sparsedash.schema.records import Healed, Pruned, Run
from sparsedash.schema.settings import (
    DATA_SET,
    CalibrationSettings,
    RunSettings,
    commit_of,
)
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import ALPHA, LossMeasure, Tolerance

NBSP = "\u00a0"
MINUS = "\N{MINUS SIGN}"
LEVEL = f"{100 * (1 - ALPHA):g}{NBSP}%"
"""Of an interval by itself: "95 %"."""
MEASURE_NAMES: dict[LossMeasure, str] = {
    "word perplexity": "perplexity",
    "accuracy": "accuracy",
}
NO_TEXT = "needs no calibration text"
EXAMPLE_TITLE = "Example"
DENSE = "dense"
FEW_SHARES = 3
"""Sparsities of a run that are named one by one."""
MAX_FACTOR = 1_000_000
MIN_FACTOR = 100
"""A word perplexity of more times dense's, or of less than dense's divided by so much, is not told
more exactly.
"""
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_STAGES = {str(name): words for name, words in STAGE_TITLES.items()}
_TITLES = {
    choice.name: choice.title
    for choice in (*MODELS, *EVALUATION_CORPORA, *CALIBRATION_CORPORA)
}


def reference_title(reference: str) -> str:
    """The catalog's title of a model or text, a file's or folder's name, or the reference
    itself.
    """
    if reference.startswith(("file:", "/", "~")):
        return reference.rstrip("/").rpartition("/")[2].removeprefix("file:")
    if reference.startswith("upload:"):
        name, _, version_and_part = reference.removeprefix("upload:").partition("@")
        return name + "".join(version_and_part.partition("[")[1:])
    return _TITLES.get(reference, reference)


def short_title(reference: str) -> str:
    """A title without what stands in brackets."""
    return reference_title(reference).partition(" (")[0]


def percent(share: float, digits: int = 1) -> str:
    """0.34 -> "34.0 %"."""
    return f"{100 * share:.{digits}f}{NBSP}%"


def sparsity_percent(value: int) -> str:
    """125 -> "12.5 %", 100 -> "10 %"."""
    return f"{value / 10:g}{NBSP}%"


def sparsity_percents(values: Iterable[int]) -> str:
    """(100, 125) -> "10, 12.5 %"."""
    return ", ".join(f"{value / 10:g}" for value in values) + f"{NBSP}%"


def percents(permilles: Iterable[int]) -> str:
    """(100, 125) -> "10 % and 12.5 %"."""
    return and_join([sparsity_percent(permille) for permille in permilles])


def and_join(words: Sequence[str], last: str = "and") -> str:
    """ "10 %, 20 % and 30 %". last: the word before the last one."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def probability(value: float) -> str:
    """A probability in percent; very small ones say that they are."""
    return percent(value) if value >= 0.001 or value == 0 else f"under{NBSP}0.1{NBSP}%"


def likelihood(log_likelihood: float) -> str:
    """The probability with this natural logarithm, in percent."""
    return probability(exp(min(0.0, log_likelihood)))


def perplexity(value: float) -> str:
    """ "12.34", "1,234", "1.5 × 10¹⁰", "beyond 10³⁰⁸": as many digits as say something."""
    if not isfinite(value):
        return f"beyond{NBSP}10{str(float_info.max_10_exp).translate(_RAISED)}"
    if value < 999.995:
        return f"{value:.2f}"
    if value < 999_999.5:
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e+")
    return f"{mantissa}{NBSP}×{NBSP}10{exponent.lstrip('0').translate(_RAISED)}"


def signed_points(points: float, digits: int = 1) -> str:
    """-0.03 -> "−3.0" (percentage points)."""
    rounded = round(100 * points, digits)
    sign = "+" if rounded > 0 else ""
    if rounded < 0:
        sign = MINUS
    return f"{sign}{abs(rounded):.{digits}f}"


def signed_interval(bounds: tuple[float, float], digits: int = 1) -> str:
    """(-0.065, 0.004) -> "−6.5 to +0.4" (percentage points)."""
    low, high = bounds
    return f"{signed_points(low, digits)} to {signed_points(high, digits)}"


def interval(bounds: tuple[float, float]) -> str:
    """Two shares: "27.8 to 40.8 %"."""
    low, high = bounds
    return f"{100 * low:.1f} to {percent(high)}"


def factor_digits(factor: float, digits: int) -> int:
    """Digits after the point of a factor, of which 10 × and more have two fewer."""
    return digits if factor < 9.995 else digits - 2


def nats_as_factor(nats: float, digits: int = 2) -> str:
    """A difference of log-likelihoods as a factor: 0.095 -> "1.10 ×"; of a very large one only that
    it is.

    digits: see factor_digits.
    """
    if nats >= log(MAX_FACTOR):
        return f"over {MAX_FACTOR:,} ×"
    if nats <= -log(MIN_FACTOR):
        return f"under {1 / MIN_FACTOR:g} ×"
    value = exp(nats)
    return f"{value:,.{factor_digits(value, digits)}f} ×"


def factor_range(low: float, high: float, *, digits: int = 2) -> str:
    """Two differences of log-likelihoods as factors: "1.72 to 1.75"; one bound where both are
    beyond a number.
    """
    ends = [nats_as_factor(nats, digits).removesuffix(" ×") for nats in (low, high)]
    return (
        ends[0]
        if ends[0] == ends[1] and not ends[0][0].isdigit()
        else " to ".join(ends)
    )


def signed_nats(change: float) -> str:
    """ "−2.68", "+0.10": a change of a log-probability."""
    return f"{change:+.2f}".replace("-", MINUS)


def p_number(p: float) -> str:
    """A p-value that stays readable: "0.15", "< 0.001"."""
    if p < 0.001:
        return f"<{NBSP}0.001"
    return "1" if p > 0.995 else f"{p:.2g}"


def p_value(p: float) -> str:
    """ "p = 0.15", "p < 0.001"."""
    equals = "" if p < 0.001 else f"={NBSP}"
    return f"p{NBSP}{equals}{p_number(p)}"


def p_at_most(p: float) -> str:
    """ "p ≤ 0.022", "p < 0.001": a bound of a p-value, rounded up."""
    if p < 0.001:
        return p_value(p)
    step = 10.0 ** (floor(log10(p)) - 1)
    return f"p{NBSP}≤{NBSP}{p_number(min(1.0, ceil(round(p / step, 9)) * step))}"


def round_up(count: int) -> int:
    """The count to two digits, upwards: 1,234 -> 1,300."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step


def plural(count: float, noun: str) -> str:
    """The noun, with an s unless there is one of it."""
    return noun if count == 1 else f"{noun}s"


def quantity(count: int, noun: str) -> str:
    """ "1 passage", "5,153 passages"."""
    return f"{count:,} {plural(count, noun)}"


def too_few(count: int, noun: str) -> str:
    """ "1 passage is too few", "29 passages are too few"."""
    verb = "is" if count == 1 else "are"
    return f"{quantity(count, noun)} {verb} too few"


def first_upper(text: str) -> str:
    """The text with a capital first letter, names in it as they are."""
    return text[:1].upper() + text[1:]


def factor(value: float) -> str:
    """ "1.25 ×"."""
    return f"{value:.2f}{NBSP}×"


def limit_factor(ratio: float) -> str:
    """ "1.10 ×", "1.025 ×": a limit of the perplexity as it was set, below 10 with two decimals at
    least.
    """
    whole, _, digits = f"{ratio:,g}".partition(".")
    return f"{whole}.{digits:0<2} ×" if len(whole) == 1 else f"{ratio:,g} ×"


def limit_words(measure: LossMeasure, most: float) -> str:
    """ "1.10 ×", "−2 points": a limit in the unit of `Loss`."""
    if measure == "word perplexity":
        return limit_factor(exp(most))
    points = round(100 * most, 6)
    return f"{MINUS}{points:g} {plural(points, 'point')}"


def tolerance_words(
    tolerance: Tolerance,
    measures: Sequence[LossMeasure] = ("word perplexity", "accuracy"),
) -> str:
    """ "perplexity 1.10 ×, accuracy −2 points": the limits of these measures."""
    return ", ".join(
        f"{MEASURE_NAMES[measure]} {limit_words(measure, tolerance.most(measure))}"
        for measure in measures
    )


def duration_words(seconds: float) -> str:
    """ "8 s", "4 min", "1 h 20 min"."""
    if seconds < 59.5:
        return f"{max(0, round(seconds))}{NBSP}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min"
    minutes_left = f" {minutes % 60}{NBSP}min" if minutes % 60 else ""
    return f"{minutes // 60}{NBSP}h{minutes_left}"


def time_left(seconds: float) -> str:
    """ "about 85 s left", "about 4 min left": in steps that do not flicker; never that nothing is
    left.
    """
    if seconds < 2:
        return "almost done"
    if seconds < 100:
        step = 1 if seconds < 10 else 5
        return f"about {step * round(seconds / step)}{NBSP}s left"
    return f"about {duration_words(seconds)} left"


def size(n_bytes: float) -> str:
    """ "12 kB", "640 MB", "1.2 GB"; decimal units, and what is less than one kB is one."""
    if n_bytes >= 999.5e6:
        return f"{n_bytes / 1e9:.1f}{NBSP}GB"
    if n_bytes >= 999.5e3:
        return f"{n_bytes / 1e6:.0f}{NBSP}MB"
    return f"{max(1, round(n_bytes / 1e3))}{NBSP}kB"


def weights(count: int) -> str:
    """ "135 million", "6.1 billion"."""
    if count >= 999.5e6:
        return f"{count / 1e9:.1f} billion"
    if count < 9.5e6:
        return f"{max(0.1, count / 1e6):.1f} million"
    return f"{round(count / 1e6)} million"


def weights_of(shape: ModelShape, kept: KeptParts) -> str:
    """ "135 million weights", "30.5 billion weights, 3.3 billion of them active": of a mixture those
    that a token is computed with.
    """
    words = f"{weights(parameter_count(shape, kept))} weights"
    if shape.structure.mixtures:
        words += f", {weights(active_count(shape, kept))} of them active"
    return words


def least_memory_words(least: LeastMemory) -> str:
    """The least memory of a run, and what the most of it beside the weights is for."""
    beside = (
        f", {size(least.beside_bytes)} of it for {least.purpose}"
        if least.beside_bytes
        else ""
    )
    return f"at least {size(least.n_bytes)}{beside}"


def disk_words(takes: RunDisk) -> str:
    """Disk space that a run takes in the data folder."""
    words = f"about {size(takes.stays_bytes)}"
    if takes.passing_bytes:
        return f"{words}, and up to {size(takes.passing_bytes)} more while it runs"
    return words


def streaming_reason(resident_bytes: int | None, there_bytes: int | None) -> str:
    """The reason a model's weights are read block by block."""
    words = "The weights are streamed block by block"
    if resident_bytes is None:
        return f"{words}."
    words = f"{words}: in memory they would take {size(resident_bytes)}"
    if there_bytes and there_bytes < resident_bytes:
        return f"{words}, more than this machine's {size(there_bytes)}."
    return f"{words}."


def moment(timestamp: float, zone: tzinfo | None = None) -> str:
    """ "today 14:05", "yesterday 9:12", "3 June 14:05"; with the year when it is another one."""
    try:
        then = datetime.fromtimestamp(timestamp, zone)
        today = datetime.now(zone)
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"
    clock = f"{then:%H:%M}"
    if then.date() == today.date():
        return f"today {clock}"
    if then.date() == today.date() - timedelta(days=1):
        return f"yesterday {clock}"
    year = "" if then.year == today.year else f" {then.year}"
    return f"{then.day} {then:%B}{year} {clock}"


def date_words(timestamp: float, zone: tzinfo | None = None) -> str:
    """ "3 June 2026"; nothing for a time that is none."""
    try:
        then = datetime.fromtimestamp(timestamp, zone)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{then.day} {then:%B %Y}"


def picture_basis(run: Run, tolerance: Tolerance, zone: tzinfo | None = None) -> str:
    """The model, the limit and the date, as they stand in a picture of a run's results."""
    model = reference_title(run.settings.model)
    limits = tolerance_words(tolerance)
    return " · ".join(filter(None, [model, limits, date_words(run.started_at, zone)]))


def basis_today(tolerance: Tolerance, zone: tzinfo | None = None) -> str:
    """The limit and today's date, as they stand in a picture of several runs or models."""
    return f"{tolerance_words(tolerance)} · {date_words(time(), zone)}"


def iso_moment(timestamp: float, zone: tzinfo | None = None) -> str | None:
    """ "2026-06-03T14:05:00+02:00", for files; None for a time that is none."""
    try:
        then = datetime.fromtimestamp(timestamp, zone).astimezone(zone)
        return then.isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def stage_title(name: str) -> str:
    """A stage's title, or its name where this version does not know it."""
    return _STAGES.get(name, name)


def method_title(method: MethodSettings) -> str:
    """The name of a method, whatever its width multiple: a run names that once for all."""
    return spec_title(SparseSpec(method, 1))


@lru_cache(maxsize=1024)
def spec_title(spec: SparseSpec) -> str:
    """The name of how a model is pruned and healed, whatever the width multiple."""
    method = replace(spec.pruning, width_multiple=MethodSettings().width_multiple)
    return spec_name(replace(spec, method=method))


def quoted_method(spec: SparseSpec) -> str:
    """The name of how a model is pruned and healed, in quotation marks."""
    return f"“{spec_title(spec)}”"


def with_type(name: str, spec: SparseSpec, again: bool = False) -> str:
    """ "20 %, Q4_K_M" for "20 %"; the name alone where the model is not quantised.

    again: whether its weights were quantised before pruning as well.
    """
    if not spec.is_quantised:
        return name
    kind = spec.quantise.upper()
    return f"{name}, {kind} again" if again else f"{name}, {kind}"


def _distinct_titles(settings: RunSettings) -> list[str]:
    """The names of a run's methods, each once."""
    specs = [spec for spec in settings.points if spec.method]
    titles = map(spec_title, specs) if specs else map(method_title, settings.methods)
    return list(dict.fromkeys(titles))


def method_titles(settings: RunSettings) -> str:
    """The names of a run's methods, with the width multiple where it is not the usual one."""
    names = ", ".join(_distinct_titles(settings))
    if kinds := settings.quantise:
        names += f", also quantised to {and_join([kind.upper() for kind in kinds])}"
    narrowing = [method for method in settings.methods if method.uses("width_multiple")]
    multiples = {method.width_multiple for method in narrowing}
    if multiples <= {MethodSettings().width_multiple}:
        return names
    return f"{names}, widths in multiples of {', '.join(map(str, sorted(multiples)))}"


_REMOVED_WHOLE = {
    "layer": "layers",
    "expert": "experts",
    "expert-channel": "experts' channels",
}
"""What a sparsity is a share of, by the pattern of methods that remove it whole."""


def kept_noun(method: MethodSettings) -> str:
    """Noun for the parts of a layer that a method keeps."""
    nouns = {"expert": "experts", "expert-channel": "channels of each expert"}
    return nouns.get(method.pattern, "channels")


def budget_titles(methods: Iterable[MethodSettings]) -> dict[Budget, str]:
    """What sparsities of models by these methods are shares of, by the budget: "MLP channels",
    "file size".
    """
    methods = list(methods)
    titles = dict.fromkeys(_REMOVED_WHOLE.get(method.pattern, "") for method in methods)
    if titles and all(titles):
        return BUDGET_TITLES | {"channels": and_join(list(titles), "or")}
    if all(method.is_structured for method in methods):
        return dict(BUDGET_TITLES)
    channels = (
        "MLP" if any(method.is_structured for method in methods) else "MLP weights"
    )
    return BUDGET_TITLES | {"channels": channels}


def measured_sparsity(pruned: Pruned) -> str:
    """ "measured 29.2 % of the MLP channels, 22.0 % of the blocks' weights, …": what is gone, of
    every budget.
    """
    titles = budget_titles([pruned.method])
    if not pruned.reached.kv_cache:
        # Only whole layers take of it.
        del titles["kv-cache"]
    shares = [
        f"{percent(pruned.reached[budget])} of the {title}"
        for budget, title in titles.items()
    ]
    return f"measured {', '.join(shares)}"


def healing_words(done: Healed) -> str:
    """Result of healing: "24 steps on calibration text; KL divergence from dense on 1,920 held-out
    tokens ...".
    """
    steps = f"{quantity(done.steps, 'step')} on calibration text"
    text = f"KL divergence from dense on {done.n_tokens:,} held-out tokens"
    if not done.kept_step:
        return f"{steps} gained nothing, so the weights are those before; {text} {done.before:.3f}"
    kept = (
        "" if done.kept_step == done.steps else f", best after step {done.kept_step:,}"
    )
    return f"{steps}{kept}; {text} {done.after:.3f}, {done.before:.3f} before"


def removed_or_zeroed(settings: MethodSettings) -> str:
    """ "removed" or "set to zero", as a method does to its weights."""
    return "removed" if settings.is_structured else "set to zero"


def share_of(settings: MethodSettings) -> str:
    """Name of the whole that a method takes a share of."""
    if settings.is_structured:
        return f"of the {budget_titles([settings])[settings.budget]}"
    return (
        "of the MLPs' weights"
        if settings.scope == "mlp"
        else "of the decoder's weights"
    )


def sparsity_words(permille: int, method: MethodSettings) -> str:
    """ "20 %", or "20 % of the file size" where the budget is not the usual one."""
    return sparsity_percent(permille) + of_budget(method.budget)


def sparsity_steps(settings: RunSettings) -> str:
    """ "10, 20 %", or "10, 20 % of the file size" where the budget of a run is not the usual
    one.
    """
    return sparsity_percents(sorted(settings.point_permilles)) + of_budget(
        settings.budget
    )


def of_budget(budget: Budget) -> str:
    """ " of the file size", or nothing for the usual budget."""
    return "" if budget == "channels" else f" of the {BUDGET_TITLES[budget]}"


def run_title(settings: RunSettings | FindSettings) -> str:
    """A run with its model: "SmolLM2 135M, best 10, 20 % on LAMBADA"."""
    return f"{short_title(settings.model)}, {run_name(settings)}"


def run_name(settings: RunSettings | FindSettings) -> str:
    """A run by itself: "best 10, 20 % on LAMBADA", "best, a search on LAMBADA"."""
    planned = planned_run(settings) if isinstance(settings, FindSettings) else settings
    first, *others = _distinct_titles(planned)
    methods = first
    if len(others) == 1:
        methods = f"{first} and {others[0]}"
    elif others:
        methods = f"{first} and {len(others)} others"
    if isinstance(settings, FindSettings):
        shares = f", a search{of_budget(settings.method.budget)}"
    else:
        shares = f" {share_ends(settings)}{of_budget(settings.budget)}"
    quantised = ""
    if planned.quantise:
        quantised = f" and {and_join([kind.upper() for kind in planned.quantise])}"
    return f"{methods}{shares}{quantised} on {short_title(planned.evaluation.corpus)}"


def share_ends(settings: RunSettings) -> str:
    """ "10, 20 %", or "2 to 50 %" where there are many."""
    shares = sorted(settings.point_permilles)
    if len(shares) > FEW_SHARES:
        return f"{shares[0] / 10:g} to {sparsity_percent(shares[-1])}"
    return sparsity_percents(shares)


def stored_run_title(run: Run, name: str = "") -> str:
    """Title of a stored run, whether it was one of given sparsities or a search; after its
    name, if it has one.
    """
    about = run_title(run.find or run.settings)
    return f"{name}: {about}" if name else about


def file_stem(run: Run) -> str:
    """Beginning of the names of a run's files, "smollm2-135m-10-20-3fa9c1d2": model, sparsities,
    key. Not sanitised: pass it to `file_name`.
    """
    model = run.settings.model.rstrip("/").rpartition("/")[2].rpartition(":")[2][:40]
    shares = [f"{permille / 10:g}" for permille in sorted(run.settings.point_permilles)]
    if run.find:
        shares = ["search"]
    elif len(shares) > 3:
        shares = [shares[0], "to", shares[-1]]
    return "-".join([model, *shares, run.key[:8]])


def refit_words(n_needed: int, calibration: CalibrationSettings) -> str:
    """Number of calibration tokens that a refit of experts needs, and whether there are so many; nothing
    where none is refitted.
    """
    if not n_needed:
        return ""
    n_asked = calibration.n_samples * calibration.length
    amount = f"{calibration.n_samples:,} samples of up to {calibration.length:,}"
    words = (
        f"Refitting this model's experts takes about {n_needed:,} calibration tokens"
    )
    if n_asked >= n_needed:
        return f"{words}: {amount}."
    return f"{words}, with {amount} many of them will stay as they are."


def stored_run_details(run: Run) -> str:
    """Settings of a stored run, in one line."""
    details = run_details(run.find or run.settings)
    if run.source_type:
        details += f", unpacked from {run.source_type}"
    return " · ".join(filter(None, (details, revision_words(run))))


_MAX_DATA_SETS = 2
_SHORT = 7
"""Named of a run; digits shown of a commit, as the hub's pages have them."""


def revision_words(run: Run) -> str:
    """The revisions of what a run read from the hub, as "revision 0123abc, data set a/b 4567def";
    or nothing.
    """
    words = []
    if commit := commit_of(run.model_identity):
        words.append(f"revision {commit[:_SHORT]}")
    data_sets = []
    for name, data_commit in run.settings.revisions:
        if name.startswith(DATA_SET):
            title = name.removeprefix(DATA_SET)
            data_sets.append(f"data set {title} {data_commit[:_SHORT]}")
    words += data_sets[:_MAX_DATA_SETS]
    more = len(data_sets) - _MAX_DATA_SETS
    if more > 0:
        words.append(f"and {quantity(more, 'more data set')}")
    return ", ".join(words)


def newer_words(newer: Mapping[str, str]) -> str:
    """That the hub has newer revisions of what a run read; nothing where it has none. newer:
    commits by name.
    """
    if not newer:
        return ""
    names = and_join([name.removeprefix(DATA_SET) for name in newer])
    if len(newer) > 1:
        return f"The hub has newer revisions of {names}."
    (commit,) = newer.values()
    return f"The hub has a newer revision of {names}: {commit[:_SHORT]}."


def source_note(source_type: str) -> str:
    """Note on a quantised source; empty if the model was not quantised."""
    if not source_type:
        return ""
    return (
        f"The dense model's weights come from a {source_type} GGUF file: they are already rounded. What pruning costs "
        "the original weights is not measured here."
    )


def calibration_words(calibration: CalibrationSettings) -> str:
    """On what a model was calibrated: the text, how much of it, and what of it is not as usual."""
    amount = f"{calibration.n_samples:,} × {calibration.length:,} tokens"
    packed = ", packed" if calibration.packed else ""
    equal = calibration.token_weights == "equal"
    weighed = "" if equal else ", tokens weighted by the residual stream"
    return (
        f"calibration: {reference_title(calibration.corpus)}, {amount}{packed}{weighed}"
    )


def run_details(settings: RunSettings | FindSettings) -> str:
    """Settings of a run, in one line; of a search its limits first."""
    if isinstance(settings, FindSettings):
        limits = tolerance_words(settings.tolerance)
        return f"search made for {limits} · {run_details(planned_run(settings))}"
    evaluation = settings.evaluation
    passages = "all" if evaluation.n_passages is None else f"{evaluation.n_passages:,}"
    rule = (
        ""
        if evaluation.rule == "plain"
        else f", last token by the {evaluation.rule} rule"
    )
    early = ", may stop early" if evaluation.stop_early else ""
    text = calibration_words(settings.calibration) if settings.reads_text else NO_TEXT
    corpus = reference_title(evaluation.corpus)
    details = f"passages: {corpus}, {passages}{rule}{early}"
    return f"{method_titles(settings)} · {text} · {details} · {settings.dtype}"


def example_words(run: Run | None, brief: bool = False) -> str:
    """Where and when the run was made, if it is the example; nothing of a run that was made
    here.
    """
    if run is None or not run.made_on:
        return ""
    if brief:
        return f"{EXAMPLE_TITLE}, not computed here."
    sentence = (
        f"{EXAMPLE_TITLE}: this run ships with SparseDash and was not computed here."
    )
    return f"{sentence} {example_origin(run)}"


def example_origin(run: Run) -> str:
    """Where, when and with what the example was made."""
    finished_on = date_words(run.finished_at or run.started_at, UTC)
    names = ("sparsedash", "torch", "transformers")
    versions = ", ".join(f"{name} {run.versions.get(name, '?')}" for name in names)
    return f"Computed on {finished_on} on another machine ({run.made_on}), with {versions}."


def record_names(run: Run, named: bool = False) -> dict[str, str]:
    """The names of a run's records by their keys, dense first: "dense", "20 %", or "magnitude 20 %"
    of named methods.

    Sparse ones come method by method, after dense quantised: "dense, Q4_K_M". named: with their
    methods in any case.
    """
    named = named or run.settings.names_methods
    names = {run.dense: DENSE}
    for key, spec in zip(run.sparse, run.settings.points, strict=False):
        names[key] = model_name(spec, named, bool(run.source_type))
    return names


def model_name(spec: SparseSpec, named: bool, again: bool = False) -> str:
    """ "20 %", or "magnitude 20 %" where the method is named; "20 %, Q8_0" where it is quantised.

    again: see with_type.
    """
    if spec.method is None:
        return with_type(DENSE, spec, again)
    share = f"{spec.permille / 10:g} %"
    name = f"{spec_title(spec)} {share}" if named else share
    return with_type(name, spec, again)


def model_words(spec: SparseSpec) -> str:
    """ "magnitude, 20 % of the MLP channels removed"."""
    method = spec.method
    if method is None:
        return with_type(DENSE, spec)
    share = f"{sparsity_percent(spec.permille)} {share_of(method)}"
    return with_type(f"{spec_title(spec)}, {share} {removed_or_zeroed(method)}", spec)


def sparsity_axis_title(
    methods: Iterable[MethodSettings], budget: Budget = "channels"
) -> str:
    """The title of an axis with the shares of this budget that such methods took."""
    methods = list(methods)
    title = first_upper(BUDGET_TITLES[budget])
    if all(method.is_structured for method in methods):
        title = first_upper(budget_titles(methods)[budget])
    if budget == "bytes" or all(method.is_structured for method in methods):
        return f"{title} removed"
    weights_words = "MLP weights " if budget == "channels" else ""
    if not any(method.is_structured for method in methods):
        return f"{weights_words or f'{title} '}set to zero"
    return f"{title} removed, or {weights_words}set to zero"
