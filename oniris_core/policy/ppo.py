"""PPO of Stable-Baselines3 in whatever decides once a latent frame: the dreams, or the simulator to compare with."""

from collections.abc import Callable

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.stable_baselines import BaselinesVecEnv
from oniris_core.policy.judge import Act, Tick
from oniris_core.policy.params import PolicyParams


def train(
    envs: DecisionVectorEnv, params: PolicyParams, seed: int, device: str, tick: Tick, at: Callable[[int, Act], None]
) -> PPO:
    """Train a policy.

    Args:
        envs: to train in, with autoreset_mode SAME_STEP.
        params: how.
        seed: of the policy and its actions.
        device: where the policy computes.
        tick: called after each step; may raise to stop.
        at: told of `params.points` moments of the training: decisions taken, and who plays by then.
    """
    kind = "MlpPolicy" if params.observations == "latents" else "CnnPolicy"
    around = BaselinesVecEnv(envs)
    around.seed(seed)
    ppo = PPO(
        kind, around, learning_rate=params.lr, n_steps=params.rollout_steps, batch_size=params.batch, n_epochs=params.epochs,
        gamma=params.gamma, ent_coef=params.entropy, seed=seed, device=device,
    )  # fmt: skip
    for point in range(1, params.points + 1):
        wanted = round(params.steps * point / params.points)
        if wanted > ppo.num_timesteps:
            ppo.learn(wanted - ppo.num_timesteps, _Ticking(tick), reset_num_timesteps=point == 1)
        at(ppo.num_timesteps, player(ppo))
    return ppo


def player(ppo: PPO) -> Act:
    """Plays what the policy holds for best."""

    def act(seen: np.ndarray) -> np.ndarray:
        actions, _ = ppo.predict(seen, deterministic=True)
        return np.asarray(actions)

    return act


class _Ticking(BaseCallback):
    def __init__(self, tick: Tick):
        super().__init__()
        self._tick = tick

    def _on_step(self) -> bool:
        self._tick()
        return True
