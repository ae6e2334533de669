"""Numbers that come from outside: each with its source, its date and whether it was merely assumed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints

Day = Annotated[str, StringConstraints(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
"""A date, a month or a year: ``2026-11-09``, ``2026-11``, ``2026``."""


class Sourced(BaseModel):
    """Where a number comes from.

    Attributes:
        source: who says so; of an assumed number, what to replace it with.
        date: when they said so.
        assumed: nobody says so: the number is a place holder for one's own quote or measurement.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1)
    date: Day
    assumed: bool = False


class Quote(Sourced):
    """A price, a time or a limit."""

    value: float = Field(ge=0, allow_inf_nan=False)


class Speed(Sourced):
    """What one request gets while ``concurrency`` of them run on a replica.

    Measure it with ``vllm bench serve --max-concurrency <concurrency>``: the prompt's speed is its tokens divided by
    the mean time to the first token, the output's is 1 / mean time per output token.

    Attributes:
        prompt_tokens_per_second: speed of reading one prompt.
        output_tokens_per_second: speed of writing one answer.
        concurrency: requests that run at a time on one replica at these speeds.
    """

    prompt_tokens_per_second: float = Field(gt=0, allow_inf_nan=False)
    output_tokens_per_second: float = Field(gt=0, allow_inf_nan=False)
    concurrency: PositiveInt = 1


class Input(Sourced):
    """One number of a hosting, as the outputs show it."""

    name: str
    value: float


def inputs(**values: Quote | Speed | None) -> list[Input]:
    """Every number of ``values`` with its name; what is null is left out."""
    found = []
    for name, given in values.items():
        if given is None:
            continue
        for key, value in given.model_dump(exclude={*Sourced.model_fields}).items():
            found.append(
                Input(
                    name=name if key == "value" else f"{name}.{key}",
                    value=value,
                    source=given.source,
                    date=given.date,
                    assumed=given.assumed,
                )
            )
    return found
