"""Any environment: what is recorded of it, who plays it, and what is refused in one line."""

import io
import json
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import unflatten
from PIL import Image

from oniris_core.collection import seats
from oniris_core.common.errors import UserError
from oniris_core.data.playing.environments import fit_screen, imported_code, make_env, said_of_screen, screen_of
from oniris_core.data.playing.flat_actions import describe, described
from oniris_core.data.playing.heuristics import heuristic_for
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.playing.policies import load_policy, played_action, policy_sha256
from oniris_core.data.playing.rollouts import play_episode, repeats_itself, replay, who_plays
from oniris_core.data.rows.actions import action_spec
from tests.conftest import Run, collect_params, one_thread
from tests.test_cli import one_error
from tests.worlds import NESTED, SPACES, Show, shown

RANDOM = {"heuristic_share": 0.0}
HEURISTIC = {"heuristic_share": 1.0}


def played_by(policy: str, **values: object) -> CollectParams:
    everything = {"heuristic_share": 0.0, "random_actions": 0.0, "policy_share": 1.0, "import_code": True}
    return collect_params(size=(6, 9), max_frames=13, policy=policy, **{**everything, **values})


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_a_frame_shows_the_action_of_its_own_row(kind: str, resize: str) -> None:
    params = collect_params(size=(12, 12), max_frames=19, resize=resize, **RANDOM)
    env = Show(space=kind)
    episode = play_episode(env, params, seed=5, index=3)
    middle = episode.frames[:, 6, 6]
    assert (middle[0] == 0).all()
    assert np.array_equal(middle[1:], [shown(action) for action in episode.actions[1:]])
    assert len(np.unique(middle[1:], axis=0)) > 1
    spec = action_spec(env.action_space)
    assert spec.kind == kind
    assert np.isfinite(spec.encode(episode.actions)).all()
    assert episode.states[:, 0].tolist() == [0, *range(2, 38, 2)][: len(episode.states)]


@pytest.mark.parametrize(
    ("env_id", "kind"),
    [
        ("LunarLander-v3", "discrete"), ("CartPole-v1", "discrete"),
        ("MountainCar-v0", "discrete"), ("BipedalWalker-v3", "box"), ("CarRacing-v3", "box"),
        ("ALE/Pong-v5", "discrete"), ("MiniGrid-DoorKey-5x5-v0", "discrete"),
    ],
)  # fmt: skip
def test_environments_tried(env_id: str, kind: str) -> None:
    """Played by their heuristic, or at random: frames that change, aligned and the same when played again."""
    params = collect_params(env_id=env_id, size=(24, 32), max_frames=10, **HEURISTIC)
    env = make_env(env_id, {}, False)
    episode = play_episode(env, params, seed=0, index=1)
    assert episode.frames.shape == (10, 24, 32, 3)
    assert any((frame != episode.frames[0]).any() for frame in episode.frames)
    spec = action_spec(env.action_space)
    assert spec.kind == kind
    assert spec.encode(episode.actions).shape == (10, spec.features)
    assert repeats_itself(make_env(env_id, {}, False), params, 0, 1, None, episode)


def test_cart_pole_by_its_id_alone_is_long_enough_for_clips() -> None:
    """The default action hold would drop the pole within 6 frames."""
    params = collect_params(env_id="CartPole-v1", size=(8, 8), max_frames=50)
    env = make_env("CartPole-v1", {}, False)
    lengths = {"heuristic": [], "random": []}
    for index in range(16):
        lengths[who_plays(index, params, 0)[0]].append(len(play_episode(env, params, 0, index).frames))
    assert np.mean(np.array(lengths["heuristic"]) >= 48) > 0.8
    assert max(lengths["random"]) < 20
    fixed = params.model_copy(update={"heuristic_share": 1.0, "random_actions": 0.0})
    actions = play_episode(env, fixed, 0, 0).actions[1:]
    assert 0.3 < actions.mean() < 0.7


@pytest.mark.parametrize(("env_id", "least"), [("MountainCar-v0", 0.5), ("MountainCarContinuous-v0", 0.4)])
def test_the_mountain_car_gets_to_the_top(env_id: str, least: float) -> None:
    params = collect_params(env_id=env_id, size=(4, 4), random_actions=0.0, **HEURISTIC)
    episode = play_episode(make_env(env_id, {}, False), params, 0, 0)
    assert episode.terminated[-1]
    assert episode.states[-1, 0] >= least - 0.05


@pytest.mark.parametrize("kwargs", [{}, {"continuous": False}])
def test_the_racing_car_stays_on_the_road(kwargs: dict) -> None:
    params = collect_params(env_id="CarRacing-v3", size=(4, 4), max_frames=35, random_actions=0.0, **HEURISTIC)
    env = make_env("CarRacing-v3", kwargs, False)
    episode = play_episode(env, params, 0, 0)
    assert len(episode.frames) == 35
    assert episode.rewards[15:].sum() > 5  # every tile of the road it visits is worth about 3; time costs 0.1 a step


def test_wrappers_and_time_limits() -> None:
    limit = ("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 9})
    env = make_env("Acrobot-v1", {}, False, [limit])
    episode = play_episode(env, collect_params(env_id="Acrobot-v1", size=(4, 4), **RANDOM), 0, 0)
    assert len(episode.frames) == 1 + 5  # steps 2, 4, 6, 8 and the one that is cut
    assert episode.truncated.tolist() == [False] * 5 + [True]
    assert not episode.terminated.any()
    own = make_env("CartPole-v1", {}, False, [("tests.worlds.Halved", {})], import_code=True)
    assert type(own).__name__ == "Halved"
    assert imported_code("tests.worlds:Show-v0", [limit, ("tests.worlds.Halved", {})]).keys() == {"tests.worlds"}
    for name, arguments, pattern in (
        ("tests.worlds.Halved", {}, "allow it with import_code: true"),
        ("gymnasium.wrappers.TimeLimi", {}, "no wrapper 'gymnasium.wrappers.TimeLimi'; did you mean 'TimeLimit'"),
        ("gymnasium.make", {}, "there is no wrapper 'gymnasium.make'"),
        ("gymnasium", {}, "there is no wrapper|is not one of"),
        ("gymnasium.nowhere.X", {}, "cannot be imported: No module named 'gymnasium.nowhere'"),
        ("gymnasium.wrappers.TimeLimit", {"nonsense": 1}, "'gymnasium.wrappers.TimeLimit' cannot be made: .*nonsense"),
    ):
        with pytest.raises(UserError, match=pattern):
            make_env("CartPole-v1", {}, False, [(name, arguments)])


def test_a_heuristic_is_not_asked_through_wrappers_that_change_what_it_sees() -> None:
    assert heuristic_for(make_env("LunarLander-v3", {}, False)) is not None
    assert heuristic_for(
        make_env("LunarLander-v3", {}, False, [("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 9})])
    )
    assert (
        heuristic_for(make_env("LunarLander-v3", {}, False, [("gymnasium.wrappers.TimeAwareObservation", {})])) is None
    )
    assert heuristic_for(make_env("Acrobot-v1", {}, False)) is None


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1)])
def test_grey_screens_are_repeated(shape: tuple[int, ...]) -> None:
    env = Show(shape=shape, space="multi_binary")
    env.reset(seed=0)
    env.step(np.array([1, 0, 0]))
    screen = screen_of(env)
    assert screen.shape == (6, 9, 3)
    assert (screen == 120).all()


def test_screens_that_are_no_pictures_are_refused() -> None:
    for env, what in ((Show(fault="nothing"), "NoneType"), (Show(shape=(6, 9, 5)), r"uint8 \[6, 9, 5\]")):
        env.reset()
        with pytest.raises(UserError, match=f"renders {what}, but an RGB, RGBA or grey array"):
            screen_of(env)


def test_frames_keep_their_aspect_when_padded() -> None:
    screen = np.full((40, 60, 3), 200, np.uint8)
    screen[:, 30:] = 100
    frame = fit_screen(screen, 30, 30, "pad")
    assert frame.shape == (30, 30, 3)
    assert (frame[:5] == 0).all()
    assert (frame[-5:] == 0).all()
    assert (frame[5:25, :15] == 200).all()
    assert (frame[5:25, 15:] == 100).all()
    assert (fit_screen(screen.swapaxes(0, 1), 30, 30, "pad")[:, 5:25] > 0).all()
    stretched = np.asarray(Image.fromarray(screen).resize((30, 30), Image.Resampling.BOX))
    assert np.array_equal(fit_screen(screen, 30, 30), stretched)
    assert np.array_equal(fit_screen(screen, 20, 30, "pad"), fit_screen(screen, 20, 30, "stretch"))
    assert fit_screen(screen, 1, 60, "pad").shape == (1, 60, 3)


@pytest.mark.parametrize(("frame_skip", "held"), [(1, 4), (2, 1)])
def test_a_heuristic_holds_its_actions_if_it_can(frame_skip: int, held: int) -> None:
    """CartPole's for four steps, but not for four frames of two: in dreams an action is held for a latent frame."""
    params = collect_params(
        env_id="CartPole-v1", size=(4, 4), max_frames=41, frame_skip=frame_skip, random_actions=0.0, **HEURISTIC
    )
    actions = play_episode(make_env("CartPole-v1", {}, False), params, 0, 0).actions[1:]
    changes = np.flatnonzero(np.diff(actions.ravel())) + 1
    assert len(changes)
    assert bool((changes % 4).any()) == (held == 1)


def test_actions_are_held_for_random_times() -> None:
    params = collect_params(size=(6, 9), frame_skip=1, max_frames=19, frames_per_action=(2, 5), **RANDOM)
    runs = []
    for index in range(6):
        actions = play_episode(Show(space="box"), params, 0, index).actions[1:]
        changes = 1 + np.flatnonzero((actions[1:] != actions[:-1]).any(1))
        runs += np.diff([0, *changes]).tolist()
    assert set(runs) == {2, 3, 4, 5}


def test_policies_of_modules() -> None:
    env = Show()
    sha = policy_sha256("tests.worlds:last")
    for name, expected in (("tests.worlds:last", [6] * 3), ("tests.worlds:Counts", [2, 3, 4])):
        params, make_policy = played_by(name), load_policy(name, sha)
        for index in range(2):
            assert play_episode(env, params, 0, index, make_policy).actions[1::4].tolist() == expected
    noisy = play_episode(
        env, played_by("tests.worlds:last", random_actions=1.0), 0, 1, load_policy("tests.worlds:last", sha)
    )
    assert len(set(noisy.actions[1:].tolist())) > 1
    with pytest.raises(UserError, match="not the same file here as where the collection was started"):
        load_policy("tests.worlds:last", "0" * 64)
    mixed = played_by("tests.worlds:last", heuristic_share=0.3, policy_share=0.4)
    assert {who_plays(index, mixed, 0)[0] for index in range(30)} == {"random", "heuristic", "policy"}


@pytest.mark.parametrize(
    ("policy", "space", "pattern"),
    [
        ("outside", "discrete", r"gives the action 7, which is outside of the action space Discrete\(5, start=2\)"),
        ("split_up", "discrete", r"gives the action 2.5, which is outside of"),
        ("misshapen", "box", r"does not fit the action space Box"),
        ("not_finite", "box", r"actions must be finite"),
        ("last", "box", r"gives the action 6, which does not fit the action space Box"),
        ("last", "multi_binary", r"does not fit"),
    ],
)
def test_actions_that_are_none_are_refused(policy: str, space: str, pattern: str) -> None:
    name = f"tests.worlds:{policy}"
    with pytest.raises(UserError, match=rf"policy '{name}' {pattern}|{pattern}"):
        play_episode(Show(space=space), played_by(name), 0, 0, load_policy(name, policy_sha256(name)))


def test_an_action_is_recorded_as_it_is_played() -> None:
    for space in SPACES.values():
        space.seed(0)
        for _ in range(5):
            sample = space.sample()
            action = played_action(space, np.asarray(sample).tolist(), "x")
            assert space.contains(action)
            assert np.array_equal(action, sample)


def save_torchscript(
    file: Path, module: torch.nn.Linear, weight: float | None = None, bias: float | None = None
) -> None:
    with torch.no_grad():
        if weight is not None:
            module.weight.fill_(weight)
        if bias is not None:
            module.bias.fill_(bias)
    torch.jit.trace(module, torch.zeros(1, module.in_features)).save(file)


def test_torchscript_policies(tmp_path: Path) -> None:
    env = make_env("CartPole-v1", {}, False)
    network = torch.nn.Linear(4, 2)
    file = tmp_path / "policy.pt"
    save_torchscript(file, network)
    play = load_policy(str(file), policy_sha256(str(file)))(env)
    for observation in np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32):
        best = network(torch.from_numpy(observation)).argmax().item()
        assert (
            played_action(env.action_space, play(observation), "x") == best
        )  # one score per choice: the best is played
    with pytest.raises(UserError, match=r"policy '.*policy.pt' does not fit the observations of the environment"):
        play(np.zeros(7, np.float32))
    save_torchscript(file, torch.nn.Linear(4, 3))
    play = load_policy(str(file), policy_sha256(str(file)))(env)
    with pytest.raises(UserError, match=r"does not fit the action space Discrete\(2\)"):
        played_action(env.action_space, play(np.zeros(4, np.float32)), "policy")
    file.write_bytes(b"no such thing")
    with pytest.raises(UserError, match="is not a TorchScript file"):
        load_policy(str(file), policy_sha256(str(file)))


def test_stable_baselines_policies(tmp_path: Path) -> None:
    import stable_baselines3

    for algorithm, env_id in (
        ("PPO", "CartPole-v1"),
        ("A2C", "CartPole-v1"),
        ("DQN", "CartPole-v1"),
        ("DDPG", "Pendulum-v1"),
    ):
        env, file = make_env(env_id, {}, False), tmp_path / f"{algorithm}.zip"
        with one_thread():
            options = {"buffer_size": 10} if algorithm in ("DQN", "DDPG") else {}
            agent = getattr(stable_baselines3, algorithm)("MlpPolicy", env, device="cpu", **options)
            agent.save(file)
            play = load_policy(str(file), policy_sha256(str(file)))(env)
            for seed in range(3):
                observation, _ = env.reset(seed=seed)
                expected = agent.predict(observation, deterministic=True)[0]
                assert np.array_equal(played_action(env.action_space, play(observation), "x"), expected)
    with pytest.raises(UserError, match=r"was made for the observation space Box.*but that of the environment is"):
        load_policy(str(file), policy_sha256(str(file)))(make_env("CartPole-v1", {}, False))
    file.write_bytes(b"no such thing")
    with pytest.raises(UserError, match="is not a file of Stable-Baselines3"):
        load_policy(str(file), policy_sha256(str(file)))


def test_an_environment_that_forgets_its_seed_is_noticed() -> None:
    params = collect_params(size=(6, 9), max_frames=12, **RANDOM)
    for fault, same in (("", True), ("forgets its seed", False)):
        played = play_episode(Show(fault=fault), params, 0, 0)
        assert repeats_itself(Show(fault=fault), params, 0, 0, None, played) is same


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("size", r"the frames of LunarLander-v3 change size, from 6 x 9 to 7 x 9 pixels"),
        ("not finite", r"gives an observation or a reward that is not finite, in the episode reset with 7"),
    ],
)
def test_faults_of_an_environment_are_named(fault: str, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        play_episode(Show(fault=fault, when=7), collect_params(size=(6, 9), frame_skip=1, **RANDOM), 0, 7)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--policy", "m:f"], r"policy and policy_share belong together"),
        (["--policy", "m:f", "--policy-share", "0.4", "--heuristic-share", "0.2"], r"allow it with import_code: true"),
        (["--frames-per-action", "4,2"], r"frames_per_action must not fall, not \[4, 2\]"),
        (["--wrappers", "[3]"], r"collect.wrappers: an entry is a name or \{name: \{argument: value\}\}, not 3"),
        (["--wrappers", "[gymnasium.wrappers.Nothing]"], r"there is no wrapper 'gymnasium.wrappers.Nothing'"),
        (["--resize", "cut"], r"collect.resize = 'cut' should be 'stretch' or 'pad'"),
        (["--episode-timeout-s", "0"], r"episode_timeout_s = 0 should be greater than 0"),
        (["--episodes", "1048577"], r"collect.episodes = 1048577 should be less than or equal to 1048576"),
        (["--seed", "99999999999999"], r"common.seed = 99999999999999 is too large"),
        (["--dask-address", "tcp://127.0.0.1:9"], r"no Dask scheduler answers at collect.dask_address = tcp://127.0.0.1:9"),
        (["--dask-address", "nonsense"], r"no Dask scheduler answers at collect.dask_address = nonsense"),
        (
            ["--import-code", "--policy", "no.pt", "--policy-share", "0.4", "--heuristic-share", "0.2"],
            r"policy 'no.pt' cannot be read: No such file",
        ),
        (
            ["--import-code", "--policy", "nothing", "--policy-share", "0.4", "--heuristic-share", "0.2"],
            r"policy 'nothing' must be module:callable, or a file that ends in .pt, .pt2 or .zip",
        ),
    ],
)  # fmt: skip
def test_bad_options_of_collect(
    options: list[str], pattern: str, params_only: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "DASK_WAIT_S", 1)
    one_error(run(params_only, "collect", *options), pattern)
    assert not (params_only / "data/episodes.zarr").exists()


@pytest.mark.parametrize(("env_id", "extra"), [("ALE/Pong-v5", "atari"), ("MiniGrid-Empty-5x5-v0", "minigrid")])
def test_a_missing_extra_is_named(env_id: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"'{env_id}' needs .*: pip install '\.\[{extra}\]'"):
        make_env(env_id, {}, False)
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"")
    sha = policy_sha256("x.zip")
    with pytest.raises(UserError, match=r"needs Stable-Baselines3: pip install '\.\[policies\]'"):
        load_policy("x.zip", sha)


def test_a_changed_policy_is_another_collection(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    shas = set()
    for value in (0.0, 1.0):
        save_torchscript(file, torch.nn.Linear(1, 1), value, value)
        shas.add(policy_sha256(str(file)))
    assert len(shas) == 2
    assert io.BytesIO(file.read_bytes()).read(2) == b"PK"


@pytest.mark.parametrize("kind", NESTED)
def test_an_action_of_any_shape_is_one_row_and_can_be_unflattened(kind: str) -> None:
    params = collect_params(size=(12, 12), max_frames=19, **RANDOM)
    gym.register("Nested-v0", partial(Show, space=kind), disable_env_checker=True)
    try:
        env = make_env("Nested-v0", {}, False)
        episode = play_episode(env, params, seed=5, index=3)
        again = replay(make_env("Nested-v0", {}, False), episode.seed, episode.actions, 2, (12, 12), "stretch")
    finally:
        del gym.registry["Nested-v0"]
    space = described(json.loads(json.dumps(describe(env))))
    assert space == NESTED[kind]
    spec = action_spec(env.action_space)
    assert episode.actions.shape == (len(episode.frames), len(spec.sizes))
    assert np.isfinite(spec.encode(episode.actions)).all()
    assert all(env.action_space.contains(action) for action in episode.actions)  # the filler too
    led_to = [shown(unflatten(space, action) if kind in ("dict", "tuple") else action.reshape(space.shape))
              for action in episode.actions[1:]]  # fmt: skip
    assert np.array_equal(episode.frames[1:, 6, 6], led_to)
    assert len(np.unique(episode.frames[1:, 6, 6], axis=0)) > 1
    assert np.array_equal(again.frames, episode.frames)
    assert np.array_equal(again.rewards, episode.rewards)
    assert np.array_equal(again.ended, episode.terminated)
    if kind == "dict":
        noisy = env.action_space.nearest(np.float32([0.2, 0.9, 0.4, 2.0, 0.1]))
        assert env.action_space.contains(noisy)
        assert noisy.tolist() == pytest.approx([0, 1, 0, 1, 0.1])


@pytest.mark.parametrize(
    ("shape", "fault", "said"),
    [((6, 9, 4), "", "its alpha channel is dropped"), ((6, 9, 3), "real", "real numbers from 0 to 1 become 0 to 255"),
     ((6, 9), "real", "real numbers"), ((6, 9, 3), "", "")],
)  # fmt: skip
def test_a_screen_becomes_rgb_and_it_is_said(shape: tuple[int, ...], fault: str, said: str) -> None:
    env = Show(shape=shape, fault=fault)
    env.reset(seed=0)
    env.step(3)
    screen = screen_of(env)
    assert screen.shape == (6, 9, 3)
    assert screen.dtype == np.uint8
    assert (screen == shown(np.int64(3))[0]).all()
    assert said_of_screen(env).startswith(said)
    assert bool(said_of_screen(env)) == bool(said)
    env.fault = "too bright"
    with pytest.raises(UserError, match="renders float32"):
        screen_of(env)
