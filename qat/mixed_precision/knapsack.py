"""The multiple-choice knapsack problem, solved exactly: one choice for each item, the least damage within a budget.

    minimize    sum of damage[i][c] * x[i, c]
    subject to  sum over c of x[i, c] = 1 for each item i,  sum of cost[i][c] * x[i, c] <= budget,  x in {0, 1}

This is how HAWQ-V3 (arXiv:2011.10680, section 3.4) assigns bits, too. HiGHS solves it by branch and bound, through
``scipy.optimize.milp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from math import gcd

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from qat.errors import RunError

_SPAN = 1e4
"""Damages are scaled to this span: HiGHS stops at an absolute gap of 1e-6, here 1e-10 of the span."""


def choose(damages: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int) -> list[int] | None:
    """The index of the best choice for every item.

    Args:
        damages: of each choice of each item; may be negative.
        costs: of the same choices, exact integers of any size.
        budget: what the costs of the chosen may add up to.

    Returns:
        An optimum; None where even the cheapest choices cost more than ``budget``.

    Raises:
        RunError: the solver gave up, or its answer breaks the budget, which rounding alone could make it do.

    Example:
        >>> choose([[9.0, 1.0], [5.0, 4.0]], [[2, 4], [2, 4]], budget=6)
        [1, 0]
    """
    cheapest = [min(row) for row in costs]
    slack = budget - sum(cheapest)
    if slack < 0:
        return None
    extra = [[cost - least for cost in row] for row, least in zip(costs, cheapest, strict=True)]
    unit = reduce(gcd, (cost for row in extra for cost in row), 0) or 1
    sizes = [len(row) for row in damages]
    solution = milp(
        _scaled(damages),
        integrality=np.ones(sum(sizes)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(_one_each(sizes), 1, 1),
            # All costs are whole: half a unit more admits nothing else, and keeps the border away from rounding.
            LinearConstraint(
                np.array([[cost // unit for row in extra for cost in row]], float), ub=slack // unit + 0.5
            ),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if solution.status != 0:
        raise RunError(f"the widths could not be optimized: {solution.message}")
    starts = np.cumsum([0, *sizes])
    chosen = [int(np.argmax(solution.x[first:end])) for first, end in pairwise(starts)]
    if sum(row[index] for row, index in zip(extra, chosen, strict=True)) > slack:
        raise RunError("the optimizer's answer is over the budget by a rounding error; change the budget a little")
    return chosen


def _scaled(damages: Sequence[Sequence[float]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The damages above the least of each item, over all of them at the scale that HiGHS computes well at."""
    above = np.concatenate([np.asarray(row, float) - min(row) for row in damages])
    return above * (_SPAN / (above.max() or 1.0))


def _one_each(sizes: Sequence[int]) -> csr_array:
    """Row i has ones at the choices of item i."""
    items = np.repeat(np.arange(len(sizes)), sizes)
    return csr_array((np.ones(len(items)), (items, np.arange(len(items)))), shape=(len(sizes), len(items)))
