"""How often a verdict is wrong, and how soon it is one: simulated on the real paired differences of stored runs.

    python -m benchmarks.coverage --data-dir DATA_FOLDER
    python -m benchmarks.coverage --data-dir FOLDER --methods least-squares,flap --sparsity 10,20 --evaluation file:A

Every sparse model of the folder's runs is a population: what it lost on each passage against dense. Runs of the same
settings over other passages are put together. With --methods such a run is made there first. So many passages are drawn
from a population again and again, its own mean loss is taken for the tolerance, and it is counted how often the
interval lies wholly inside (`within`, wrongly) or wholly outside (`beyond`, wrongly), and how wide it is beside the
interval that is usual: Student's for word perplexity, Wald's for accuracy. `any look`: as where a run may stop early,
and the verdict may be read at every look of it. A sweep is the sparsities of one method judged together, each at the
tolerance. Last the power: the chance of each verdict at the usual tolerance for one model whose true loss is given.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import log, sqrt

import numpy as np

from benchmarks.arguments import answers_parser
from benchmarks.power_curves import losses_of, power
from sparsedash.catalog.presets import method_named
from sparsedash.engine.evaluation.early_stopping import look_counts as looks_of
from sparsedash.reporting import wording
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import SELF, CalibrationSettings, EvaluationSettings, RunSettings, parse_percents
from sparsedash.stats.anytime import ALPHA, log_e_value
from sparsedash.stats.mean_intervals import Moments, anytime_mean_interval, mean_interval, student_quantile
from sparsedash.stats.significance import Z_95, shared_outcomes
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance, judge_all, lost_accuracy_interval

FEWEST = 20
"""Passages that make a population."""
AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Population:
    """What one model lost, passage by passage. nats: of log-likelihood. broke: 1, fixed: -1, else 0."""

    method: str
    percent: float
    nats: np.ndarray
    broke: np.ndarray
    right: np.ndarray

    @property
    def name(self):
        """What its rows are called."""
        return f"{self.method}, {self.percent:g} %"


def main():
    arguments = _arguments()
    if arguments.methods:
        make(arguments)
    found = populations(arguments.data_dir)
    print(f"{len(found)} populations, {arguments.draws:,} draws each, wanted: {100 * ALPHA / 2:g} % on either side")
    head = f"{'within':>8}{'beyond':>8}{'width':>7}"
    print(f"{'population':<32}{'n':>7}{'':>10}{'perplexity':>23}{'accuracy':>23}\n{'':<49}{head}{head}")
    worst = defaultdict(lambda: [0.0] * 6)
    for each in found:
        for n in arguments.sizes:
            for looked in (False, True)[: len(looks(n, True))]:
                asked = (each, n, looked, arguments.draws)
                row = [*perplexity_errors(*asked), *accuracy_errors(*asked)]
                _print_row(f"{each.name} ({len(each.nats):,})", n, looked, row)
                worst[n, looked] = [max(pair) for pair in zip(worst[n, looked], row, strict=True)]
    for (n, looked), row in worst.items():
        _print_row("worst", n, looked, row)
    sweeps(found, arguments.sizes, arguments.draws)
    power(min(found, key=lambda each: abs(float(each.nats.mean()))), arguments)


def make(arguments):
    """A run with these settings in the data folder, of which nothing is computed twice."""
    from sparsedash.engine.run import pipeline
    from sparsedash.storage.store import Store

    store = Store(arguments.data_dir)
    calibration = CalibrationSettings(
        corpus=arguments.calibration, n_samples=arguments.samples, length=arguments.length
    )
    settings = RunSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        methods=tuple(method_named(name) for name in arguments.methods.split(",")),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=calibration,
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
    )
    pipeline.run(settings, store, ignore_steps)
    store.close()


def populations(folder):
    """The populations of the runs in this data folder."""
    from sparsedash.storage.store import Store

    parts, seen = defaultdict(list), set()
    store = Store(folder)
    for run in filter(None, (store.get(Run, key) for key in store.keys(Run))):
        dense = store.get(Record, run.dense)
        for key in run.sparse:
            record = store.get(Record, key)
            if record is None or dense is None or record.pruned is None or key in seen:
                continue
            seen.add(key)
            made = (dense.model, dense.dtype, wording.method_title(record.pruned.method), record.sparsity_permille / 10)
            parts[made].append(shared_outcomes(dense, record))
    store.close()
    return [_population(made, list(chain(*pairs))) for made, pairs in sorted(parts.items()) if _enough(pairs)]


def _enough(pairs):
    return sum(map(len, pairs)) >= FEWEST and any(d.log_likelihood != s.log_likelihood for one in pairs for d, s in one)


def _population(made, pairs):
    return Population(
        method=made[2],
        percent=made[3],
        nats=np.array([d.log_likelihood - s.log_likelihood for d, s in pairs]),
        broke=np.array([int(d.last_word_right) - int(s.last_word_right) for d, s in pairs]),
        right=np.array([d.last_word_right for d, _ in pairs]),
    )


def looks(n, looked):
    """The numbers of passages after which a verdict may be read."""
    return looks_of(n) if looked else [n]


def perplexity_errors(population, n, looked, draws):
    """Percent of the draws wrongly within and beyond, and the mean width beside Student's interval of all n."""
    rng, true = np.random.default_rng(0), float(population.nats.mean())
    wrong, widths = np.zeros(2), []
    for size in _pieces(draws, n):
        values = rng.choice(population.nats, (size, n))
        within, beyond = np.zeros(size, bool), np.zeros(size, bool)
        for look in looks(n, looked):
            low, high = bounds(values[:, :look], looked)
            within |= (high <= true) & (look >= FEWEST_PASSAGES)
            beyond |= low > true
        wrong += within.sum(), beyond.sum()
        usual = 2 * student_quantile(1 - ALPHA / 2, n - 1) * values.std(axis=1, ddof=1) / sqrt(n)
        widths.append(float(np.mean((high - low) / usual)))
    return [*(100 * wrong / draws), float(np.mean(widths))]


def bounds(values, looked, alpha=ALPHA):
    """The ends of the intervals of many draws, a row each, as the verdict has them."""
    interval = anytime_mean_interval if looked else mean_interval
    columns = (values.mean(axis=1), values.std(axis=1, ddof=1), values.min(axis=1), values.max(axis=1))
    ends = [
        interval(Moments(n=values.shape[1], mean=mean, deviation=deviation, lowest=low, highest=high), alpha)
        for mean, deviation, low, high in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return np.array(ends).T


@cache
def accuracy_side(broke, fixed, n, looked, true):
    """1 where the interval lies beyond the true loss, -1 within, else 0."""
    found = (broke - fixed) / n
    if looked:
        missed = log_e_value(broke, fixed, n, -true) >= -log(ALPHA)
        return (1 if found > true else -1) if missed else 0
    low, high = accuracy_bounds(broke, fixed, n)
    return 1 if low > true else -1 if high <= true else 0


@cache
def accuracy_bounds(broke, fixed, n):
    """The interval of the share lost."""
    return lost_accuracy_interval(losses_of(np.zeros(n), (broke, fixed)), ALPHA)


def accuracy_errors(population, n, looked, draws):
    """As `perplexity_errors`, for the share of right answers lost, beside Wald's interval; no width at any look."""
    rng, true = np.random.default_rng(1), float(population.broke.mean())
    shares = [float(np.mean(population.broke == flip)) for flip in (1, -1, 0)]
    at = looks(n, looked)
    steps = [rng.multinomial(size, shares, draws)[:, :2] for size in np.diff([0, *at])]
    wrong, widths = [0, 0], []
    for counts in np.cumsum(np.stack(steps, axis=1), axis=1).tolist():
        sides = [accuracy_side(*flips, look, looked, true) for flips, look in zip(counts, at, strict=True)]
        wrong[0] += any(side < 0 and look >= FEWEST_PASSAGES for side, look in zip(sides, at, strict=True))
        wrong[1] += any(side > 0 for side in sides)
        broke, fixed = counts[-1]
        spread = (broke + fixed) / n - ((broke - fixed) / n) ** 2
        if spread > 0 and not looked:
            low, high = accuracy_bounds(broke, fixed, n)
            widths.append((high - low) / (2 * Z_95 * sqrt(spread / n)))
    return [*(100 * count / draws for count in wrong), float(np.mean(widths)) if widths else float("nan")]


def sweeps(found, sizes, most_draws):
    """Print how often any model of a sweep, all of them at the tolerance by word perplexity, is called wrongly."""
    tolerance, rng = Tolerance(), np.random.default_rng(2)
    print("sweeps: any of a method's models wrongly within, or beyond, by word perplexity, all at the tolerance")
    for method in dict.fromkeys(each.method for each in found):
        rows = [each for each in found if each.method == method]
        if len({len(each.nats) for each in rows}) > 1:
            continue
        nats = np.stack([each.nats - each.nats.mean() + log(tolerance.ratio) for each in rows])
        for n in sizes:
            wrong, draws = [0, 0], max(1, min(most_draws, AT_ONCE // n))
            for _ in range(draws):
                drawn = rng.integers(0, nats.shape[1], n)
                verdicts = judge_all([losses_of(each[drawn]) for each in nats], tolerance)
                for i, verdict in enumerate(("within", "beyond")):
                    wrong[i] += any(one.verdict == verdict for one in verdicts)
            within, beyond = (100 * count / draws for count in wrong)
            print(f"sweep of {method}, {len(rows)} models, n {n:,}: within {within:.1f} %, beyond {beyond:.1f} %")


def _print_row(name, n, looked, row):
    print(f"{name:<32}{n:>7,}{'any look' if looked else 'at the end':>10}", end="")
    for within, beyond, width in (row[:3], row[3:]):
        print(f"{within:>7.2f}%{beyond:>7.2f}%{width:>7.2f}", end="")
    print(flush=True)


def _pieces(draws, n):
    """Numbers of draws of n values that fit into memory at once."""
    most = max(1, AT_ONCE // n)
    return [min(most, draws - done) for done in range(0, draws, most)]


def _arguments():
    parser = answers_parser(__doc__)
    parser.add_argument("--methods", help="make a run with these methods first")
    parser.add_argument("--sparsity", default="10,20,30")
    parser.add_argument("--calibration", default=SELF)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--power-draws", type=int, default=2000)
    parser.add_argument("--picture", help="draw the power curves into this SVG file")
    parser.add_argument(
        "--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[30, 132, 400, 1000, 5153]
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
