"""The training loop that both trainers share: resumable to the bit, observable, stoppable.

A trainer says what a step is. Its data and its random numbers are functions of the step, so a checkpoint is its tensors
and nothing else: an interrupted and an undisturbed run end with the same bytes.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from oniris_core.common.errors import OnirisError
from oniris_core.common.process import StopRequest
from oniris_core.common.progress import meter
from oniris_core.training.checkpoints import Checkpoints
from oniris_core.training.ema import PowerEma


class Trainer(Protocol):
    """What `fit` needs of a trainer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    emas: list[PowerEma]
    extra: nn.Module
    """Whatever else must be kept, as parameters or buffers (may be an empty module)."""
    others: dict[str, torch.optim.Optimizer]
    """Optimizers of parts of `extra`, stepped by `after_step`."""

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step and what to log of it (scalars)."""
        ...

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        ...

    def after_step(self) -> dict[str, Tensor]:
        """Whatever follows the optimiser's update, and what to log of it (scalars)."""
        ...

    def describe(self, step: int) -> str:
        """Where the data of a step came from, for a message."""
        ...


def fit(
    trainer: Trainer,
    *,
    name: str,
    steps: int,
    checkpoint_every: int,
    clip_norm: float | None,
    folder: Path,
    stop: StopRequest,
    say: Callable[[str], None],
) -> dict[str, Tensor]:
    """Train to `steps` steps, from the last checkpoint in `folder` if there is one.

    Args:
        trainer: what a step is.
        name: shown on the progress bar.
        steps: steps in all.
        checkpoint_every: steps from one checkpoint to the next; the last step always has one.
        clip_norm: gradients are scaled down to this norm; None leaves them.
        folder: where checkpoints live.
        stop: looked at after each step; a checkpoint is written before Interrupted is raised.
        say: takes lines for the person.

    Returns:
        float32 [steps] per logged name: every logged value of every step, and `seconds`, what each of them took.

    Raises:
        OnirisError: the loss or a gradient is not finite; step, data and last good checkpoint are named.
    """
    checkpoints, history, first = Checkpoints(folder), dict[str, Tensor](), 0
    found = checkpoints.load_last(say)
    if found:
        first, tensors = found
        history = restore(trainer, tensors)
        say(f"{name}: going on from step {first}")
    with meter(name, steps, first) as progress:
        saved = first
        for step in range(first, steps):
            started = time.perf_counter()
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.lr(step)
            loss, logs = trainer.loss(step)
            trainer.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), clip_norm or math.inf)
            logs = {"loss": loss.detach(), **logs}
            if not torch.isfinite(norm + logs["loss"]):
                what = "gradient" if torch.isfinite(logs["loss"]) else "loss"
                raise OnirisError(
                    f"{name}: {what} is not finite at step {step} ({trainer.describe(step)}); the last good checkpoint "
                    f"is that of step {saved}; lower the learning rate or look at these episodes"
                )
            trainer.optimizer.step()
            logs |= trainer.after_step()
            for ema in trainer.emas:
                ema.update(trainer.model, step)
            logs["seconds"] = torch.tensor(time.perf_counter() - started)
            for key, value in logs.items():
                history.setdefault(key, torch.full((steps,), math.nan))[step] = value
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps or stop.signal_number is not None:
                checkpoints.save(step + 1, state(trainer, history))
                saved = step + 1
                stop.raise_if_set()
            recent = history["loss"][max(step - 49, 0) : step + 1].mean()
            progress.advance(note=f"loss {recent:.4g}")
    return history


def state(trainer: Trainer, history: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that decides how training goes on, as named tensors."""
    tensors = {f"model/{k}": v for k, v in trainer.model.state_dict().items()}
    for ema in trainer.emas:
        tensors |= {f"ema/{ema.width:g}/{k}": v for k, v in ema.model.state_dict().items()}
    tensors |= {f"extra/{k}": v for k, v in trainer.extra.state_dict().items()}
    for prefix, optimizer in _optimizers(trainer):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
    return tensors | {f"history/{k}": v for k, v in history.items()}


def restore(trainer: Trainer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `state`; returns the history."""
    trainer.model.load_state_dict(_below("model", tensors))
    for ema in trainer.emas:
        ema.model.load_state_dict(_below(f"ema/{ema.width:g}", tensors))
    trainer.extra.load_state_dict(_below("extra", tensors))
    for prefix, optimizer in _optimizers(trainer):
        moments = dict[int, dict[str, Tensor]]()
        for key, value in _below(prefix, tensors).items():
            index, _, moment = key.partition("/")
            moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return _below("history", tensors)


def _optimizers(trainer: Trainer) -> list[tuple[str, torch.optim.Optimizer]]:
    return [("optimizer", trainer.optimizer), *((f"others/{name}", other) for name, other in trainer.others.items())]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "/"): v for k, v in tensors.items() if k.startswith(prefix + "/")}
