"""A long training that is stopped and resumed again and again, against one that is not.

The loop, its checkpoints, its folder and its onlookers are those of the trainings; what is trained is a toy, so that a step
costs little more than they do.
"""

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.long.watch import Watch
from oniris_core.common.errors import Interrupted
from oniris_core.common.seeds import numpy_rng, torch_generator
from oniris_core.config.reader import read_yaml
from oniris_core.training.fit.loop import fit
from oniris_core.training.fit.optimiser.ema import PowerEma
from oniris_core.training.fit.params import TrainingParams
from oniris_core.training.fit.session import onlookers, session
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.trainer import Observer, Outcome, Run

PARAMS = Path(__file__).parents[2] / "params.yaml"


class Toy:
    """Learns to multiply by a matrix; see `oniris_core.training.fit.trainer.Trainer`."""

    gauge, frames_per_step, in_memory, device = "mse", 1, True, torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(8, 8, bias=False)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.state = TrainState(self.model, optimizer, [PowerEma(self.model, 0.1)])
        self.objective = self
        self._wanted = torch.randn(8, 8, generator=torch_generator(0, "toy/wanted"))

    def __call__(self, x: Tensor) -> Outcome:
        mse = (self.model(x) - x @ self._wanted).square().mean()
        return Outcome(mse, {"mse": mse.detach()}, {})

    def batch(self, step: int, part: int) -> Tensor:
        return torch.randn(4, 8, generator=torch_generator(0, "toy/batch", step, part))

    def lr(self, _: int, share: float) -> float:
        return 0.01 * (1 - share)

    def after_step(self, _: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {}

    def describe(self, step: int) -> str:
        return f"batch {step}"


class Stopper:
    """An onlooker that sends this process SIGTERM after some of the steps, each once, and tells a `Watch` of all."""

    def __init__(self, steps: set[int], watch: Watch):
        self._steps, self._watch = steps, watch

    def see(self, state: TrainState) -> None:
        self._watch.see(state.step)
        if state.step in self._steps:
            self._steps.remove(state.step)
            os.kill(os.getpid(), signal.SIGTERM)


def trained(out: Path, steps: int, others: list[Observer]) -> bytes:
    """Train to the end, or until a signal comes, as the stages do; all that a checkpoint would hold, but for the seconds."""
    sections = read_yaml(PARAMS)
    params = TrainingParams.model_validate(
        {**sections["fit"], "steps": steps, "minutes": 0.0, "batch": 4, "compile": False}
    )
    with session("toy", out, Toy.device, record={"steps": steps}) as around:
        trainer = Toy()
        seen = [*onlookers("toy", params, around.folder, lambda _: Figure(), lambda _: None), *others]
        fit(trainer, params, Run("toy", around.folder, around.ranks, around.stop, lambda _: None, observers=seen))  # type: ignore[arg-type]
        return save({k: v.contiguous() for k, v in sorted(trainer.state.state_dict().items()) if "seconds" not in k})


def held(folder: Path) -> list[Path]:
    """The files of unfinished work."""
    return [path for path in folder.rglob("*") if path.is_file()]


def main(steps: int, stops: int) -> bool:
    """Print what the stopped training held on the way; whether it made the same bytes as an undisturbed one."""
    drawn = {int(step) for step in 1 + numpy_rng(0, "stops").permutation(steps - 1)[:stops]}
    # Away from any repository: what DVCLive holds of one ends with the process, which a resume begins anew.
    with tempfile.TemporaryDirectory(prefix="long_") as made, contextlib.chdir(made):
        folder = Path(made)
        os.environ["ONIRIS_RUNS"] = str(folder / "runs")
        watch = Watch(steps, more={
            "files in runs/": lambda: len(held(folder / "runs")),
            "KiB in runs/": lambda: sum(path.stat().st_size for path in held(folder / "runs")) / 2**10,
        })  # fmt: skip
        resumed, stopped = 0, None
        while stopped is None:
            try:
                stopped = trained(folder / "stopped", steps, [Stopper(drawn, watch)])
            except Interrupted:
                resumed += 1
        watch.table()
        left = [path for path in held(folder / "runs") if path.name != "lock"]
        print(f"\nstopped and resumed {resumed} times; files left in runs/: {len(left)}", flush=True)
        same = stopped == trained(folder / "undisturbed", steps, [])
        print(f"the same bytes as undisturbed: {'yes' if same else 'NO'}")
    return same and not left and resumed == stops
