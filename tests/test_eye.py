"""The eye of policies: what it learns from, what it reads, and how the stage `policy` uses it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from oniris_core.data.episodes.store import EpisodeStore, open_episodes
from oniris_core.data.latents.store import LatentStore, open_latents
from oniris_core.environment.starts import open_starts, write_starts
from oniris_core.environment.truth import TrueVectorEnv
from oniris_core.policy import eye, ppo
from oniris_core.policy.eye import Examples
from tests.conftest import Run, one_thread
from tests.policies import few_decisions, stop_at
from tests.test_cli import one_error

QUICK = ("--steps=32", "--horizon=12", "--judge-episodes=2", "--no-true-baseline", "--observations=state")


def options(where: Path) -> list[str]:
    places = {
        "starts": "data/episodes.zarr", "latent-store": "data/latents.zarr", "vae": "models/vae", "world": "models/world",
        "params": "params.yaml",
    }  # fmt: skip
    return [*(f"--{name}={where / path}" for name, path in places.items()), *QUICK]


def stores(where: Path) -> tuple[EpisodeStore, LatentStore]:
    return open_episodes(where / "data/episodes.zarr"), open_latents(where / "data/latents.zarr")


def moving(seed: int, count: int = 1500) -> Examples:
    """A bright column that moves over two latent frames, and an action that nothing else tells of: the state is all three."""
    rng = np.random.default_rng(seed)
    place, speed, action = rng.uniform(1, 4, count), rng.uniform(-1, 1, count), rng.integers(0, 2, count)
    shown = [np.exp(-((np.arange(6) - x[:, None]) ** 2)) for x in (place - speed, place)]
    latents = np.stack(shown, axis=1).reshape(2 * count, 1, 1, 6).repeat(6, axis=2)
    actions = np.zeros((2 * count, 2), np.float32)
    actions[np.arange(count) * 2 + 1, action] = 2**0.5
    states = np.stack([place, speed, action], axis=1).astype(np.float32)
    states = (states - states.mean(0)) / states.std(0)
    rows = np.arange(2 * count).reshape(count, 2)
    return Examples(latents.astype(np.float16), actions, rows, states, np.arange(count) % 5 == 0)


def test_it_reads_where_things_are_how_fast_they_move_and_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eye, "STEPS", 250)
    given, ticks = moving(0), list[int]()
    with one_thread():
        weights, errors = eye.taught(tmp_path / "a", given, 0, "cpu", lambda: ticks.append(0), print)
        blind = replace(given, states=given.states[np.random.default_rng(0).permutation(len(given.states))])
        _, guessed = eye.taught(tmp_path / "b", blind, 0, "cpu", lambda: None, print)
        assert len(ticks) == 250
        # Done before: the same, in no time; damaged: learned again, the same.
        known, as_before = eye.taught(tmp_path / "a", given, 0, "cpu", lambda: ticks.append(0), print)
        assert len(ticks) == 250
        (file,) = (tmp_path / "a").glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
        said = list[str]()
        again, _ = eye.taught(tmp_path / "a", given, 0, "cpu", lambda: None, said.append)
        # It is judged by what was held out, which it has not learned from.
        moved = replace(
            given, states=np.where(given.held_out[:, None], given.states + 3, given.states).astype(np.float32)
        )
        _, off = eye.taught(tmp_path / "c", moved, 0, "cpu", lambda: None, print)
    np.testing.assert_allclose(off, 3, atol=0.3)
    assert (errors < 0.1).all()
    assert (guessed > 0.5).all()
    assert np.array_equal(errors, as_before)
    assert all(torch.equal(weights[name], known[name]) for name in weights)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert any("is damaged" in line for line in said)


def test_it_learns_from_what_policies_are_shown(tiny_pipeline: Path) -> None:
    """Recorded actions played again: the same frames with the same actions as in the stores, and the states beside them."""
    episodes, latents = stores(tiny_pipeline)
    given = eye.examples(episodes, latents, ppo.STACK)
    number = int(episodes.episodes(1)[0])
    models = {name: tiny_pipeline / "models" / name for name in ("world", "vae")}
    starts = str(tiny_pipeline / "data/episodes.zarr")
    truth = TrueVectorEnv(1, **models, starts=starts, observations="latents", autoreset_mode="SameStep")
    around = ppo._stacked(truth)
    first, end = episodes.bounds(number)
    decisions = (end - first - 1) // truth.group
    with one_thread():
        truth.reset(seed=[0])
        around.venv.venv.reset = lambda: truth.reset(options={"start": 0, "frame": 0})[0]  # type: ignore[union-attr]
        shown, observed = [around.reset().copy()], [truth.games[0].observation]
        for step in range(decisions - 1):
            action = episodes.actions[first + 1 + step * truth.group]
            shown.append(around.step(np.array([action]))[0].copy())
            observed.append(truth.games[0].observation)
    mine = np.flatnonzero(given.held_out)[: decisions + 1]
    np.testing.assert_allclose(np.concatenate(shown), given.observations(mine[:-1]).numpy(), atol=0.02)
    for number in np.flatnonzero(np.std(observed, axis=0) > 1e-3):
        assert np.corrcoef(np.array(observed)[:, number], given.states[mine[:-1], number])[0, 1] > 0.9999
    np.testing.assert_allclose(given.states[~given.held_out].mean(0), 0, atol=1e-4)


def test_what_was_before_a_dream_is_not_shown() -> None:
    """Nor the action that led to its first frame; and an eye takes it that all stood still before."""
    given = moving(0, 20)
    whole, one, two = (given.observations(np.arange(20), begun).unflatten(1, (2, -1)) for begun in
                       (None, np.full(20, 1), np.full(20, 2)))  # fmt: skip
    assert not one[:, 0].any()
    assert torch.equal(one[:, 1, :1], whole[:, 1, :1])
    assert not one[:, 1, 1:].any()
    assert torch.equal(two[:, 1], whole[:, 1])
    assert torch.equal(two[:, 0, :1], whole[:, 0, :1])
    seeing = eye.Eye(gym.spaces.Box(-9, 9, (6, 6, 6)), 2, 2, 3)
    eye._initialise(seeing, 0)
    still = torch.cat([one[:, 1:], one[:, 1:]], dim=1)
    torch.testing.assert_close(seeing(one.flatten(1, 2)), seeing(still.flatten(1, 2)))
    assert not torch.allclose(seeing(whole.flatten(1, 2)), seeing(one.flatten(1, 2)))


def test_few_latent_frames_are_taken_where_there_are_many(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eye, "MOST_LATENTS", 15)
    monkeypatch.setattr(eye, "MOST_HELD_OUT", 1)
    given = eye.examples(*stores(tiny_pipeline), 3)
    assert 0 < (~given.held_out).sum() <= 15
    assert given.held_out.any()


def test_a_policy_sees_with_an_eye_that_stays_as_it_is(
    tiny_pipeline: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while the eye learns, and while the policy does; then the same as undisturbed."""
    few_decisions(monkeypatch)
    monkeypatch.setattr(eye, "STEPS", 20)
    where = options(tiny_pipeline)

    def stopping(module: Any, attribute: str, calls: int) -> int:
        with stop_at(monkeypatch, module, attribute, calls):
            return run(tmp_path, "policy", *where, "--out=stopped", "--report=report").exit_code

    with one_thread():
        result = run(tmp_path, "policy", *where, "--out=undisturbed", "--report=report")
        assert result.exit_code == 0, result.output
        assert stopping(eye, "numpy_rng", 5) == 130
        assert not list((tmp_path / "runs").rglob("eye/*.safetensors"))
        assert stopping(ppo, "_keep", 0) == 130
        assert list((tmp_path / "runs").rglob("eye/*.safetensors"))
        assert run(tmp_path, "policy", *where, "--out=stopped", "--report=report").exit_code == 0
        taught, _ = eye.taught(tmp_path / "eye", eye.examples(*stores(tiny_pipeline), 3), 0, "cpu", lambda: None, print)
    found = [PPO.load(tmp_path / f"{name}/policy.zip", device="cpu").policy for name in ("undisturbed", "stopped")]
    first, second = (policy.state_dict() for policy in found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(found[0].features_extractor.state_dict()[name], taught[name]) for name in taught)
    assert not any(weight.requires_grad for weight in found[0].features_extractor.parameters())
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    states = open_episodes(tiny_pipeline / "data/episodes.zarr").states.shape[1]
    assert {name for name in metrics if name.startswith("eye/")} == {f"eye/median_error/{i}" for i in range(states)}


def test_what_it_cannot_learn_from(
    tiny_pipeline: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = options(tiny_pipeline)
    episodes, latents = stores(tiny_pipeline)

    def refused(pattern: str, name: str, found: EpisodeStore | LatentStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(f"oniris_core.data.{name}", lambda *_, **__: found)
            one_error(run(tmp_path, "policy", *where), pattern)

    without = replace(episodes, states=episodes.states[:, :0])
    refused(r"recorded without states .* set policy\.observations to latents", "episodes.store.open_episodes", without)
    others = replace(latents, attributes={**latents.attributes, "episodes_identity": "others"})
    refused(
        r"latents\.zarr was not made from .*episodes\.zarr: run `dvc repro encode`",
        "latents.store.open_latents",
        others,
    )
    strange = replace(latents, vae_identity="strange")
    refused(r"belongs to VAE strange, but .*vae is", "latents.store.open_latents", strange)
    one_error(run(tmp_path, "policy", *where, "--latent-store=nowhere"), r"nowhere is missing")
    write_starts(tmp_path / "starts.npz", open_starts(tiny_pipeline / "data/episodes.zarr", 4, 1))
    one_error(
        run(tmp_path, "policy", *where, f"--starts={tmp_path / 'starts.npz'}"),
        r"starts\.npz is a file of starts: set it to latents",
    )
    assert not list(tmp_path.glob("models/*"))
