"""What trains in the environments: Stable-Baselines3, and a plain loop over `envs.step` as in single-file PPO."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import nn

from oniris_core.common.errors import UserError
from oniris_core.environment.dreams import WorldVectorEnv
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.stepper import Moment, Stepper
from oniris_core.world.outcomes import Outcomes
from tests.conftest import one_thread
from tests.toys import C, codec, starts, teach, world


def reward_of_ones(_: Stepper, moment: Moment) -> Outcomes:
    """The action 1 is rewarded in every frame; nothing ends."""
    ones = (moment.world.told[:, -1, 1 : 2 * C : 2] > 0).float()
    return Outcomes(ones, torch.zeros_like(ones), ones, ones)


@pytest.fixture
def dreams(monkeypatch: pytest.MonkeyPatch):
    teach(monkeypatch, reward_of_ones)

    def make(mode: AutoresetMode) -> WorldVectorEnv:
        return WorldVectorEnv(
            16, world=world(), vae=codec(), starts=starts(), observations="latents", context_latents=1, horizon=32,
            sampler=Sampler(steps=1), autoreset_mode=mode,
        )  # fmt: skip

    return make


def test_stable_baselines_learns_in_it(dreams) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    from oniris_core.environment.stable_baselines import BaselinesVecEnv

    with pytest.raises(UserError, match="autoreset_mode='SameStep'"):
        BaselinesVecEnv(dreams(AutoresetMode.NEXT_STEP))
    envs = VecMonitor(BaselinesVecEnv(dreams(AutoresetMode.SAME_STEP)))
    with one_thread():
        policy = PPO(
            "MlpPolicy", envs, n_steps=32, batch_size=128, n_epochs=8, learning_rate=3e-3, seed=0, device="cpu"
        )
        policy.learn(4096)
    returns = [episode["r"] for episode in policy.ep_info_buffer]
    assert {episode["l"] for episode in policy.ep_info_buffer} == {8}
    assert np.mean(returns[-32:]) > 0.9 * 32


def test_a_plain_loop_learns_in_it(dreams) -> None:
    """NEXT_STEP as CleanRL takes it: the step after an end is a reset, and does not count."""
    envs = RecordEpisodeStatistics(dreams(AutoresetMode.NEXT_STEP))
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    means = []
    with one_thread():
        seen, _ = envs.reset(seed=0)
        over = np.zeros(16, bool)
        for _ in range(20):
            terms, rewards_seen = [], []
            for _ in range(9):
                law = torch.distributions.Categorical(logits=policy(torch.from_numpy(seen)))
                action = law.sample()
                counts = torch.from_numpy(~over).float()
                seen, rewards, terminated, truncated, _ = envs.step(action.numpy())
                assert not rewards[over].any()
                over = terminated | truncated
                advantage = torch.from_numpy(rewards).float() - C / 2
                terms.append((law.log_prob(action) * advantage * counts).sum() / counts.sum().clamp(min=1))
                rewards_seen.append((torch.from_numpy(rewards) * counts).sum() / counts.sum().clamp(min=1))
            optimizer.zero_grad()
            (-torch.stack(terms).mean()).backward()
            optimizer.step()
            means.append(float(torch.stack(rewards_seen).mean()))
    assert set(envs.length_queue) == {8}
    assert np.mean(envs.return_queue) > 0.9 * 32
    assert means[0] < 3
    assert np.mean(means[-3:]) > 3.3  # of 4, and each ninth step is a reset
