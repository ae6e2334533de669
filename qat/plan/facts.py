"""What the simulation needs to know of an exported checkpoint."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Precision = Literal["float", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ModelFacts(BaseModel):
    """An exported checkpoint.

    Attributes:
        name: as the tables show it.
        parameters: number of weights.
        bytes: size of the weights by precision ("float" is 16 bits); a precision that is left out is refused where it
            matters.
        kv_bytes_per_token: keys and values that one token keeps in memory,
            ``2 · layers · key/value heads · head size · bytes a number``; null: the concurrency that a pricing
            states is taken as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parameters: PositiveInt
    bytes: dict[Precision, PositiveInt] = Field(min_length=1)
    kv_bytes_per_token: PositiveInt | None = None

    @classmethod
    def of_parameters(cls, name: str, parameters: int) -> ModelFacts:
        """A model that is not there yet: 16, 8 and 4.5 bits a weight (INT4 in groups of 32 with a 16-bit scale)."""
        return cls(
            name=name,
            parameters=parameters,
            bytes={"float": 2 * parameters, "int8": parameters, "int4": -(-parameters * 9 // 16)},
        )
