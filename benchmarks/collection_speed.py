"""How fast episodes are collected: the rate with more processes against that with one, and where the time of an episode goes.

    python -m benchmarks.collection_speed
    python -m benchmarks.collection_speed --env-id CartPole-v1 --processes 1,2,4

Rates are of whole runs of the stage's loop, the start of the processes among them (about a second each: few episodes measure
little else); each repetition is a run with every number of processes. The parts are measured in this process.
"""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import typer

from benchmarks.harness import PARAMS_FILE, print_table
from oniris_core.collection.collection import collect_episodes, dump_episode, episode_file, load_episode
from oniris_core.common.process import StopRequest
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.data.episodes.store import write_episodes
from oniris_core.data.playing import rollouts
from oniris_core.data.playing.environments import make_env
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.rows.actions import action_spec


def collected(params: CollectParams) -> tuple[float, np.ndarray]:
    """Seconds that the collection takes, and the rows of each episode."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for _ in collect_episodes(params, 0, Path(folder), StopRequest()):
            pass
        seconds = time.perf_counter() - start
        files = [episode_file(Path(folder), index) for index in range(params.episodes)]
        return seconds, np.array([len(np.load(file)["rewards"]) for file in files])


def parts(params: CollectParams) -> dict[str, float]:
    """Seconds for each part of collecting all episodes, one after another in this process."""
    seconds: Counter[str] = Counter()

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[part] += time.perf_counter() - start

    def timing(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with timed(part):
                return work(*arguments, **options)

        return run

    with ExitStack() as stack:
        for part, name in (("render", "screen_of"), ("resize", "fit_screen")):
            stack.enter_context(patch.object(rollouts, name, timing(part, getattr(rollouts, name))))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        episodes = []
        for index in range(params.episodes):
            with timed("make and reset"):
                env = make_env(
                    params.env_id, params.env_kwargs, params.import_code, params.wrapper_calls, params.import_code
                )
            for part, name in (("make and reset", "reset"), ("step", "step")):
                setattr(env, name, timing(part, getattr(env, name)))
            with timed("all"):
                episode = rollouts.play_episode(env, params, 0, index)
            with timed("compress"):
                content = dump_episode(episode)
            with timed("store"):
                episode_file(folder, index).write_bytes(content)
                episodes.append(load_episode(episode_file(folder, index)))
        rows, split = sum(len(episode.frames) for episode in episodes), np.zeros(len(episodes), np.uint8)
        about = {"action_spec": action_spec(gym.make(params.env_id).action_space).to_json()}
        with timed("store"):
            write_episodes(folder / "store.zarr", episodes, rows, split, about)
    inside = seconds["step"] + seconds["render"] + seconds["resize"]
    seconds["rest"] = max(seconds.pop("all") - inside, 0.0)
    return dict(seconds)


def main(
    env_id: Annotated[str, typer.Option(help="environment; empty: that of the parameter file")] = "",
    episodes: Annotated[int, typer.Option(help="episodes of each run")] = 200,
    max_frames: Annotated[int, typer.Option(help="frames of an episode at most; 0: as in the parameter file")] = 0,
    size: Annotated[int, typer.Option(help="height and width of a frame, pixels; 0: as in the parameter file")] = 0,
    processes: Annotated[str, typer.Option(help="numbers of worker processes to compare with the first")] = "1,2",
    repetitions: Annotated[int, typer.Option(help="timed repetitions of each case; the median counts")] = 3,
    parameters: Annotated[
        Path, typer.Option("--params", help="the parameter file whose section `collect` is played")
    ] = PARAMS_FILE,
) -> None:
    """Rate of collection by number of processes, and the parts of its time."""
    changes: dict[str, Any] = {"episodes": episodes}
    changes |= {"env_id": env_id} if env_id else {}
    changes |= {"max_frames": max_frames} if max_frames else {}
    changes |= {"size": [size, size]} if size else {}
    params = load_section(CollectParams, "collect", read_yaml(parameters), parameters, changes)
    counts = [int(count) for count in processes.split(",")]
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    lengths = np.zeros(1, np.int64)
    for _ in range(repetitions):
        for count in counts:
            taken, lengths = collected(params.model_copy(update={"workers": count}))
            seconds[count].append(taken)
    rate = {count: lengths.sum() / statistics.median(seconds[count]) for count in counts}
    print(f"\n{params.env_id}: {len(lengths)} episodes of {lengths.min()} to {lengths.max()} frames (median "
          f"{np.median(lengths):.0f}), {params.height} x {params.width} pixels, frame_skip {params.frame_skip}\n")  # fmt: skip
    print_table(
        ["processes", "frames/s", "x first"],
        [[str(count), f"{rate[count]:.0f}", f"{rate[count] / rate[counts[0]]:.2f}"] for count in counts],
    )
    split = parts(params)
    print()
    print_table(
        ["part", "ms/frame", "share"],
        [
            [part, f"{1e3 * value / lengths.sum():.3f}", f"{value / sum(split.values()):.1%}"]
            for part, value in split.items()
        ],
    )


if __name__ == "__main__":
    typer.run(main)
