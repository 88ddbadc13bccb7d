"""The points that nobody beats."""

from itertools import product

from sparsedash.stats.sparsity_search import pareto_front


def test_a_point_that_is_worse_in_both_is_beaten():
    assert pareto_front([(1.0, 0.0), (1.2, -1.0), (1.1, -2.0)]) == [0, 1]


def test_of_the_same_gain_only_the_smaller_loss_stays_and_of_the_same_loss_the_larger_gain():
    assert pareto_front([(1.0, -1.0), (1.0, 0.0)]) == [1]
    assert pareto_front([(1.0, -1.0), (1.5, -1.0)]) == [1]


def test_equal_points_stay_both_and_nothing_gives_nothing():
    assert sorted(pareto_front([(1.0, 0.0), (1.0, 0.0)])) == [0, 1]
    assert pareto_front([]) == []


def test_it_is_what_the_definition_says_on_a_grid_of_points():
    points = [(float(x), float((x * 7 + y * 5) % 6)) for x, y in product(range(6), range(3))]

    def is_beaten(p):
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    assert sorted(pareto_front(points)) == [i for i, p in enumerate(points) if not is_beaten(p)]
