"""What every hosting answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from qat.plan.facts import ModelFacts, Precision
from qat.plan.pool import Advance, Replica, Served
from qat.plan.requests import Requests
from qat.plan.scale import Scale
from qat.plan.sourced import Input, Speed


class Cost(BaseModel):
    """One line of a bill: ``amount = quantity · price``, for the whole simulated time and all the traffic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    quantity: float
    unit: str
    price: float
    amount: float

    @classmethod
    def of(cls, name: str, quantity: float, unit: str, price: float) -> Cost:
        return cls(name=name, quantity=quantity, unit=unit, price=price, amount=float(quantity * price))


@dataclass(frozen=True, eq=False)
class Case:
    """One simulation.

    Attributes:
        requests: those that are simulated.
        scale: what each of them stands for.
        places: requests that a replica of the simulation serves at a time.
        seconds: how long traffic arrives, and what is paid for.
        advance: told of the progress.
    """

    facts: ModelFacts
    precision: Precision
    requests: Requests
    scale: Scale
    places: int
    seconds: float
    advance: Advance


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a simulation gave; requests ``[n]`` in the order of their arrival, times in seconds.

    Attributes:
        begin: when the prompt began to be read; NaN if the request was rejected.
        first_token: when the first token came.
        end: when the last token came.
        cold: the request arrived while no replica could serve.
        rejected: it was refused, or gave up waiting.
        costs: the bill.
        changes: ``[k, 2]`` time and by how much the number of serving replicas changed; empty without replicas.
    """

    begin: NDArray[np.float64]
    first_token: NDArray[np.float64]
    end: NDArray[np.float64]
    cold: NDArray[np.bool_]
    rejected: NDArray[np.bool_]
    costs: list[Cost]
    changes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))

    @classmethod
    def of(cls, served: Served, requests: Requests, speed: Speed, costs: list[Cost], cells: int) -> Outcome:
        """What became of the requests of a pool whose replicas have ``speed``, in ``cells`` equal pools."""
        first_token = served.begin + requests.prompt / speed.prompt_tokens_per_second
        return cls(
            begin=served.begin,
            first_token=first_token,
            end=first_token + requests.output / speed.output_tokens_per_second,
            cold=served.cold,
            rejected=served.rejected,
            costs=costs,
            changes=_changes(served.replicas, cells),
        )


class Hosting(ABC):
    """A place that serves the model, with its prices and speeds."""

    currency: str
    precision_matters: ClassVar[bool]
    """Whether the bytes of the export change anything here; where not, one simulation holds for every precision."""

    @abstractmethod
    def inputs(self) -> list[Input]:
        """Every number from outside that a result depends on."""

    @abstractmethod
    def note(self, facts: ModelFacts, precision: Precision) -> str:
        """What a reader of this hosting's row must know."""

    def refusal(self, facts: ModelFacts, precision: Precision, tokens: float) -> str | None:
        """Why ``precision`` cannot run here, or None; ``tokens`` is the mean length of a request."""
        return None

    @abstractmethod
    def places(self, facts: ModelFacts, precision: Precision, tokens: float) -> int:
        """Requests that a replica serves at a time."""

    @abstractmethod
    def simulate(self, case: Case) -> Outcome:
        """Serve the requests."""


def service_seconds(requests: Requests, speed: Speed) -> NDArray[np.float64]:
    """How long each request takes, once it has begun ``[n]``."""
    return requests.prompt / speed.prompt_tokens_per_second + requests.output / speed.output_tokens_per_second


def _changes(replicas: list[Replica], cells: int) -> NDArray[np.float64]:
    lives = [replica for replica in replicas if replica.ready < inf]
    steps = [(replica.ready, cells) for replica in lives]
    steps += [(replica.stopped, -cells) for replica in lives if replica.stopped < inf]
    return np.array(sorted(steps), dtype=np.float64).reshape(-1, 2)
