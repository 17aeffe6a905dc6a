"""What both trainings have in common: how their loop runs, whatever it trains."""

from typing import ClassVar, Literal

from pydantic import Field

from oniris_core.config.base import Count, Float, Params, Positive


class FitParams(Params):
    """How the loop of `oniris_core.training.fit.loop` runs."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({
        "processes", "checkpoint_every", "checkpoint_minutes", "dashboard_every", "tensorboard",
    })  # fmt: skip

    steps: Positive = Field(description="training steps")
    minutes: Float = Field(
        ge=0,
        description="above 0: ends after so many minutes, if the steps have not run out before; learning rate and "
        "averages follow the clock, so no two runs are the same",
    )
    batch: Positive = Field(description="clips of a step, over all processes and parts")
    processes: Positive = Field(description="processes that share the clips of a step, each on a GPU or some cores")
    accumulate: Positive = Field(description="parts in which each process takes its clips, one by one, to save memory")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="of convolutions and products; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    compile: bool = Field(description="compile the network; the first steps take minutes, the others less time")
    checkpoint_every: Positive = Field(description="steps from one checkpoint to the next at most")
    checkpoint_minutes: Float = Field(gt=0, description="minutes from one checkpoint to the next at most")
    skip_steps: Count = Field(
        description="steps whose loss or gradient is not finite that may be left out; then it stops"
    )
    explosion: Float = Field(gt=1, description="stops when the error grows to this many times the lowest it had")
    dashboard_every: Count = Field(description="steps from one dashboard.png to the next; 0: only at the end")
    tensorboard: bool = Field(description="write curves for TensorBoard too (needs the extra `tensorboard`)")
