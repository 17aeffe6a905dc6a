"""Parameters of the stage `policy`."""

from typing import Literal

from pydantic import Field

from oniris_core.config.base import Params, Positive


class PolicyParams(Params):
    """How a policy is trained inside the world model, and how it is judged outside."""

    steps: Positive = Field(description="decisions to train for, over all dreams; one decision is one latent frame")
    observations: Literal["state", "latents", "pixels"] = Field(
        description="what the policy sees: the simulator's state, as an eye reads it off the last three latent frames and the "
        "actions that led there (it learns that from recorded states first); these themselves; or the pixels alone"
    )
    horizon: Positive = Field(description="frames after which a dream is truncated, a multiple of the time compression")
    judge_episodes: Positive = Field(description="new episodes of the simulator on which every player is judged")
    true_baseline: bool = Field(description="train the same in the simulator too, to compare with")
    import_code: bool = Field(description="allow a simulator and wrappers whose code is not Gymnasium's (see collect)")
