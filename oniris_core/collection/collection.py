"""Plays many episodes, on this machine or on a Dask cluster. Each finished episode is a file, written here and not by who
played it, so a killed run loses at most those in play and workers need not share the disk."""

import io
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.collection.seats import Seats, dask_seats, local_seats, within
from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.errors import Interrupted, OnirisError, UserError
from oniris_core.common.process import StopRequest
from oniris_core.data.episodes.episode import Episode
from oniris_core.data.playing.environments import make_env, said_of_screen, screen_of
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.playing.policies import load_policy
from oniris_core.data.playing.rollouts import episode_seed, play_episode, repeats_itself

GRACE_S = 1.0
"""How long episodes in play may take to end once the collection stops; who has killed dvc waits for them too."""

LATE_S = 30.0
"""How much later than its time an episode is given up that nothing ended: a worker may have had to be started first."""

_PLAYED_WITH = tuple(
    f"oniris_core.{name}"
    for name in ("common.seeds", "collection.collection", "data.playing.environments", "data.playing.heuristics",
                 "data.playing.params", "data.playing.policies", "data.playing.rollouts", "data.playing.watchers",
                 "data.rows.actions")
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Episode `index` is a file now, or was left out because of `failure`."""

    index: int
    failure: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of the environment from the episodes that were played.

    Attributes:
        lengths: int64 [E], rows of each.
        screen: height and width it renders, pixels.
        said: what was done to its screen that a person may not expect, or nothing.
        deterministic: whether the first rows of the first episode came out the same twice; None if that one was left out.
    """

    lengths: np.ndarray
    screen: tuple[int, int]
    deterministic: bool | None
    said: str


def episode_file(folder: Path, index: int) -> Path:
    """Where episode `index` waits until the store is written."""
    return folder / f"episode_{index:06d}.npz"


def load_episode(path: Path) -> Episode:
    """An episode written by `collect_episodes`; the zip format checks its CRC."""
    with np.load(path, allow_pickle=False) as archive:
        values = {field.name: archive[field.name] for field in fields(Episode)}
    return Episode(**{**values, "seed": int(values["seed"])})


def dump_episode(episode: Episode, **facts: Any) -> bytes:
    """The content of an episode's file, with facts that `read_facts` will want."""
    data = io.BytesIO()
    np.savez_compressed(data, **{field.name: getattr(episode, field.name) for field in fields(Episode)}, **facts)
    return data.getvalue()


def read_facts(files: list[Path]) -> Facts:
    """What the episode files tell without their frames.

    Raises:
        UserError: there is none, or the screens of two episodes differ in size.
    """
    if not files:
        raise UserError("every episode failed: there is nothing to write")
    lengths, screens, deterministic, said = [], [], None, ""
    for file in files:
        with np.load(file, allow_pickle=False) as archive:
            lengths.append(len(archive["rewards"]))
            screens.append(tuple(archive["screen"].tolist()))
            said = str(archive["said"]) if "said" in archive else ""
            deterministic = bool(archive["deterministic"]) if "deterministic" in archive else deterministic
    if other := next((screen for screen in screens if screen != screens[0]), None):
        raise UserError(f"the screen is {screens[0][0]} x {screens[0][1]} pixels in one episode and {other[0]} x {other[1]} in "
                        "another; it must stay the same")  # fmt: skip
    return Facts(np.array(lengths), screens[0], deterministic, said)


def collect_episodes(
    params: CollectParams, seed: int, folder: Path, stop: StopRequest, policy_sha256: str = ""
) -> Iterator[Outcome]:
    """Play all episodes that `folder` does not hold yet; yield each as its file is complete, in no set order.

    An episode whose process dies is played once more in a new one. One that fails again, takes too long or raises is left
    out if `failures_allowed` allows it; otherwise no new ones are started, those in play are finished and kept.

    Raises:
        Interrupted: `stop` was set; the finished episodes remain.
        UserError: the environment or the policy is unfit.
        OnirisError: an episode failed; the line names it and its seed.
    """
    missing = [i for i in range(params.episodes) if not episode_file(folder, i).exists()]
    if not missing:
        return
    with _seats(params, len(missing)) as seats:
        yield from _Collection(params, seed, folder, seats, policy_sha256).run(deque(missing), stop)


def _seats(params: CollectParams, episodes: int) -> AbstractContextManager[Seats]:
    if params.dask_address:
        return dask_seats(params.dask_address, _PLAYED_WITH)
    return local_seats(min(params.workers or os.cpu_count() or 1, episodes))


@dataclass(frozen=True)
class _Task:
    index: int
    seat: int
    started: float


class _Collection:
    """One run over the missing episodes."""

    def __init__(self, params: CollectParams, seed: int, folder: Path, seats: Seats, policy_sha256: str):
        self._params, self._seed, self._folder, self._seats, self._sha = params, seed, folder, seats, policy_sha256
        self._running: dict[Future[bytes], _Task] = {}
        self._free = list(range(len(seats)))
        self._deaths: Counter[int] = Counter()
        self._failures = 0
        self._end: OnirisError | Interrupted | None = None  # why no new episodes are started
        self._end_at = 0.0

    def run(self, todo: deque[int], stop: StopRequest) -> Iterator[Outcome]:
        while True:
            if self._end is None:
                self._fill(todo)
            if not self._running or (self._end and time.monotonic() > self._end_at + GRACE_S):
                break
            done, _ = wait(self._running, timeout=0.5, return_when=FIRST_COMPLETED)
            if stop.signal_number is not None:
                self._stop(Interrupted(stop.signal_number))
            ended = [(self._running.pop(future), future) for future in done]
            self._free += [task.seat for task, _ in ended]
            outcomes = [(task, self._judge(task, future, todo)) for task, future in ended]
            if self._end is None:
                self._fill(todo)  # before anything is written, so that no worker waits for the disk
            for task, outcome in outcomes:
                if isinstance(outcome, bytes):
                    atomic_write(episode_file(self._folder, task.index), outcome)
                    yield Outcome(task.index)
                elif outcome:
                    yield Outcome(task.index, outcome)
            self._give_up_hung()
        if self._end:
            raise self._end

    def _fill(self, todo: deque[int]) -> None:
        # A process may be started here; it must not be born listening to Ctrl-C before `_start_worker` runs.
        main = threading.current_thread() is threading.main_thread()
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        while self._free and todo:
            index, seat = todo.popleft(), self._free.pop()
            limit = self._params.episode_timeout_s if self._seats.is_local else 0.0
            future = self._seats.submit(seat, _play, self._params, self._seed, index, self._sha, limit)
            self._running[future] = _Task(index, seat, time.monotonic())
        if main:
            signal.signal(signal.SIGINT, handler)

    def _judge(self, task: _Task, future: Future[bytes], todo: deque[int]) -> bytes | str:
        """The episode's bytes; or why it is left out; or "" if that is not so, or not yet."""
        try:
            return future.result()
        except BrokenExecutor:
            ended_by = self._seats.renew(task.seat)
            if ended_by == signal.SIGALRM:
                return self._failed(task, self._too_long())
            self._deaths[task.index] += 1
            if self._deaths[task.index] == 1:
                todo.appendleft(task.index)
                return ""
            name = signal.Signals(ended_by).name if ended_by else "which ended itself"
            return self._failed(
                task, f"killed its process twice ({name}: a crash in the environment's own code, or out of memory)"
            )
        except UserError as error:
            self._stop(error)
        except CancelledError:
            self._stop(OnirisError("the Dask cluster was lost; the same command goes on with the rest"))
        except Exception as error:  # whatever the environment raises, and Dask's word for a worker that died too often
            if type(error).__name__ == "KilledWorker":
                return self._failed(task, "killed its Dask worker again and again")
            return self._failed(task, f"failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return ""

    def _too_long(self) -> str:
        return f"took longer than collect.episode_timeout_s = {self._params.episode_timeout_s:g} s"

    def _failed(self, task: _Task, why: str) -> str:
        self._failures += 1
        if self._failures <= self._params.failures_allowed:
            return why
        self._stop(OnirisError(
            f"episode {task.index} (reset seed {episode_seed(self._seed, task.index)}) {why}; the finished ones are kept: "
            "the same command goes on, collect.failures_allowed leaves such episodes out"
        ))  # fmt: skip
        return ""

    def _give_up_hung(self) -> None:
        for task in self._running.values():
            if time.monotonic() - task.started > self._params.episode_timeout_s + LATE_S:
                self._failures = self._params.failures_allowed  # its seat is lost, so it counts more than one left out
                self._failed(task, self._too_long())
                self._end_at = 0.0
                return

    def _stop(self, why: OnirisError | Interrupted) -> None:
        if self._end is None:
            self._end, self._end_at = why, time.monotonic()


def _play(params: CollectParams, seed: int, index: int, policy_sha256: str, limit_s: float) -> bytes:
    if limit_s:
        return within(limit_s, _play, params, seed, index, policy_sha256, 0.0)
    make_policy = _loaded(params.policy, policy_sha256) if params.policy else None
    # A new one for each episode: some, as BipedalWalker-v3, play differently in a world that was played in before.
    with closing(_environment(params)) as env:
        episode = play_episode(env, params, seed, index, make_policy)
        facts: dict[str, Any] = {"screen": screen_of(env).shape[:2], "said": said_of_screen(env)}
    if index == 0:
        with closing(_environment(params)) as env:
            facts["deterministic"] = repeats_itself(env, params, seed, index, make_policy, episode)
    return dump_episode(episode, **facts)


def _environment(params: CollectParams) -> gym.Env:
    return make_env(params.env_id, params.env_kwargs, params.import_code, params.wrapper_calls, params.import_code)


_loaded = cache(load_policy)
"""A policy is loaded once by each worker."""
