"""Not in the pipeline: trains a policy inside the world model and judges it in the simulator; models/policy, reports/policy."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.policy.params import PolicyParams

FIRST_SEED = 2**30
"""Of the episodes judged: those that `collect` plays have the numbers common.seed * 2^20 and up."""

DREAMS = 16
"""Dreams side by side."""

CONTEXT_LATENTS = 4
"""True latent frames, anywhere in an episode, that a dream starts from."""

POINT_EPISODES = 16
"""Recorded starts on which returns inside and outside are compared, or as many as there are."""

SMALLEST = 36
"""Pixels that the network of Stable-Baselines3 for pictures needs along height and width."""


@stage("policy", PolicyParams, in_pipeline=False)
def app(
    settings: Settings[PolicyParams],
    starts: Annotated[Location, place("the episode store, or the file of starts, dreams begin from")] = Path(
        "data/episodes.zarr"
    ),
    latent_store: Annotated[Location, place("their latents, which an eye learns to read")] = Path("data/latents.zarr"),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    world: Annotated[Path, typer.Option(help="the world model, which must have learned rewards")] = Path(
        "models/world"
    ),
    out: Annotated[Path, typer.Option(help="the policy to make")] = Path("models/policy"),
    report: Annotated[Path, typer.Option(help="the report to make")] = Path("reports/policy"),
) -> None:
    """Train PPO in dreams of the world model only, and compare what it brings there with what it brings in truth.

    Where policy.observations = state an eye learns first to read the simulator's state off latent frames, from the recorded
    episodes.
    """
    from oniris_core.common.artefacts.files import atomic_write, open_artefact, refuse_unwritable
    from oniris_core.common.errors import UserError
    from oniris_core.common.optional import optional

    refuse_unwritable(out)
    refuse_unwritable(report)
    open_artefact(vae, "vae", made_by="train_vae")
    open_artefact(world, "world", made_by="train")

    # From here on torch is needed; all that can be refused without it has been.
    optional("stable_baselines3", "policies", "the stage policy")
    from dataclasses import replace

    import numpy as np

    from oniris_core.common.artefacts.runs import workspace
    from oniris_core.common.devices import pick_device
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.data.episodes.store import open_episodes
    from oniris_core.data.latents.store import open_latents, refuse_other_episodes
    from oniris_core.environment.dreams import WorldVectorEnv
    from oniris_core.environment.parts import assemble
    from oniris_core.environment.truth import TrueVectorEnv
    from oniris_core.policy import eye, judge, ppo
    from oniris_core.policy.judge import Act, Player, moments
    from oniris_core.policy.report import Judgement, film, write_policy, write_policy_report

    params, seed = settings.own, settings.common.seed
    device = pick_device(settings.common.device, settings.common.threads)
    parts = assemble(world, vae, starts, None, device, whole=True)
    if params.observations == "pixels" and min(parts.frame_size) < SMALLEST:
        raise UserError(f"policy.observations = pixels needs frames of {SMALLEST} x {SMALLEST} pixels at least, these have "
                        f"{' x '.join(map(str, parts.frame_size))}: set it to latents")  # fmt: skip
    given: dict[str, Any] = {
        "world": parts.world, "vae": parts.codec, "starts": parts.starts,
        "observations": "pixels" if params.observations == "pixels" else "latents",
    }  # fmt: skip
    dreaming = {
        **given, "context_latents": CONTEXT_LATENTS,
        "horizon": params.horizon, "begin": "anywhere",
    }  # fmt: skip
    dreams = WorldVectorEnv(DREAMS, **dreaming, autoreset_mode="SameStep")
    compared = moments(parts.starts.starts, parts.group, CONTEXT_LATENTS)[:POINT_EPISODES]
    inside = WorldVectorEnv(len(compared), **dreaming)
    given["import_code"] = params.import_code
    truth = TrueVectorEnv(1, **given, autoreset_mode="Disabled")
    env_id = str(parts.starts.record["env_id"])
    seeds = [seed + FIRST_SEED + number for number in range(params.judge_episodes)]
    if taken := set(seeds) & {start.seed for start in parts.starts.starts}:
        raise UserError(
            f"{starts} has episodes of the seeds to judge on, such as {min(taken)}: choose another common.seed"
        )
    found = Judgement()
    to_read = None
    identities = {"world": open_artefact(world, "world", "train").identity, "starts": parts.starts.identity}
    if params.observations == "state":
        if isinstance(starts, Path) and starts.is_file():
            raise UserError(f"policy.observations = state needs an episode store to learn from, and {starts} is a file of "
                            "starts: set it to latents")  # fmt: skip
        episodes, latents = open_episodes(starts, preloaded=False), open_latents(latent_store)
        refuse_other_episodes(latents, latent_store, episodes.identity, starts)
        if latents.vae_identity != parts.codec.identity:
            raise UserError(f"{latent_store} belongs to VAE {latents.vae_identity[:12]}, but {vae} is "
                            f"{parts.codec.identity[:12]}: run `dvc repro`")  # fmt: skip
        latents = replace(latents, mean=parts.world.mean, std=parts.world.std)
        to_read = eye.examples(episodes, latents, ppo.STACK)
        identities["latents"] = latents.identity
        del episodes, latents  # all that is needed of them is in the examples
    players: dict[str, Player] = {"random": judge.at_random}
    if heuristic := judge.heuristic_player(truth):
        players["heuristic"] = heuristic
    else:
        found.left_out["heuristic"] = f"there is none for {env_id}"
    whole = params.steps // DREAMS * (1 + params.true_baseline) + (eye.STEPS if to_read else 0)

    with (
        workspace("policy", out, params=settings.as_json("policy"), **identities) as kept,
        stop_requests() as stop,
        meter("policy: steps of the eye, decisions of each environment", whole) as progress,
    ):

        def look(decisions: int, player: Callable[[], Act]) -> dict[str, float]:
            options = {name: np.array([where[name] for where in compared]) for name in ("start", "frame")}
            dreamt = judge.first_returns(inside, player(), seed, options, stop.raise_if_set)
            true = [
                judge.true_return(
                    truth, judge.always(player), 0, stop.raise_if_set, {**where, "horizon": params.horizon}
                )
                for where in compared
            ]
            return {"decisions": decisions, "inside": float(dreamt.mean()), "outside": float(np.mean(true))}

        def tick() -> None:
            stop.raise_if_set()
            progress.advance()

        seeing = None
        if to_read:
            seeing, found.misread = eye.taught(kept / "eye", to_read, seed, str(device), tick, say)
        policy, found.curve = ppo.train(dreams, params, seed, str(device), kept / "dreams", tick, look, seeing)
        players["policy"] = judge.always(partial(ppo.player, policy))
        if params.true_baseline:
            simulators = TrueVectorEnv(DREAMS, **given, autoreset_mode="SameStep")
            same, _ = ppo.train(simulators, params, seed, str(device), kept / "truth", tick, lambda _, __: {}, seeing)
            players["ppo_in_truth"] = judge.always(partial(ppo.player, same))
        else:
            found.left_out["ppo_in_truth"] = "policy.true_baseline = false"
        for name, player in players.items():
            returns = kept / f"{name}.json"
            if not returns.is_file():
                judged = judge.true_returns(truth, player, seeds, stop.raise_if_set)
                atomic_write(returns, json.dumps(judged.tolist()).encode())
            found.returns[name] = np.array(json.loads(returns.read_text()))
        try:
            found.returns["behaviour"] = judge.recorded_returns(starts)
        except UserError:
            found.left_out["behaviour"] = f"{starts} is no store of whole episodes"
        best = seeds[int(found.returns["policy"].argmax())]
        found.video = film(
            truth, ppo.player(policy), dreams.stepper, best, CONTEXT_LATENTS, stop.raise_if_set
        )  # fmt: skip
        record = {"params": settings.as_json("policy"), "env_id": env_id, **identities}
        write_policy_report(report, found, env_id, seed, parts.starts.frame_rate)
        write_policy(out, parts, policy, record)
    for name, reason in found.left_out.items():
        say(f"left out: {name}: {reason}")
    say(
        ", ".join(f"{name} {values.mean():.1f}" for name, values in found.returns.items())
        + f": mean returns; see {report}"
    )


if __name__ == "__main__":
    app()
