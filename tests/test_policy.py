"""The stage `policy`: from a world model to a policy, its report, and what is refused."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from oniris_core.common.errors import UserError
from oniris_core.data.playing.policies import _fitting, played_action
from oniris_core.data.playing.watchers import WatcherMaker

# Before any test: imported in one, it would keep the toy that stands in for `assemble` there.
from oniris_core.environment.dreams import WorldVectorEnv
from oniris_core.environment.parts import Parts
from oniris_core.environment.stable_baselines import BaselinesVecEnv
from oniris_core.environment.truth import TrueVectorEnv
from oniris_core.policy import judge, ppo
from oniris_core.policy.seen import WithActions
from oniris_core.world.store import World
from stages.policy import FIRST_SEED
from tests.conftest import ROOT, Run, collect_params, one_thread
from tests.imports import closure
from tests.policies import few_decisions, stop_at
from tests.test_cli import one_error
from tests.toys import codec, starts, teach, world

QUICK = {"steps": 32, "horizon": 12, "judge-episodes": 2, "observations": "latents"}


def options(**others: Any) -> list[str]:
    return [f"--{name}={value}" for name, value in {**QUICK, **others}.items()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few_decisions(monkeypatch)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage finds a toy that is as if it had learned rewards, wherever it looks."""
    parts = Parts(world(), codec(), starts(), "the starts")
    monkeypatch.setattr(
        "oniris_core.common.artefacts.files.open_artefact", lambda *_, **__: type("Found", (), {"identity": "toy"})
    )
    assemble = "oniris_core.environment.parts.assemble"
    monkeypatch.setattr(assemble, lambda *_, **__: parts)
    teach(monkeypatch)


def test_from_a_world_model_to_a_policy(
    params_only: Path, run: Run, toy: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with one_thread():
        result = run(params_only, "policy", *options())
    assert result.exit_code == 0, result.output
    assert "left out: behaviour" in result.output
    # torch makes a folder of its own there when a process first asks it to compile anything.
    assert not [path for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]
    report = params_only / "reports/policy"
    made = {path.name for path in report.iterdir()}
    assert made == {"metrics.json", "left_out.json", "returns.json", "curve.csv", "curve.png", "best.mp4", "index.html",
                    "manifest.json"}  # fmt: skip
    metrics = json.loads((report / "metrics.json").read_text())
    for name in ("policy", "random", "heuristic", "ppo_in_truth"):
        low, mean, high = (metrics[f"{name}/return{end}"] for end in ("_low", "", "_high"))
        assert 1 <= low <= mean <= high <= 500
    assert metrics["heuristic/return"] > metrics["random/return"]
    lines = (report / "curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["decisions", "16", "32"]
    assert all(0 < float(line.split(",")[2]) <= 12 for line in lines[1:])  # a reward a frame, up to the horizon

    from stable_baselines3 import PPO

    policy = PPO.load(params_only / "models/policy/policy.zip", device="cpu")
    truth = TrueVectorEnv(
        1, world=world(), vae=codec(), starts=starts(), observations="latents", autoreset_mode="Disabled"
    )
    assert policy.learning_rate == pytest.approx(ppo.LR / 2)  # in the second of two parts
    with one_thread():
        play = judge.always(partial(ppo.player, policy))
        again = judge.true_returns(truth, play, [FIRST_SEED + number for number in range(2)], lambda: None)
    assert again.tolist() == json.loads((report / "returns.json").read_text())["policy"]


def test_a_training_goes_on_where_it_stopped(
    params_only: Path, run: Run, toy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second part, in the simulator, and while it is judged; then the same as undisturbed."""
    from stable_baselines3 import PPO

    def made(name: str) -> list[Any]:
        weights = PPO.load(params_only / f"{name}/policy.zip", device="cpu").policy.state_dict()
        return [*(weights[key].numpy() for key in sorted(weights))]

    def stopping(cls: type, method: str, calls: int) -> int:
        """Run with a stop in the so-manieth call."""
        with stop_at(monkeypatch, cls, method, calls):
            return run(params_only, "policy", *options(out="stopped", report="report")).exit_code

    with one_thread():
        assert run(params_only, "policy", *options(out="undisturbed", report="report")).exit_code == 0
        assert stopping(WorldVectorEnv, "step", 20) == 130
        kept = params_only / "runs/policy"
        assert {path.name for path in kept.rglob("*.json")} == {"1.json"}
        assert stopping(TrueVectorEnv, "step", 18) == 130
        assert {path.parent.name for path in kept.rglob("2.json")} == {"dreams"}
        assert stopping(TrueVectorEnv, "step", 16) == 130
        assert {path.parent.name for path in kept.rglob("2.json")} == {"dreams", "truth"}
        assert run(params_only, "policy", *options(out="stopped", report="report")).exit_code == 0
    assert all(np.array_equal(a, b) for a, b in zip(made("undisturbed"), made("stopped"), strict=True))
    assert not list(kept.rglob("*.zip"))


@pytest.mark.parametrize("observations", ["latents", "pixels"])
def test_who_plays_sees_what_was_seen_in_training(
    observations: str, toy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three latent frames with the actions that led there, nought before the first. (Left and right by turns, so that no
    episode ends so soon.)"""
    truth = TrueVectorEnv(
        2, world=world(), vae=codec(), starts=starts(), observations=observations, autoreset_mode="SameStep"
    )
    around = ppo._stacked(truth)

    class Policy:
        observation_space, action_space = around.observation_space, around.action_space
        seen: list[np.ndarray] = []

        def predict(self, seen: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
            assert deterministic
            self.seen.append(seen)
            return np.full(2, len(self.seen) % 2), None

    policy = Policy()
    act = ppo.player(policy)  # type: ignore[arg-type]
    with one_thread():
        around.seed(0)
        expected = [around.reset().copy()]
        expected += [around.step(np.full(2, step % 2))[0].copy() for step in (1, 2)]
        seen, _ = truth.reset(seed=[0, 1])
        for _ in range(3):
            seen = truth.step(act(seen))[0]
    assert [x.shape for x in policy.seen] == [around.observation_space.sample()[None].repeat(2, 0).shape] * 3
    assert all(np.array_equal(a, b) for a, b in zip(policy.seen, expected, strict=True))


def test_a_latent_frame_shows_the_action_that_led_to_it() -> None:
    """Also the last one of an episode; the first one shows none."""

    class Two(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 3, 3), np.float32)
        action_space = gym.spaces.Discrete(3)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
            self.steps = 0
            return np.zeros((2, 3, 3), np.float32), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            self.steps += 1
            return np.full((2, 3, 3), self.steps, np.float32), 0.0, self.steps == 2, False, {}

    envs = WithActions(DummyVecEnv([Two, Two]))

    def planes(seen: np.ndarray) -> list[list[float]]:
        assert seen.shape[-3:] == (5, 3, 3)
        assert (seen == seen[..., :1, :1]).all()
        frames, actions = np.split(seen[..., 0, 0], [2], axis=-1)
        assert set(np.unique(actions)) <= {0, np.float32(3**0.5)}  # one of three, of about unit magnitude
        return np.concatenate([frames, actions > 0], axis=-1).tolist()

    assert planes(np.asarray(envs.reset())) == [[0, 0, 0, 0, 0]] * 2
    assert planes(np.asarray(envs.step(np.array([2, 0]))[0])) == [[1, 1, 0, 0, 1], [1, 1, 1, 0, 0]]
    seen, _, over, infos = envs.step(np.array([1, 0]))
    assert over.all()
    assert planes(np.asarray(seen)) == [[0, 0, 0, 0, 0]] * 2
    assert [planes(info["terminal_observation"]) for info in infos] == [[2, 2, 0, 1, 0], [2, 2, 1, 0, 0]]


def test_collect_plays_a_policy_of_latents_as_the_simulator_does(tiny_pipeline: Path, run: Run, tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    from oniris_core.data.episodes.store import open_episodes
    from oniris_core.data.latents.store import open_latents
    from oniris_core.environment.parts import assemble
    from oniris_core.policy import eye
    from oniris_core.policy.player_file import write_player

    models = [tiny_pipeline / "models" / name for name in ("world", "vae")]
    parts = assemble(*models, str(tiny_pipeline / "data/episodes.zarr"))
    given = {"world": parts.world, "vae": parts.codec, "starts": parts.starts, "observations": "latents"}
    truth = TrueVectorEnv(1, **given, autoreset_mode="SameStep")
    kind, extra = ppo._network(truth, None)
    policy = PPO(kind, ppo._stacked(truth), policy_kwargs=extra, seed=0, device="cpu")
    shown = eye.examples(
        open_episodes(tiny_pipeline / "data/episodes.zarr"), open_latents(tiny_pipeline / "data/latents.zarr"), ppo.STACK
    )  # fmt: skip
    with torch.no_grad():  # so that it does not hold one action for the best whatever it sees
        net, some = policy.policy, shown.observations(np.arange(40))
        scores = net.action_net(net.mlp_extractor.forward_actor(net.extract_features(some, net.pi_features_extractor)))
        net.action_net.bias -= scores.mean(0)
    write_player(tmp_path / "policy.pt2", parts, policy)
    played = (
        f"--params={tiny_pipeline / 'params.yaml'}", "--policy=policy.pt2", "--policy-share=1", "--heuristic-share=0",
        "--random-actions=0", "--episodes=2", "--workers=1", "--out=played.zarr",
    )  # fmt: skip
    result = run(tmp_path, "collect", *played, "--import-code")
    assert result.exit_code == 0, result.output
    store, truth, chosen = (
        open_episodes(tmp_path / "played.zarr"),
        TrueVectorEnv(1, **given, autoreset_mode="Disabled"),
        set(),
    )
    for episode in range(2):
        (first, end), act = store.bounds(episode), ppo.player(policy)
        with one_thread():
            seen, _ = truth.reset(seed=[int(store.episode_seed[episode])])
            for row in range(first + 1, end - truth.group + 1, truth.group):
                action = act(seen)
                assert store.actions[row : row + truth.group].tolist() == [action.item()] * truth.group
                seen, *_ = truth.step(action)
                assert np.array_equal(store.frames[row : row + truth.group], truth.frames[0])
                chosen.add(action.item())
    assert len(chosen) > 1

    one_error(run(tmp_path, "collect", *played), r"policy 'policy\.pt2' would run code of others")
    with pytest.raises(UserError, match=r"was trained with other actions than Discrete\(5\)"):
        WatcherMaker("it", (tmp_path / "policy.pt2").read_bytes(), lambda *_: 0).refuse_others(
            collect_params(**parts.starts.record["params"], size=(32, 32), env_id="LunarLander-v3"),
            gym.spaces.Discrete(5),
        )
    one_error(run(tmp_path, "collect", *played, "--import-code", "--frame-skip=1", "--out=other.zarr"),
              r"policy 'policy\.pt2' plays with collect\.frame_skip = 2 only, as it was trained, not 1")  # fmt: skip
    good = (tmp_path / "policy.pt2").read_bytes()
    for content in (
        good[:-100],
        changed(good, remembered=[]),
        changed(good, frames_per_action=None),
        changed(good, size=[16, 16]),
    ):
        with pytest.raises(UserError, match=r"policy 'it' is not a policy of the stage `policy`: "):
            WatcherMaker("it", content, lambda *_: 0)
    (tmp_path / "policy.pt2").write_bytes(b"none")
    command = [sys.executable, "-m", "stages.collect", *played, "--import-code", "--out=other.zarr"]
    said = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert said.returncode == 2
    (line,) = [line for line in said.stderr.splitlines() if not line.startswith("note: ")]
    assert "policy 'policy.pt2' is not a policy of the stage `policy`: " in line
    assert not (tmp_path / "other.zarr").exists()


def changed(content: bytes, **values: Any) -> bytes:
    """A policy's file with another note."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, json.dumps({**json.loads(data), **values}) if name.endswith("oniris.json") else data)
    return made.getvalue()


@pytest.mark.parametrize(
    ("space", "scores", "action"),
    [
        (gym.spaces.Discrete(3, start=2), [0, 1, 0], 3),
        (gym.spaces.Box(-0.1, 0.1, (2, 1), np.float64), [-7, 0.05], [[-0.1], [0.05]]),
        (gym.spaces.Box(0, 255, (2,), np.uint8), [1.958, 300], [2, 255]),
        (gym.spaces.Box(np.array([0, -2], np.float32), np.array([np.inf, 3], np.float32)), [-1, 1], [0, 1]),
        (gym.spaces.MultiDiscrete([2, 3]), [1, 0, 0, 0, 1], [0, 2]),
        (gym.spaces.MultiBinary(2), [1, -1], [1, 0]),
    ],
)
def test_scores_become_actions_that_there_are(space: gym.Space, scores: list[float], action: Any) -> None:
    found = played_action(space, _fitting(space, np.array(scores, np.float32)), "it")
    assert space.contains(found)
    np.testing.assert_allclose(found, action, rtol=1e-6)


def test_stable_baselines_counts_from_nought() -> None:
    truth = TrueVectorEnv(2, world=world(), vae=codec(), starts=starts(), autoreset_mode="SameStep")
    truth.single_action_space = gym.spaces.Discrete(2, start=1)
    with pytest.raises(UserError, match=r"counts choices from 0, but the actions are Discrete\(2, start=1\)"):
        BaselinesVecEnv(truth)


def test_recorded_returns_are_sums_of_rewards(tiny_pipeline: Path) -> None:
    from oniris_core.data.rows.zarrs import open_store, read

    group, _ = open_store(tiny_pipeline / "data/episodes.zarr", "episodes", "collect")
    rewards, ends = read(group, "data/rewards"), read(group, "meta/episode_ends")
    found = judge.recorded_returns(str(tiny_pipeline / "data/episodes.zarr"))
    assert len(found) == len(ends)
    np.testing.assert_allclose(found[1], rewards[ends[0] : ends[1]].sum(), rtol=1e-5)
    np.testing.assert_allclose(found.sum(), rewards.sum(), rtol=1e-4)


def test_equal_seeds_are_judged_alike_and_random_play_is_its_own() -> None:
    truth = TrueVectorEnv(1, world=world(), vae=codec(), starts=starts(), autoreset_mode="Disabled")
    with one_thread():
        a, b = (judge.true_returns(truth, judge.at_random, range(5), lambda: None) for _ in range(2))
    assert np.array_equal(a, b)
    assert len(set(a.tolist())) > 1


def test_what_the_stage_refuses(tiny_pipeline: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line, before any training, and nothing is written."""
    where = [f"--{name}={tiny_pipeline / path}" for name, path in
             (("starts", "data/episodes.zarr"), ("vae", "models/vae"), ("world", "models/world"),
              ("params", "params.yaml"))]  # fmt: skip
    with monkeypatch.context() as unlearned:
        unlearned.setattr(World, "has_outcomes", False)
        one_error(
            run(tmp_path, "policy", *where, *options()), r"has not learned rewards: .* train\.outcome_weight above 0"
        )
    one_error(run(tmp_path, "policy", *where, *options(horizon=13)), r"horizon = 13 frames must be a multiple of 4")
    one_error(
        run(tmp_path, "policy", *where, *options(observations="pixels")), r"36 x 36 pixels at least, these have 32 x 32"
    )
    one_error(run(tmp_path, "policy", *where, "--world=nowhere"), r"nowhere is missing")
    assert not list(tmp_path.glob("models/*")) + list(tmp_path.glob("reports/*"))


def test_the_example_is_a_project_of_its_own_and_names_its_code(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    shutil.copytree(
        ROOT / "examples/policy",
        tmp_path / "examples/policy",
        ignore=shutil.ignore_patterns("tmp", "cache", "models", "reports"),
    )
    (stage,) = YAML(typ="safe").load(ROOT / "examples/policy/dvc.yaml")["stages"].values()
    named = {(ROOT / "examples/policy" / dep).resolve() for dep in stage["deps"]}
    assert all(dep.exists() for dep in named if dep.relative_to(ROOT).parts[0] in ("oniris_core", "stages"))
    uncovered = {file for file in closure(ROOT / "stages/policy.py") if not named & {file, *file.parents}}
    assert not uncovered
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=tmp_path / "examples/policy", check=True,
        capture_output=True, text=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"},
    )  # fmt: skip
    assert listed.stdout.split() == ["policy"]
