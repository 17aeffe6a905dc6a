"""What the true simulator says: the truth once more, and what else might have happened. Axes: see `futures`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.process import StopRequest
from oniris_core.common.progress import Meter
from oniris_core.common.seeds import numpy_rng
from oniris_core.data.playing.rollouts import Replay
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet
from oniris_core.evaluation.rollouts.simulator import Play, Simulator
from oniris_core.sampling.params import RenderParams

Progress = Callable[[str, int], AbstractContextManager[Meter]]
"""(name, total) to a meter."""


@dataclass(frozen=True)
class Replays:
    """Frames of the simulator.

    Attributes:
        redrawn: uint8 [K, S, T, H, W, 3], the evaluation set with the noise drawn anew after the context, S times.
        rewards, ends: float32 and bool [K, S, H], of the redrawn ones after the context; ended by then.
        by_action: uint8 [N, A, T, H, W, 3], some of its contexts under constant actions.
    """

    redrawn: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    by_action: np.ndarray


def replay_all(
    simulator: Simulator, chosen: EvaluationSet, params: RenderParams, seed: int, contexts: np.ndarray,
    constants: list[np.ndarray], progress: Progress, stop: StopRequest,
) -> Replays:  # fmt: skip
    """Make the truth again, and if that succeeds what else might have happened.

    Raises:
        UserError: the truth did not come out as recorded.
    """
    K, row = len(chosen.seeds), chosen.last_context_row

    def noise(k: int, sample: int) -> tuple[int, int]:
        return row, int(numpy_rng(seed, "simulator", int(chosen.seeds[k]), sample).integers(2**62))

    futures = [
        *(Play(int(chosen.seeds[k]), chosen.row_actions[k], noise(k, s)) for k in range(K) for s in range(params.samples)),
        *(Play(int(chosen.seeds[k]), by_row(chosen, held(chosen, k, action)), noise(k, 0))
          for k in contexts for action in constants),
    ]  # fmt: skip
    with progress("render: replays of the simulator", K + len(futures)) as meter:

        def tick() -> None:
            stop.raise_if_set()
            meter.advance()

        again = simulator.play([Play(int(s), chosen.row_actions[k]) for k, s in enumerate(chosen.seeds)], tick)
        wrong = [
            k for k, played in enumerate(again)
            if chosen.digest(k, chosen.frames_of(played.frames)) != chosen.digest(k, chosen.truth[k])
        ]  # fmt: skip
        if wrong:
            raise UserError(
                f"replaying {len(wrong)} of {K} episodes (the first: seed {chosen.seeds[wrong[0]]}) gives other frames than "
                f"recorded: {simulator.env_id} is not deterministic, or another version of it"
            )
        played = simulator.play(futures, tick)
    frames = [chosen.frames_of(one.frames) for one in played]
    count, after = K * params.samples, chosen.rows[chosen.context :]
    rewards, ends = zip(*(earned(one, after) for one in played[:count]), strict=True)
    return Replays(_grid(frames[:count], K), _grid(rewards, K), _grid(ends, K), _grid(frames[count:], len(contexts)))


def earned(played: Replay, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rewards, and whether it has ended by then, [H] each, of these rows of a replay: nothing more after its last one."""
    known = np.minimum(rows, len(played.rewards) - 1)
    return np.where(rows == known, played.rewards[known], np.float32(0)), played.ended[known]


def _grid(parts: Sequence[np.ndarray], contexts: int) -> np.ndarray:
    return np.stack(parts).reshape(contexts, -1, *parts[0].shape)


def by_row(chosen: EvaluationSet, actions: np.ndarray) -> np.ndarray:
    """[R, ...]: actions of frames [T, ...] as those of the rows of an episode."""
    return actions[np.searchsorted(chosen.rows, np.arange(chosen.rows[-1] + 1))]


def held(chosen: EvaluationSet, k: int, action: np.ndarray) -> np.ndarray:
    """[T, ...]: the actions of episode k up to the end of the context, then always the same."""
    actions = chosen.actions[k].copy()
    actions[chosen.context :] = action
    return actions
