"""Plays many episodes in worker processes. Each finished episode is a file, so a killed run loses at most those in play."""

import io
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path

import numpy as np

from oniris_core.common.errors import OnirisError
from oniris_core.common.files import atomic_write
from oniris_core.common.process import StopRequest, die_with_parent
from oniris_core.config.collect import CollectParams
from oniris_core.data.environments import make_env
from oniris_core.data.episode import Episode
from oniris_core.data.rollouts import play_episode

_env = None  # one environment per worker process, made by its first episode


def episode_file(folder: Path, index: int) -> Path:
    """Where episode `index` waits until the store is written."""
    return folder / f"episode_{index:06d}.npz"


def load_episode(path: Path) -> Episode:
    """An episode written by `collect_episodes`; the zip format checks its CRC."""
    with np.load(path, allow_pickle=False) as archive:
        values = {field.name: archive[field.name] for field in fields(Episode)}
    return Episode(**{**values, "seed": int(values["seed"])})


def collect_episodes(params: CollectParams, seed: int, folder: Path, stop: StopRequest) -> Iterator[int]:
    """Play all episodes that `folder` does not hold yet; yield each index as its file is complete, in no set order.

    Raises:
        Interrupted: `stop` was set; the finished episodes remain.
        OnirisError: a worker process died.
    """
    missing = [i for i in range(params.episodes) if not episode_file(folder, i).exists()]
    workers = min(params.workers or os.cpu_count() or 1, max(len(missing), 1))
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    )
    try:
        todo, running = iter(missing), set[Future[int]]()
        while True:
            # A worker may be started here; it must not be born listening to Ctrl-C before `_start_worker` runs.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            for index in todo:
                running.add(pool.submit(_play, params, seed, index, folder))
                if len(running) >= 4 * workers:
                    break
            signal.signal(signal.SIGINT, handler)
            if not running:
                return
            done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            stop.raise_if_set()
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise OnirisError("a worker process died (out of memory?); the same command goes on with the rest") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides


def _play(params: CollectParams, seed: int, index: int, folder: Path) -> int:
    global _env
    if _env is None:
        _env = make_env(params.env_id, params.env_kwargs, params.import_env_module)
    episode = play_episode(_env, params, seed, index)
    data = io.BytesIO()
    np.savez_compressed(data, **{field.name: getattr(episode, field.name) for field in fields(Episode)})
    atomic_write(episode_file(folder, index), data.getvalue())
    return index
