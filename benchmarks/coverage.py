"""How often a verdict is wrong, and how soon it falls: simulated on the real paired differences of
stored runs.

    python -m benchmarks.coverage --data-dir DATA_FOLDER
    python -m benchmarks.coverage --data-dir FOLDER --methods least-squares,flap --sparsity 10,20 --evaluation file:A

Every sparse model of the folder's runs is a population: its losses on each passage against dense.
Runs of the same settings over other passages are put together. With --methods such a run is made
there first. Passages are drawn from a population again and again, with its own mean loss as the
tolerance; counted is how often the interval lies wholly inside (`within`, wrongly) or wholly
outside (`beyond`, wrongly), and how wide it is compared with the usual interval: Student's for word
perplexity, Wald's for accuracy. `any look`: the run may stop early, and the verdict is read at
every look. A sweep is the sparsities of one method judged together, each at the tolerance. Last the
power: the chance of each verdict at the usual tolerance for one model whose true loss is given.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from math import inf, log, sqrt

import numpy as np

from benchmarks.arguments import run_parser, run_settings
from sparsedash.catalog.presets import method_named
from sparsedash.engine.evaluation.early_stopping import look_counts
from sparsedash.engine.run import pipeline
from sparsedash.reporting.wording import method_title
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.anytime import log_e_value
from sparsedash.stats.mean_intervals import (
    Moments,
    anytime_mean_interval,
    mean_interval,
    student_quantile,
)
from sparsedash.stats.significance import Z_95, shared_outcomes
from sparsedash.stats.tolerance import (
    MIN_PASSAGES,
    MIN_RIGHT,
    Losses,
    judge_all,
    lost_share_interval,
)
from sparsedash.storage.store import Store

FEWEST = 20
"""Passages that make a population."""
AT_ONCE = 4_000_000
"""Passages drawn at once, so that they fit into memory."""
RATIOS = (1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5)
"""True word perplexities for the power, as multiples of the dense model's."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """Losses of one model, passage by passage. nats: of log-likelihood. flips: 1 broke, -1 fixed,
    else 0.

    right: whether dense was right.
    """

    method: str
    percent: float
    nats: np.ndarray
    flips: np.ndarray
    right: np.ndarray

    @property
    def name(self):
        """The name in the tables."""
        return f"{self.method}, {self.percent:g} %"


def main():
    arguments = _arguments()
    store = Store(arguments.data_dir)
    if arguments.methods:
        methods = map(method_named, arguments.methods.split(","))
        pipeline.run(run_settings(arguments, methods), store, ignore_steps)
    populations = read_populations(store)
    store.close()
    print(
        f"{len(populations)} populations, {arguments.draws:,} draws each, wanted: {100 * ALPHA / 2:g} % on either side"
    )
    head = f"{'within':>8}{'beyond':>8}{'width':>7}"
    print(
        f"{'population':<32}{'n':>7}{'':>11}{'perplexity':>23}{'accuracy':>23}\n{'':<50}{head}{head}"
    )
    worst = {}
    for population in populations:
        for looks in _looks(arguments.sizes):
            errors = [
                *perplexity_errors(population, looks, arguments.draws),
                *accuracy_errors(population, looks, arguments.draws),
            ]
            _print_row(f"{population.name} ({len(population.nats):,})", looks, errors)
            worst[looks] = np.fmax(worst.get(looks, 0.0), errors)
    for looks, errors in worst.items():
        _print_row("worst", looks, errors)
    print_sweeps(populations, arguments)
    print_power(
        min(populations, key=lambda population: abs(population.nats.mean())), arguments
    )


def read_populations(store):
    """The populations of the runs in this store."""
    dense_keys = {}
    for key in store.keys(Run):
        run = store.get(Run, key)
        if run is not None:
            dense_keys |= dict.fromkeys(run.sparse, run.dense)
    pairs = defaultdict(list)
    for sparse_key, dense_key in dense_keys.items():
        dense = store.get(Record, dense_key)
        sparse = store.get(Record, sparse_key)
        if dense and sparse and sparse.pruned:
            title = method_title(sparse.pruned.method)
            pairs[dense.model, dense.dtype, title, sparse.sparsity_permille] += (
                shared_outcomes(dense, sparse)
            )
    populations = [
        Population(
            method=title,
            percent=permille / 10,
            nats=np.array(
                [
                    dense.log_likelihood - sparse.log_likelihood
                    for dense, sparse in outcomes
                ]
            ),
            flips=np.array(
                [
                    int(dense.last_word_right) - int(sparse.last_word_right)
                    for dense, sparse in outcomes
                ]
            ),
            right=np.array([dense.last_word_right for dense, _ in outcomes]),
        )
        for (_, _, title, permille), outcomes in sorted(pairs.items())
    ]
    return [
        population
        for population in populations
        if len(population.nats) >= FEWEST and population.nats.any()
    ]


def _looks(sizes):
    """Of each number of passages the end alone, then all looks of a run that may stop early."""
    looks = []
    for n in sizes:
        looks.append((n,))
        if len(look_counts(n)) > 1:
            looks.append(tuple(look_counts(n)))
    return looks


def perplexity_errors(population, looks, draws):
    """Percent of the draws wrongly within and beyond, and the mean width relative to Student's
    interval at the end.
    """
    rng = np.random.default_rng(0)
    true = population.nats.mean()
    n = looks[-1]
    interval = anytime_mean_interval if len(looks) > 1 else mean_interval
    n_within = 0
    n_beyond = 0
    widths = []
    most = max(1, AT_ONCE // n)
    for done in range(0, draws, most):
        values = rng.choice(population.nats, (min(most, draws - done), n))
        within = np.zeros(len(values), bool)
        beyond = np.zeros(len(values), bool)
        for look in looks:
            bounds = [
                interval(moments, ALPHA) for moments in _moments(values[:, :look])
            ]
            low, high = np.array(bounds).T
            within |= (high <= true) & (look >= MIN_PASSAGES)
            beyond |= low > true
        n_within += within.sum()
        n_beyond += beyond.sum()
        student = (
            2
            * student_quantile(1 - ALPHA / 2, n - 1)
            * values.std(axis=1, ddof=1)
            / sqrt(n)
        )
        widths.append(np.mean((high - low) / student))
    return [100 * n_within / draws, 100 * n_beyond / draws, np.mean(widths)]


def accuracy_errors(population, looks, draws):
    """As `perplexity_errors`, for the share of right answers lost and Wald's interval; no width at
    any look.
    """
    rng = np.random.default_rng(1)
    shares = [np.mean(population.flips == flip) for flip in (1, -1, 0)]
    true = population.flips.mean()
    steps = [
        rng.multinomial(size, shares, draws)[:, :2] for size in np.diff([0, *looks])
    ]
    anytime = len(looks) > 1
    n = looks[-1]
    called = Counter()
    widths = []
    for counts in np.cumsum(np.stack(steps, axis=1), axis=1).tolist():
        verdicts = set()
        for look, (broke, fixed) in zip(looks, counts, strict=True):
            low, high = (
                _anytime_bounds(broke, fixed, look, true)
                if anytime
                else _bounds(broke, fixed, look)
            )
            if low > true:
                verdicts.add("beyond")
            elif high <= true and look >= MIN_PASSAGES:
                verdicts.add("within")
        called.update(verdicts)
        spread = (broke + fixed) / n - ((broke - fixed) / n) ** 2
        if spread > 0 and not anytime:
            widths.append((high - low) / (2 * Z_95 * sqrt(spread / n)))
    width = np.mean(widths) if widths else float("nan")
    return [100 * called["within"] / draws, 100 * called["beyond"] / draws, width]


@cache
def _anytime_bounds(broke, fixed, n, true):
    """Bounds on the same side of the true loss as those of the anytime-valid interval, which take a
    search.
    """
    if log_e_value(broke, fixed, n, -true) < -log(ALPHA):
        return -inf, inf
    share = (broke - fixed) / n
    return share, share


@cache
def _bounds(broke, fixed, n):
    """Interval of the share of right answers lost."""
    return lost_share_interval(broke, fixed, n, ALPHA)


def print_sweeps(populations, arguments):
    """Print how often any model of a sweep, all of them at the tolerance by word perplexity, is
    called wrongly.
    """
    rng = np.random.default_rng(2)
    print(
        "sweeps: any of a method's models wrongly within, or beyond, by word perplexity, all at the tolerance"
    )
    sweeps = defaultdict(list)
    for population in populations:
        sweeps[population.method].append(
            population.nats - population.nats.mean() + log(Tolerance().ratio)
        )
    for method, losses in sweeps.items():
        if len(set(map(len, losses))) > 1:
            continue
        nats = np.stack(losses)
        for n in arguments.sizes:
            draws = max(1, min(arguments.draws, AT_ONCE // n))
            models = []
            for _ in range(draws):
                drawn = nats[:, rng.integers(0, nats.shape[1], n)]
                models.append(list(map(_losses, _moments(drawn))))
            within, beyond = _percents(models)
            print(
                f"sweep of {method}, {len(nats)} models, n {n:,}: within {within:.1f} %, beyond {beyond:.1f} %"
            )


def print_power(population, arguments):
    """Print the chance of each verdict for one model whose losses spread as those of the population
    do.

    Both measures are judged together; counted are the verdicts on word perplexity.
    """
    rng = np.random.default_rng(3)
    ratio = Tolerance().ratio
    print(
        f"chance of within and beyond, percent, at {ratio:g} times; losses spread as of {population.name}"
    )
    print(f"{'n':>7}" + "".join(f"{ratio:>10g}" for ratio in RATIOS))
    for n in arguments.sizes:
        draws = max(1, min(arguments.power_draws, 2 * AT_ONCE // n))
        print(f"{n:>7,}", end="")
        for ratio in RATIOS:
            nats = population.nats - population.nats.mean() + log(ratio)
            models = []
            for _ in range(draws):
                drawn = rng.integers(0, len(nats), n)
                (moments,) = _moments(nats[np.newaxis, drawn])
                models.append(
                    [_losses(moments, population.flips[drawn], population.right[drawn])]
                )
            within, beyond = _percents(models)
            print(f"{within:>6.0f}{beyond:>4.0f}", end="")
        print()


def _percents(draws):
    """Percent of the draws in which word perplexity of any model is called within, and beyond."""
    called = Counter()
    for models in draws:
        called.update(
            {model.perplexity.verdict for model in judge_all(models, Tolerance())}
        )
    return [100 * called[verdict] / len(draws) for verdict in ("within", "beyond")]


def _moments(values):
    """The moments of each row."""
    columns = [
        values.mean(axis=1),
        values.std(axis=1, ddof=1),
        values.min(axis=1),
        values.max(axis=1),
    ]
    return [
        Moments(
            n=values.shape[1],
            mean=mean,
            deviation=deviation,
            lowest=lowest,
            highest=highest,
        )
        for mean, deviation, lowest, highest in np.column_stack(columns).tolist()
    ]


def _losses(nats, flips=None, right=None):
    """Losses of a draw, for the verdict; without flips by word perplexity alone."""
    if flips is None:
        return Losses(nats=nats, broke=0, fixed=0, n_right=0, anytime=False)
    n_right = max(MIN_RIGHT, int(right.sum()))
    broke = int((flips == 1).sum())
    fixed = int((flips == -1).sum())
    return Losses(nats=nats, broke=broke, fixed=fixed, n_right=n_right, anytime=False)


def _print_row(name, looks, errors):
    read = "any look" if len(looks) > 1 else "at the end"
    print(f"{name:<32}{looks[-1]:>7,}{read:>11}", end="")
    for within, beyond, width in (errors[:3], errors[3:]):
        print(f"{within:>7.2f}%{beyond:>7.2f}%{width:>7.2f}", end="")
    print()


def _arguments():
    parser = run_parser(
        __doc__,
        methods=(str, "make a run with these methods first"),
        draws=20_000,
        power_draws=2000,
        sizes=("30,132,400,1000,5153", "numbers of passages with commas between"),
        samples=64,
    )
    arguments = parser.parse_args()
    arguments.sizes = [int(size) for size in arguments.sizes.split(",")]
    return arguments


if __name__ == "__main__":
    main()
