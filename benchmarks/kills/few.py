"""The stage `policy` with few decisions of few dreams, and else as it is: `python -m benchmarks.kills.few OPTIONS`."""

from oniris_core.policy import ppo
from stages import policy

for module, name, value in (
    (policy, "DREAMS", 2), (policy, "CONTEXT_LATENTS", 1), (policy, "POINT_EPISODES", 2),
    (ppo, "ROLLOUT_STEPS", 8), (ppo, "BATCH", 8), (ppo, "EPOCHS", 1),
):  # fmt: skip
    setattr(module, name, value)

if __name__ == "__main__":
    policy.app()
