"""When what is quantized: a pure function from the training step to a :class:`PrecisionState`."""

from qat.schedule.phase import Phase
from qat.schedule.schedule import PrecisionSchedule
from qat.schedule.state import BlockOrder, PrecisionState

__all__ = ["BlockOrder", "Phase", "PrecisionSchedule", "PrecisionState"]
