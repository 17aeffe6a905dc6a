"""What both trainings have in common: how their loop runs, whatever it trains."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from oniris_core.config.base import Count, Float, Params, Positive


class FitParams(Params):
    """The section `fit`: how the loop of `oniris_core.training.fit.loop` runs, the same for both trainings."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"processes", "checkpoint_every", "tensorboard"})
    ADVANCED: ClassVar[frozenset[str]] = frozenset({"accumulate", "warmup_steps", "checkpoint_every", "skip_steps"})

    processes: Positive = Field(description="processes that share the clips of a step, each on a GPU or some cores")
    accumulate: Positive = Field(description="parts in which each process takes its clips, one by one, to save memory")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="of convolutions and products; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    compile: bool = Field(description="compile the network; the first steps take minutes, the others less time")
    warmup_steps: Positive = Field(description="steps until the learning rate is at its highest")
    skip_steps: Count = Field(
        description="steps whose loss or gradient is not finite that may be left out; then it stops"
    )
    checkpoint_every: Positive = Field(
        description="steps from one checkpoint to the next; one is made every 10 minutes too"
    )
    tensorboard: bool = Field(description="write curves for TensorBoard too (needs the extra `tensorboard`)")


class TrainingParams(FitParams):
    """What each training says for itself, beside the section `fit`."""

    SHARED: ClassVar[Mapping[str, type[Params]]] = {"fit": FitParams}

    steps: Positive = Field(description="training steps")
    minutes: Float = Field(
        ge=0,
        description="above 0: ends after so many minutes, if the steps have not run out before; learning rate and "
        "averages follow the clock, so no two runs are the same",
    )
    batch: Positive = Field(description="clips of a step, over all processes and parts")
