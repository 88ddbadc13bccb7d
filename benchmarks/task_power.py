"""How often a verdict over tasks falls, and how often it is wrong: simulated flips, judged as `sparsedash judge` does.

    python -m benchmarks.task_power
    python -m benchmarks.task_power --questions 500,2000 --flips 5,10,20 --draws 2000

Drawn are the answers of a model that truly loses so many points of a task, of which so many flip. Beside the verdict in
use: the interval of level 95 % that a run's verdict has; and looks at an eighth, a quarter and half of the questions on
the way, with the questions that were then asked. Last some tasks together, all of which lost nothing or just the limit.
"""

import argparse
from functools import cache
from statistics import fmean

import numpy as np

from sparsedash.stats.anytime import ALPHA, planned_looks
from sparsedash.stats.tolerance import Tolerance, flip_moments, judge_in_steps, loss_of, lost_share_interval

MOST = Tolerance().points / 100


@cache
def judged(broke, fixed, n, alpha):
    """The loss of one task, its interval at level 1 - alpha."""
    return loss_of("accuracy", flip_moments(broke, fixed, n), lost_share_interval(broke, fixed, n, alpha), alpha, MOST)


def draw(rng, lost, flips, sizes, draws):
    """Flips each way, (draws, sizes, 2), summed over pieces of these sizes."""
    shares = ((flips + lost) / 2, (flips - lost) / 2, 1 - flips)
    return np.cumsum(np.stack([rng.multinomial(size, shares, draws)[:, :2] for size in sizes], axis=1), axis=1)


def one_task(rng, arguments):
    """Print the chances of one task alone."""
    head = f"{'5 % (used)':>16}{'2.5 % a side':>16}{'5 %, looks':>16}{'asked':>8}"
    print(f"chance of within and beyond, percent; limit {100 * MOST:g} points, {arguments.draws:,} draws")
    print(f"{'lost':>6}{'flips':>7}{'n':>8}{head}")
    for lost in arguments.lost:
        for flips in arguments.flips:
            for n in arguments.questions:
                if flips < lost:
                    continue
                looks = planned_looks(n)
                sizes = np.diff([0, *(look.n_passages for look in looks)])
                counts = draw(rng, lost / 100, flips / 100, sizes, arguments.draws).tolist()
                ends = [[judged(*run[-1], n, alpha).verdict for run in counts] for alpha in (2 * ALPHA, ALPHA)]
                ends.append([])
                asked = []
                for run in counts:
                    verdict, after = "undecided", n
                    for look, flipped in zip(looks, run, strict=True):
                        verdict = judged(*flipped, look.n_passages, 2 * ALPHA * look.share).verdict
                        if verdict != "undecided":
                            after = look.n_passages
                            break
                    ends[-1].append(verdict)
                    asked.append(after)
                cells = "".join(
                    f"{100 * fmean(v == 'within' for v in each):>9.1f}{100 * fmean(v == 'beyond' for v in each):>7.1f}"
                    for each in ends
                )
                print(f"{lost:>6g}{flips:>6g}%{n:>8,}{cells}{fmean(asked):>8,.0f}", flush=True)


def family(rng, lost, n, n_tasks):
    """The verdicts on some tasks of 10 % flips, judged together."""
    flips = draw(rng, lost, 0.1, [n], n_tasks)[:, 0].tolist()
    losses = judge_in_steps(range(n_tasks), ALPHA, lambda i, share: judged(*flips[i], n, 2 * share))
    return [losses[i].verdict for i in range(n_tasks)]


def together(rng, arguments):
    """Print how often all of some tasks are within that lost nothing, and any is wrong that lost just the limit."""
    print("tasks of 10 % flips judged together, percent: nothing lost: each within, all within; the limit lost:")
    print("any wrongly within, any beyond")
    for n_tasks in arguments.tasks:
        for n in arguments.questions:
            none, limit = ([family(rng, lost, n, n_tasks) for _ in range(arguments.draws)] for lost in (0.0, MOST))
            each = fmean(verdict == "within" for found in none for verdict in found)
            every = fmean(set(found) == {"within"} for found in none)
            wrong = [fmean(verdict in found for found in limit) for verdict in ("within", "beyond")]
            shown = "".join(f"{100 * share:>9.1f}" for share in (each, every, *wrong))
            print(f"{n_tasks:>3} tasks of {n:>6,}{shown}", flush=True)


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)

    def numbers(kind):
        return lambda text: [kind(each) for each in text.split(",")]

    parser.add_argument("--questions", type=numbers(int), default=[500, 1000, 2000, 5000])
    parser.add_argument("--flips", type=numbers(float), default=[5, 10, 20], help="percent")
    parser.add_argument("--lost", type=numbers(float), default=[0, 1, 2, 4], help="points")
    parser.add_argument("--tasks", type=numbers(int), default=[3, 6])
    parser.add_argument("--draws", type=int, default=4000)
    arguments, rng = parser.parse_args(), np.random.default_rng(0)
    one_task(rng, arguments)
    together(rng, arguments)


if __name__ == "__main__":
    main()
