from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.mixed_precision.knapsack import choose


def brute_force(damages: list[list[float]], costs: list[list[int]], budget: int) -> float | None:
    """The least damage, by trying everything."""
    tried = [
        sum(damages[item][index] for item, index in enumerate(choice))
        for choice in product(*(range(len(row)) for row in damages))
        if sum(costs[item][index] for item, index in enumerate(choice)) <= budget
    ]
    return min(tried, default=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], int]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    damage = st.floats(-1.0, 100.0, width=32)
    damages = [draw(st.lists(damage, min_size=size, max_size=size)) for size in sizes]
    unit = draw(st.sampled_from([1, 7, 4096, 11_008 * 4096]))
    costs = [[unit * draw(st.integers(0, 30)) for _ in range(size)] for size in sizes]
    return damages, costs, unit * draw(st.integers(0, 120)) + draw(st.integers(0, unit - 1))


@given(problems())
def test_it_is_as_good_as_trying_everything(problem: tuple[list[list[float]], list[list[int]], int]) -> None:
    damages, costs, budget = problem
    chosen = choose(*problem)
    best = brute_force(damages, costs, budget)
    if best is None:
        assert chosen is None
        return
    assert chosen is not None
    assert sum(row[index] for row, index in zip(costs, chosen, strict=True)) <= budget
    found = sum(row[index] for row, index in zip(damages, chosen, strict=True))
    assert found == pytest.approx(best, rel=1e-9, abs=1e-7)


def test_the_best_by_hand() -> None:
    """Widths 2 and 4 for three layers, 10 bits: one layer may have 4. The first gains 8, the others 1 and 2."""
    assert choose([[9.0, 1.0], [5.0, 4.0], [3.0, 1.0]], [[2, 4]] * 3, 8) == [1, 0, 0]
    assert choose([[9.0, 1.0], [5.0, 4.0], [3.0, 1.0]], [[2, 4]] * 3, 10) == [1, 0, 1]


def test_where_taking_the_best_ratio_first_is_not_best() -> None:
    """A greedy choice buys the first item's step (3 for 2) and then cannot pay for the second's (4 for 3)."""
    assert choose([[3.0, 0.0], [4.0, 0.0]], [[0, 2], [0, 3]], 4) == [0, 1]


def test_differences_far_below_the_largest_damage_count() -> None:
    damages = [[10.0, 0.0], [3e-7, 2e-7], [3e-7, 1e-7]]
    assert choose(damages, [[0, 1]] * 3, 2) == [1, 0, 1]


def test_a_budget_that_the_cheapest_choices_just_meet() -> None:
    assert choose([[1.0, 0.0]], [[10**15, 10**15 + 1]], 10**15) == [0]
    assert choose([[1.0, 0.0]], [[10**15, 10**15 + 1]], 10**15 - 1) is None
