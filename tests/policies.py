"""For tests of the stage `policy`: trainings of a few decisions, and stops within them."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest


def few_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few decisions of few dreams."""
    for name, value in (("DREAMS", 2), ("POINT_EPISODES", 2), ("CONTEXT_LATENTS", 1)):
        monkeypatch.setattr(f"stages.policy.{name}", value)
    for name, value in (("ROLLOUT_STEPS", 8), ("BATCH", 8), ("EPOCHS", 1), ("POINTS", 2)):
        monkeypatch.setattr(f"oniris_core.policy.ppo.{name}", value)


@contextlib.contextmanager
def stop_at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, calls: int) -> Iterator[None]:
    """Within it, Ctrl-C is pressed when `name` of a module or class has been called so often."""
    with monkeypatch.context() as patch:
        before, count = getattr(place, name), iter(range(calls))

        def call(*given: Any, **named: Any) -> Any:
            if next(count, None) is None:
                os.kill(os.getpid(), signal.SIGINT)
            return before(*given, **named)

        patch.setattr(place, name, call)
        yield
