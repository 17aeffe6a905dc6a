"""All measures of the stage `render`, one after the other. Axes: K episodes, D dreams, N contexts, S samples, T frames."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from oniris_core.common.errors import UserError
from oniris_core.common.process import StopRequest
from oniris_core.common.progress import Meter
from oniris_core.common.seeds import numpy_rng
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.rows.clips import TRAIN
from oniris_core.evaluation.measures.control import (
    Control,
    confusion_figure,
    confusion_table,
    control_metrics,
    measure_control,
)
from oniris_core.evaluation.measures.drift import Dreams, drift_figure, drift_metrics, drift_table, measure_dreams
from oniris_core.evaluation.measures.futures import compare_spread, constant_actions, spread
from oniris_core.evaluation.measures.horizons import (
    Curves,
    LearnedQuantity,
    flat_metrics,
    horizon_figure,
    measure,
    position_in_group,
    table,
)
from oniris_core.evaluation.measures.learned_states import learn
from oniris_core.evaluation.measures.outcomes import Told, measure_outcomes
from oniris_core.evaluation.measures.told_apart import Verdict, measure_told_apart
from oniris_core.evaluation.probes.inverse_dynamics import ActionProbe, train_probe
from oniris_core.evaluation.probes.states.reader import StateReader
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet
from oniris_core.evaluation.rollouts.replays import Progress, Replays, held, replay_all
from oniris_core.evaluation.rollouts.rollouts import Dreamer, Rollouts, roll_out
from oniris_core.evaluation.rollouts.simulator import Simulator
from oniris_core.evaluation.scores.frechet import frechet_distance
from oniris_core.evaluation.scores.intervals import Bootstrap
from oniris_core.sampling.params import RenderParams

PROBES = 3
"""Networks that read actions off frames, or tell generated frames from true ones: their answers are averaged."""

SPREAD_HORIZONS = (4, 16, 32)

RESAMPLES = 1000
"""Of the episodes, for the 95 % intervals."""


@dataclass(frozen=True)
class Futures:
    """Contexts under constant actions.

    Attributes:
        by_action: uint8 [N, A, T, H, W, 3], of some contexts, with the noise of their first samples.
        names: [A], of the actions.
    """

    by_action: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was generated and measured.

    Attributes:
        metrics: flat, numbers only.
        left_out: what was not measured, and why.
        rollouts, futures, dreams: what pictures are made of.
        curves: by horizon.
        verdict: what tells generated crops from true ones; None where there is nothing to tell apart.
        tables: CSV by name, figures by name.
    """

    metrics: dict[str, float | int]
    left_out: dict[str, str]
    rollouts: Rollouts
    futures: Futures
    dreams: Dreams
    curves: Curves
    verdict: Verdict | None
    tables: dict[str, str]
    figures: dict[str, Figure]


def headline(metrics: dict[str, float | int]) -> str:
    """The few measures a person asks for first, those that there are, with their intervals."""
    measures = ("skill", "spread_over_error", "position_px", "found", "psnr")
    names = [f"rollout/{measure}@{h}" for h in (8, 16) for measure in measures]
    said = []
    for name in (
        *names,
        "told_apart/accuracy",
        "control/action_accuracy",
        "control/action_r2",
        "diversity/ratio@16",
        "drift/finite",
    ):
        if name in metrics:
            low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
            said.append(
                f"{name} {metrics[name]:.3g}" + ("" if low is None or high is None else f" ({low:.3g} to {high:.3g})")
            )
    return ", ".join(said)


def make_futures(dreamer: Dreamer, chosen: EvaluationSet, contexts: np.ndarray) -> Futures:
    """Continue contexts [N] under each constant action."""
    names, constants = zip(*constant_actions(dreamer.latents.action_spec).items(), strict=True)
    jobs = [(k, held(chosen, k, action)) for k in contexts for action in constants]
    actions, of = np.stack([a for _, a in jobs]), [k for k, _ in jobs]
    future = actions[:, chosen.context :], [dreamer.noise_seed(seed) for seed in chosen.seeds[of]]
    (frames,), _ = dreamer.continue_(chosen.episodes[of], actions[:, : chosen.context], [future])
    return Futures(frames.reshape(len(contexts), len(constants), *frames.shape[1:]), list(names))


def dream_actions(store: EpisodeStore, count: int, frames: int, c: int, seed: int) -> np.ndarray:
    """[D, T, ...]: the actions of whole groups of training episodes, one episode after another in random order."""
    lengths = np.diff(store.episode_ends, prepend=0)
    long_enough = [e for e in store.episodes(TRAIN) if lengths[e] > c] or np.flatnonzero(lengths > c)
    found = []
    for dream in range(count):
        parts, total = list[np.ndarray](), 0
        order = numpy_rng(seed, "dream_actions", dream)
        while total < frames:
            start, end = store.bounds(int(order.choice(long_enough)))
            parts.append(store.actions[start + 1 : start + 1 + (end - start - 1) // c * c])
            total += len(parts[-1])
        found.append(np.concatenate(parts)[:frames])
    return np.stack(found)


def evaluate(
    params: RenderParams, chosen: EvaluationSet, store: EpisodeStore, states: np.ndarray, dreamer: Dreamer,
    reader: StateReader | None, *, seed: int, progress: Progress, stop: StopRequest,
    bind: Callable[[Meter], None],
) -> Evaluation:  # fmt: skip
    """Generate and measure all there is to.

    Args:
        params: what and how much.
        chosen: the evaluation set.
        store, states: the episodes, and their recorded states [N, S] (S may be 0).
        dreamer: the models.
        reader: of the environment's frames; None: generic measures only.
        seed: of everything drawn here; the noise of the rollouts is the dreamer's.
        progress: makes a meter.
        stop: looked at between two units of work.
        bind: told of the meter that the dreamer's ticks belong to.
    """
    c, T = chosen.c, chosen.truth.shape[1]
    horizon = T - chosen.context
    longest_first = np.argsort(-chosen.groups, kind="stable")
    contexts = np.sort(longest_first[: params.action_contexts])
    constants = list(constant_actions(store.action_spec).values())
    left_out: dict[str, str] = {}

    replays: Replays | None = None
    try:
        simulator = Simulator.of(store, params.import_code)
        replays = replay_all(simulator, chosen, params, seed, contexts, constants, progress, stop)
    except UserError as error:
        left_out["floor"] = str(error)

    probe, learned = _learn(params, store, states, reader, c, seed, dreamer, progress, stop)
    if probe is None:
        left_out["control"] = "no group of the training episodes has an answer that can be read"

    frames_of_dreams = -(-params.dream_frames // c) * c
    rolled = len(chosen.seeds) * params.samples + len(contexts) * (1 + len(constants))
    with progress("render: latent frames", rolled * (horizon // c) + params.dreams * frames_of_dreams // c) as meter:
        bind(meter)
        rollouts = roll_out(dreamer, chosen, params.samples, contexts)
        futures = make_futures(dreamer, chosen, contexts)
        future = dream_actions(store, params.dreams, frames_of_dreams, c, seed)
        dreams = measure_dreams(dreamer, chosen, future, reader, probe)

    bootstrap = Bootstrap(len(chosen.seeds), RESAMPLES, seed)
    curves = measure(rollouts, replays.redrawn if replays else None, reader, learned, bootstrap)
    left_out |= curves.left_out
    metrics = {**flat_metrics(curves), **position_in_group(rollouts, c)}
    metrics["rollout/finite"] = round(float(rollouts.finite.mean()), 4)

    again = Told(replays.rewards, replays.ends.astype(np.float32)) if replays else None
    found_outcomes, reasons = measure_outcomes(dreamer, chosen, store, rollouts, again, bootstrap)
    metrics |= found_outcomes
    left_out |= reasons

    control, reason = (None, None) if probe is None else measure_control(probe, rollouts, c, bootstrap)
    if reason:
        left_out["control"] = reason
    if control is not None:
        metrics |= {**control_metrics(control), **_frechet(control)}
    simulated = None
    if replays is not None:
        simulated = dreamer.through_vae(replays.redrawn[:, 0]), dreamer.through_vae(replays.redrawn[:, 1])
    told, reasons, verdict = measure_told_apart(
        rollouts, simulated, reader, c, bootstrap,
        # Half as many steps as for actions: there are fewer crops to learn from.
        probes=PROBES, steps=-(-params.probe_steps // 2), seed=seed,
        device=dreamer.stepper.device, progress=progress, stop=stop,
    )  # fmt: skip
    metrics |= told
    left_out |= reasons
    of_dreams = Bootstrap(params.dreams, RESAMPLES, seed)
    metrics |= drift_metrics(dreams, control, of_dreams)

    at = [h for h in SPREAD_HORIZONS if h <= horizon]
    for name, ours, theirs, alive in (
        ("diversity", rollouts.samples, replays.redrawn if replays else None, chosen.alive),
        ("separation", futures.by_action, replays.by_action if replays else None, None),
    ):
        known = None if theirs is None else spread(theirs, reader, alive)
        of_contexts = Bootstrap(len(ours), RESAMPLES, seed)
        found, reasons = compare_spread(name, spread(ours, reader, alive), known, chosen.context, at, of_contexts)
        metrics |= found
        left_out |= reasons

    confusion, names = (None, list[str]()) if control is None else (control.confusion, control.names)
    tables = {
        "horizons": table(curves),
        "drift": drift_table(dreams, control, of_dreams),
        "confusion": confusion_table(confusion, names),
    }
    figures = {
        "horizons": horizon_figure(curves),
        "drift": drift_figure(dreams, control, of_dreams),
        "confusion": confusion_figure(confusion, names),
    }
    return Evaluation(metrics, left_out, rollouts, futures, dreams, curves, verdict, tables, figures)


def _learn(
    params: RenderParams, store: EpisodeStore, states: np.ndarray, reader: StateReader | None, c: int, seed: int,
    dreamer: Dreamer, progress: Progress, stop: StopRequest,
) -> tuple[ActionProbe | None, list[LearnedQuantity]]:  # fmt: skip
    """The action probe, and readers of what has to be learned from recorded states."""
    to_learn = [q for q in reader.quantities if q.read is None] if reader is not None and states.shape[1] else []
    with progress("render: steps of the probes", (PROBES + len(to_learn)) * params.probe_steps) as meter:

        def tick() -> None:
            stop.raise_if_set()
            meter.advance()

        probe = train_probe(
            store, reader, c, probes=PROBES, steps=params.probe_steps, seed=seed, device=dreamer.stepper.device,
            tick=tick,
        )  # fmt: skip
        learned = [
            learn(
                q, reader, store, states, steps=params.probe_steps, seed=seed, device=dreamer.stepper.device, tick=tick
            )
            for q in to_learn
            if reader is not None
        ]
    return probe, [known for known in learned if known is not None]


def _frechet(control: Control) -> dict[str, float]:
    """`<candidate>/frechet`: distance to the features of true groups; of `truth` that of its two halves, the noise of it."""
    true = control.features["truth"]
    found = {name: frechet_distance(true, features) for name, features in control.features.items() if name != "truth"}
    found["truth"] = frechet_distance(true[::2], true[1::2])
    return {f"{name}/frechet": round(value, 4) for name, value in found.items() if np.isfinite(value)}
