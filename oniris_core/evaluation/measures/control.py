"""Does the model obey? The action probe on generated groups, beside what it says of the truth and of reconstructions.

Axes: K episodes, G groups of an episode, N groups in all.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from oniris_core.data.rows.actions import ActionSpec
from oniris_core.evaluation.probes.inverse_dynamics import ActionProbe, Answers, choices, chosen, groups_of, targets
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.evaluation.scores.intervals import Bootstrap, Estimate, add


@dataclass(frozen=True)
class Control:
    """What the probe says.

    Attributes:
        name: of the measure: action_accuracy, or action_r2 for a box of values (1 - squared error / variance).
        scores: by candidate: rollout, truth, reconstructed, other_actions (all against the recorded actions).
        blind: what always giving the same answer would score.
        confusion: int [recorded, read off] of the rollout, last column: object not found; None but for one discrete choice.
        features: by candidate float32 [N, F], the probe's features of the groups it could read.
        names: of the choices.
    """

    name: str
    scores: dict[str, Estimate]
    blind: float
    confusion: np.ndarray | None
    features: dict[str, np.ndarray]
    names: list[str]


def measure_control(
    probe: ActionProbe, rollouts: Rollouts, c: int, bootstrap: Bootstrap
) -> tuple[Control | None, str | None]:
    """Ask the probe about every generated group that has an answer and whose truth it can read; or say why not."""
    K, context = len(rollouts.truth), rollouts.context
    alive = rollouts.alive[:, context::c]  # [K, G]
    actions = rollouts.actions[:, context:]
    wanted, steady = targets(probe.spec, actions.reshape(-1, c, *actions.shape[2:]))
    videos = {
        "truth": rollouts.truth, "reconstructed": rollouts.reconstructed, "rollout": rollouts.generated,
        **({"other_actions": rollouts.other_actions} if K > 1 else {}),
    }  # fmt: skip
    answers = {name: ask(probe, video, context, c) for name, video in videos.items()}
    rows = {name: rollouts.contexts if name == "other_actions" else np.arange(K) for name in videos}  # their episodes
    asked = alive.ravel() & steady & answers["truth"].readable
    if not asked.any():
        return None, "no group of the evaluation set has an answer that can be read off the truth"
    sizes = choices(probe.spec)
    mean = wanted[asked].mean(0)

    def score(answer: Answers, of: np.ndarray) -> Estimate:
        """Of groups whose object was lost nothing is known: they count as wrong, or as the mean."""

        def mine(values: np.ndarray) -> np.ndarray:
            return values.reshape(K, -1, *values.shape[1:])[of].reshape(-1, *values.shape[1:])

        def by_episode(values: np.ndarray) -> np.ndarray:
            total = np.zeros(K)
            total[of] = (values * mine(asked)).reshape(len(of), -1).sum(1)
            return total

        if sizes:
            right = (chosen(probe.spec, answer.outputs) == mine(wanted)).mean(1) * answer.readable
            return bootstrap.ratio(by_episode(right), by_episode(np.ones(len(right))))
        told = np.where(answer.readable[:, None], answer.outputs, mean)
        error, variance = (by_episode(np.square(values - mine(wanted)).sum(1)) for values in (told, mean))
        found = bootstrap.ratio(error, variance)
        return Estimate(1 - found.value, 1 - found.high, 1 - found.low)

    confusion = None
    if probe.spec.kind == "discrete":
        answer = answers["rollout"]
        said = np.where(answer.readable, chosen(probe.spec, answer.outputs)[:, 0], sizes[0])
        confusion = np.zeros((sizes[0], sizes[0] + 1), np.int64)
        np.add.at(confusion, (wanted[asked, 0], said[asked]), 1)
    commonest = [np.bincount(part).max() / asked.sum() for part in wanted[asked].T] if sizes else [0.0]
    scores = {name: score(answer, rows[name]) for name, answer in answers.items()}
    own, blind = float(scores["truth"].value), float(np.mean(commonest))
    if not own > blind:
        return None, (
            f"the action probe itself reads {own:.2f} off the true frames, no more than the {blind:.2f} of always giving "
            "the same answer: raise render.probe_steps or collect more"
        )
    features = {name: answer.features[answer.readable & alive[rows[name]].ravel()] for name, answer in answers.items()}
    return Control(
        "action_accuracy" if sizes else "action_r2", scores, blind, confusion, features, _names(probe.spec)
    ), None


def _names(spec: ActionSpec) -> list[str]:
    return [str(value) for value in spec.start[0] + np.arange(spec.sizes[0])] if spec.kind == "discrete" else []


def ask(probe: ActionProbe, videos: np.ndarray, first: int, c: int) -> Answers:
    """Answers about all groups of videos [K, T, H, W, 3] from frame `first` on, video by video."""
    parts = [probe(groups_of(video, first, c)) for video in videos]
    return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def control_metrics(control: Control) -> dict[str, float | int]:
    """`control/action_accuracy` of the rollouts with its interval, and what it is to be compared with."""
    metrics: dict[str, float | int] = {}
    for name, found in control.scores.items():
        end = "" if name == "rollout" else f"_{name}"
        add(metrics, f"control/{control.name}{end}", found)
    return {**metrics, f"control/{control.name}_blind": round(control.blind, 4)}


def confusion_table(confusion: np.ndarray | None, names: list[str]) -> str:
    """CSV as `dvc plots` wants it for a confusion matrix: one row per group, its action and what was read off."""
    columns = [*names, "not found"]
    rows = (
        []
        if confusion is None
        else [
            f"{actual},{predicted}"
            for actual, counts in zip(names, confusion, strict=True)
            for predicted, count in zip(columns, counts, strict=True)
            for _ in range(count)
        ]
    )
    return "\n".join(["actual,predicted", *rows]) + "\n"


def confusion_figure(confusion: np.ndarray | None, names: list[str]) -> Figure:
    """Rows: the action given; columns: the action the generated frames show; shares of the row, and counts.

    Where there is none the picture says so, because `dvc plots` expects one.
    """
    if confusion is None:
        figure = Figure(figsize=(4, 1), layout="constrained")
        figure.text(0.5, 0.5, "not measured: see left_out.json", ha="center")
        return figure
    figure = Figure(figsize=(1.6 + 0.7 * len(names), 1.2 + 0.6 * len(names)), layout="constrained")
    axis = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        dark = shares[row, column] > 0.5
        axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set(
        title="generated groups", xlabel="action read off the frames", ylabel="action given",
        xticks=range(len(names) + 1), xticklabels=[*names, "not\nfound"], yticks=range(len(names)), yticklabels=names,
    )  # fmt: skip
    return figure
