"""What the stage `policy` hands over: the policy, its measures, the curve of inside against outside, a landing.

Axes: T frames, H, W; E episodes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from stable_baselines3 import PPO

from oniris_core.common.artefacts.figures import save_figure
from oniris_core.common.artefacts.files import staged_folder, to_json
from oniris_core.environment.parts import Parts
from oniris_core.environment.truth import TrueVectorEnv
from oniris_core.evaluation.report.page import Exhibit, page
from oniris_core.evaluation.report.videos import write_video
from oniris_core.evaluation.scores.intervals import Bootstrap, add
from oniris_core.policy.judge import Act
from oniris_core.policy.player_file import write_player
from oniris_core.sampling.stepper import Stepper

CURVE_CAPTION = (
    "The mean return of the policy in dreams and in the simulator, from the same moments and over the same number of frames: "
    "where they part, the policy makes use of the model's errors."
)
CURVE = ("decisions", "inside", "outside")
RESAMPLES = 2000
SHOWN_PIXELS = 256
"""A frame is shown at least about this large."""


@dataclass
class Judgement:
    """What was measured.

    Attributes:
        returns: of each player the returns [E] of whole episodes.
        curve: by `decisions` of the training the mean return `inside` and `outside` from the same moments, over the horizon.
        misread: float64 [S], the median error of the policy's eye in each number of a state, in held-out episodes, as a share
            of the number's standard deviation; empty: the policy has no such eye.
        left_out: what was not measured, and why.
        video: uint8 [T, H, 2 W, 3], true frames beside the dream of them; None: no episode was played.
    """

    returns: dict[str, np.ndarray] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    misread: np.ndarray = field(default_factory=lambda: np.zeros(0))
    left_out: dict[str, str] = field(default_factory=dict)
    video: np.ndarray | None = None

    def metrics(self, seed: int) -> dict[str, float | int]:
        """By name: mean returns with 95 % intervals over episodes, and the end of the curve."""
        found: dict[str, float | int] = {}
        for name, returns in self.returns.items():
            add(found, f"{name}/return", Bootstrap(len(returns), RESAMPLES, seed).mean(returns))
        found |= {f"eye/median_error/{number}": round(float(error), 4) for number, error in enumerate(self.misread)}
        if self.curve:
            last = self.curve[-1]
            found |= {
                "training/decisions": last["decisions"],
                "inside/return": round(last["inside"], 4),
                "outside/return": round(last["outside"], 4),
            }
        return found


def film(
    truth: TrueVectorEnv, act: Act, stepper: Stepper, seed: int, context_latents: int, tick: Callable[[], None]
) -> np.ndarray:
    """An episode of the simulator beside what the model dreams of it, from its first frames, under the same actions.

    Args:
        truth: one environment with one action a decision.
        act: who plays.
        stepper: of the model.
        seed: of the episode.
        context_latents: true latent frames after the reset frame that the dream starts from.
        tick: called after each step; may raise to stop.

    Returns:
        uint8 [T, H, 2 W, 3].
    """
    c, (seen, _) = truth.group, truth.reset(seed=[seed])
    groups, actions, over = [truth.frames[0, -1:].copy()], list[np.ndarray](), False
    while not over:
        action = act(seen)
        seen, _, terminated, truncated, _ = truth.step(action)
        groups.append(truth.frames[0].copy())
        actions.append(np.repeat(action, c, axis=0))
        over = bool(terminated[0] or truncated[0])
        tick()
    known = min(context_latents, len(actions))
    true = np.concatenate(groups)
    led = np.concatenate([actions[0][:1], *actions])  # any action will do for the reset
    moment, _ = stepper.begin(true[None, : 1 + known * c], led[None, : 1 + known * c])
    dreamt = [true[: 1 + known * c]]
    for action in actions[known:]:
        moment, frames = stepper.step(moment, action[None], [seed])
        dreamt.append(frames[0])
        tick()
    return np.concatenate([true, np.concatenate(dreamt)], axis=2)


def write_policy(out: Path, parts: Parts, policy: PPO, record: dict[str, Any]) -> None:
    """Write policy.zip, as Stable-Baselines3 saves it, policy.pt2 for `collect.policy` if it sees latents, and config.json."""
    with staged_folder(out, "policy") as folder:
        policy.save(folder / "policy.zip")
        if policy.observation_space.dtype != np.uint8:
            write_player(folder / "policy.pt2", parts, policy)
        (folder / "config.json").write_text(to_json(record))


def write_policy_report(out: Path, found: Judgement, env_id: str, seed: int, frames_per_second: float) -> None:
    """Write metrics.json, left_out.json, returns.json, curve.csv, curve.png, the video and index.html.

    Raises:
        OnirisError: ffmpeg is missing or fails.
    """
    metrics = found.metrics(seed)
    with staged_folder(out, "report") as folder:
        (folder / "metrics.json").write_text(to_json(metrics))
        (folder / "left_out.json").write_text(to_json(found.left_out))
        (folder / "returns.json").write_text(json.dumps({name: list(values) for name, values in found.returns.items()}))
        rows = [",".join(CURVE), *(",".join(f"{point[name]:.6g}" for name in CURVE) for point in found.curve)]
        (folder / "curve.csv").write_text("\n".join(rows) + "\n")
        save_figure(curve_figure(found), folder / "curve.png")
        data = (folder / "curve.png").read_bytes()
        pictures = [Exhibit("curve.png", data, "Return inside against return outside", CURVE_CAPTION, wide=True)]
        videos = []
        if found.video is not None:
            upscale = max(SHOWN_PIXELS // found.video.shape[1], 1)
            large = (frame.repeat(upscale, 0).repeat(upscale, 1) for frame in found.video)
            write_video(folder / "best.mp4", large, frames_per_second)
            caption = (
                "Left the simulator, in the best of the episodes judged; right the dream of it under the same actions."
            )
            videos.append(Exhibit("best.mp4", (folder / "best.mp4").read_bytes(), "Best episode", caption, wide=True))
        notes = [f"Not measured: {name}: {reason}" for name, reason in found.left_out.items()]
        title = f"Oniris: a policy for {env_id}, trained in dreams of it"
        (folder / "index.html").write_text(page(title, metrics, pictures, videos, notes))


def curve_figure(found: Judgement) -> Figure:
    """Return inside and outside by decisions of the training."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    if found.curve:
        decisions, inside, outside = ([point[name] for point in found.curve] for name in CURVE)
        axis.plot(decisions, inside, marker="o", label="in dreams")
        axis.plot(decisions, outside, marker="o", label="in the simulator")
        axis.legend()
    axis.set(xlabel="decisions trained for", ylabel="return, over the horizon of a dream")
    axis.grid(alpha=0.3)
    return figure
