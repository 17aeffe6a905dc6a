"""The training loop that both trainers share: resumable to the bit, observable, stoppable, on one process or many.

A trainer says what a step is. Its data and its random numbers are functions of the step, so a checkpoint is its tensors
and nothing else: an interrupted and an undisturbed run end with the same bytes.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from oniris_core.common.errors import Interrupted
from oniris_core.common.progress import meter
from oniris_core.training.fit.checkpoints import Checkpoints
from oniris_core.training.fit.guards import Guard
from oniris_core.training.fit.machine.distributed import Ranks, average_of_ranks, from_first, of_all_ranks
from oniris_core.training.fit.machine.graphs import Replayed
from oniris_core.training.fit.machine.read_ahead import read_ahead
from oniris_core.training.fit.params import TrainingParams
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.trainer import Outcome, Run, Trainer
from oniris_core.training.fit.watch.stopwatch import Stopwatch, summary

RECENT = 50
"""Steps over which the progress bar averages."""

CHECKPOINT_SECONDS = 600.0
"""From one checkpoint to the next at most."""

READ_EVERY = 32
"""On a GPU the losses and norms of so many steps are read at once: to read one means to wait for it."""


def fit(trainer: Trainer[Any], params: TrainingParams, run: Run) -> dict[str, Tensor]:
    """Train to `params.steps` steps, or as many as `params.minutes` allow, from the last checkpoint if there is one.

    Losses and norms are read after every step on a CPU, after every `READ_EVERY` steps on a GPU, and before a checkpoint;
    a loss that is not finite is noticed then, and a signal. Only `params.skip_steps` asks for more: to leave a step out
    means to look at it first.

    Returns:
        float32 [steps done] per logged name: every logged value of every step, and the seconds it took (see `Stopwatch`).

    Raises:
        OnirisError: loss or gradient were not finite once too often, or the error has exploded; step, data and last good
            checkpoint are named.
        UserError: the checkpoint is of another architecture.
        Interrupted: a signal asked one of the ranks to stop; a checkpoint was written.
    """
    state, device = trainer.state, trainer.device
    checkpoints = Checkpoints(run.folder) if run.folder else None
    _resume(trainer, checkpoints, run)
    module = _on_all_ranks(trainer.objective, run.ranks)
    guard = Guard(state, trainer.gauge, params, trainer.describe, run.name)
    budget = Budget(params, state)
    replayed = None
    if device.type == "cuda" and run.ranks.world == params.accumulate == 1:

        def passes(data: Any) -> Outcome:
            with _precision(device, params.precision):
                outcome = module(data)
            outcome.loss.backward()
            return Outcome(outcome.loss.detach(), outcome.logs, outcome.kept)

        replayed = Replayed(passes, state.model)
    every = 1 if device.type == "cpu" or params.skip_steps else READ_EVERY
    unread: list[Unread] = []
    for observer in run.observers:
        observer.see(state)
    with (
        _progress(trainer, params, run) as show,
        _products(params.precision, device),
        read_ahead(trainer.batch, params.accumulate, wanted=not trainer.in_memory) as batch,
    ):
        mark = saved_at = time.perf_counter()
        share = budget.share(state.step)
        while share < 1:
            step = state.step
            watch = Stopwatch(device)
            for group in state.optimizer.param_groups:
                group["lr"] = trainer.lr(step, share)
            if replayed is None:
                state.optimizer.zero_grad(set_to_none=True)
            outcomes = []
            for part in range(params.accumulate):
                with watch("data"):
                    data = batch(step, part)
                if replayed is not None:  # forward and backward in one
                    with watch("forward"):
                        outcomes.append(replayed(data))
                    continue
                # Gradients are exchanged once a step, with the last part.
                alone = part < params.accumulate - 1 and isinstance(module, DistributedDataParallel)
                with module.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                    with watch("forward"), _precision(device, params.precision):
                        outcomes.append(module(data))
                    with watch("backward"):
                        (outcomes[-1].loss / params.accumulate).backward()
            logs = _logs(outcomes)
            with watch("optimiser"):
                logs["norm"] = nn.utils.clip_grad_norm_(state.model.parameters(), run.clip_norm or math.inf)
                if not params.skip_steps or guard.lets_pass(
                    step, *map(float, (average_of_ranks(logs["loss"]), logs["norm"]))
                ):
                    state.optimizer.step()
                    logs |= trainer.after_step([o.kept for o in outcomes])
            for ema in state.emas:  # also when the weights stay as they are: the averages' time goes on
                ema.update(state.model, step)
            unread.append(Unread(step, logs, watch))
            state.step = step + 1
            now = time.perf_counter()
            share = budget.share(state.step)
            due = state.step % params.checkpoint_every == 0 or now - saved_at > CHECKPOINT_SECONDS or share >= 1
            if not due and len(unread) < every:
                continue
            stopping = _read(unread, state, params.steps, mark, run)
            for seen in unread if not params.skip_steps else ():
                guard.lets_pass(seen.step, *(float(state.history[name][seen.step]) for name in ("loss", "norm")))
            for seen in unread:
                guard.look_back(seen.step)
            mark = time.perf_counter()
            if due or stopping:
                if checkpoints:
                    checkpoints.save(state.step, state.state_dict())
                guard.saved, saved_at = state.step, time.perf_counter()
            if stopping:
                raise Interrupted(stopping)
            for observer in run.observers:
                observer.see(state)
            show(len(unread))
            unread.clear()
    state.history = {name: values[: state.step] for name, values in state.history.items()}
    run.say(f"{run.name}: {summary(state.history, trainer.frames_per_step)}")
    return state.history


class Unread(NamedTuple):
    """A step whose losses nobody has looked at yet."""

    step: int
    logs: dict[str, Tensor]
    watch: Stopwatch


class Budget:
    """How much of a training is done: of its steps, or of its minutes if those run out before.

    Minutes of an interrupted run count, those in which nothing ran do not.
    """

    def __init__(self, params: TrainingParams, state: TrainState):
        self._steps, self._seconds = params.steps, 60 * params.minutes
        spent = state.history.get("seconds")
        self._start = time.perf_counter() - (float(spent.nansum()) if spent is not None else 0.0)

    def share(self, step: int) -> float:
        """0 at the start, 1 at the end, after `step` steps, now."""
        if not self._seconds:
            return step / self._steps
        return max(step / self._steps, (time.perf_counter() - self._start) / self._seconds)


def _read(unread: Sequence[Unread], state: TrainState, steps: int, mark: float, run: Run) -> int:
    """Wait for these steps, put what they logged into the history, and return the signal that asked any rank to stop."""
    names = sorted({name for seen in unread for name in seen.logs})
    device = unread[0].logs["loss"].device
    nothing = torch.full((), math.nan, device=device)
    values = torch.stack([torch.stack([seen.logs.get(name, nothing).float() for name in names]) for seen in unread])
    asked = torch.full((1,), float(run.stop.signal_number or 0), device=device)
    ranks = of_all_ranks(torch.cat([values.flatten(), asked])[None]).cpu()
    seconds = (time.perf_counter() - mark) / len(unread)
    mean = ranks[:, :-1].mean(0).unflatten(0, values.shape)
    for seen, row in zip(unread, mean, strict=True):
        logs = dict(zip(names, row.tolist(), strict=True)) | {"seconds": seconds} | seen.watch.seconds()
        for key, value in logs.items():
            state.history.setdefault(key, torch.full((steps,), math.nan))[seen.step] = value
    return int(ranks[:, -1].max())


def _resume(trainer: Trainer[Any], checkpoints: Checkpoints | None, run: Run) -> None:
    state, world = trainer.state, run.ranks.world
    found = checkpoints.load_last(run.say) if checkpoints else None
    if checkpoints and found:
        step = int(found[1].get("step", torch.tensor(0)))
        if lost := next((file for ema in state.emas if (file := ema.lost(step))), None):
            run.say(f"{run.name}: {lost} is gone or damaged; starting from the beginning")
            checkpoints.forget()
            found = None
    tensors = from_first(found[1] if found else None, trainer.device)
    if tensors:
        state.load_state_dict(tensors, found[0] if found else Path("checkpoint"))
        run.say(f"{run.name}: going on from step {state.step}")
        if state.world != world:
            run.say(f"note: {state.world} processes began, {world} go on: the same up to rounding, not to the bit")
    state.world = world


def _on_all_ranks(objective: nn.Module, ranks: Ranks) -> nn.Module:
    if ranks.world == 1:
        return objective
    # Which parameters a step leaves out (the temporal ones, in steps without a past) is the same on every rank.
    return DistributedDataParallel(objective, find_unused_parameters=True)


def _precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    reduced = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if reduced else contextlib.nullcontext()


def _products(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where convolutions are of reduced precision the other products, of the optimiser, need no more than tf32."""
    if device.type != "cuda" or precision == "float32":
        return contextlib.nullcontext()
    return _tf32()


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _logs(outcomes: Sequence[Outcome]) -> dict[str, Tensor]:
    """The loss and what else was logged, averaged over the parts of a step."""
    names = sorted(outcomes[0].logs)
    parts = torch.stack([torch.stack([o.loss.detach(), *(o.logs[name] for name in names)]) for o in outcomes])
    return dict(zip(["loss", *names], parts.float().mean(0).unbind(), strict=True))


@contextlib.contextmanager
def _progress(trainer: Trainer[Any], params: TrainingParams, run: Run) -> Iterator[Callable[[int], None]]:
    state = trainer.state
    if not run.ranks.first:
        yield lambda _: None
        return
    with meter(run.name, params.steps, state.step) as progress:

        def show(steps: int) -> None:
            recent = slice(max(state.step - RECENT, 0), state.step)
            rate = 1 / max(float(state.history["seconds"][recent].nanmean()), 1e-9)
            loss = float(state.history["loss"][recent].nanmean())
            progress.advance(
                steps, f"{rate:.3g} steps/s, {rate * trainer.frames_per_step:.0f} frames/s, loss {loss:.4g}"
            )

        yield show
