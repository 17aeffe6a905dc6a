"""The true simulator, replayed: the truth itself, and what else might have happened."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import OnirisError, UserError
from oniris_core.common.process import die_with_parent
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.playing.environments import make_env
from oniris_core.data.playing.rollouts import Replay, replay

_ROWS_PER_WORKER = 1500  # a process is worth its start from about here on


@dataclass(frozen=True)
class Play:
    """One replay; see `oniris_core.data.playing.rollouts.replay`."""

    seed: int
    actions: np.ndarray
    redraw: tuple[int, int] | None = None


@dataclass(frozen=True)
class Simulator:
    """Where and how episodes were recorded.

    Attributes:
        env_id, env_kwargs: of gymnasium.make.
        wrappers: see `make_env`.
        import_code: allow an id, and wrappers, that import code besides Gymnasium's.
        frame_skip: environment steps from one row to the next.
        size, resize: height and width of a frame, pixels, and how a screen becomes one.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    wrappers: tuple[tuple[str, dict[str, Any]], ...]
    import_code: bool
    frame_skip: int
    size: tuple[int, int]
    resize: str

    def make(self) -> gym.Env:
        """A new environment. Raises UserError if it cannot be made here."""
        return make_env(self.env_id, self.env_kwargs, self.import_code, self.wrappers, self.import_code)

    @staticmethod
    def of(store: EpisodeStore, import_code: bool) -> "Simulator":
        """The simulator that a store was recorded from.

        Raises:
            UserError: there was none, it cannot be made here, or the store does not say how it was recorded.
        """
        env_id = store.attributes.get("env_id")
        if env_id is None:
            raise UserError("the episodes were not recorded from a simulator")
        try:
            params = store.attributes["params"]
            wrappers = [next(iter(w.items())) if isinstance(w, dict) else (w, {}) for w in params.get("wrappers", [])]
            found = Simulator(
                str(env_id), dict(store.attributes["env_kwargs"]), tuple(wrappers), import_code, int(params["frame_skip"]),
                store.frame_size, str(params.get("resize", "stretch")),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise UserError("the episode store does not say how its episodes were recorded") from None
        found.make().close()
        return found

    def play(self, plays: list[Play], tick: Callable[[], None]) -> list[Replay]:
        """What each replay gives, in order; in several processes if there are many.

        Args:
            plays: what to play.
            tick: called after each.

        Raises:
            OnirisError: a process died.
        """
        rows = sum(len(play.actions) for play in plays)
        workers = min(os.cpu_count() or 1, rows // _ROWS_PER_WORKER)
        found = []
        for made in self._in_processes(plays, workers) if workers > 1 else (_replay(self, play) for play in plays):
            found.append(made)
            tick()
        return found

    def _in_processes(self, plays: list[Play], workers: int) -> Iterator[Replay]:
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
        )
        try:
            # A worker must not be born listening to Ctrl-C before `_start_worker` runs.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            futures = [pool.submit(_replay, self, play) for play in plays]
            signal.signal(signal.SIGINT, handler)
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            raise OnirisError("a process that replays episodes died (out of memory?); run it again") from None
        except BaseException:  # a stop is not to wait for what they are at
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides


def _replay(simulator: Simulator, play: Play) -> Replay:
    env = simulator.make()  # some environments play differently once they have been played in
    try:
        return replay(env, play.seed, play.actions, simulator.frame_skip, simulator.size, simulator.resize, play.redraw)
    finally:
        env.close()
