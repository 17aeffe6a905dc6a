"""Parameters of the stage `collect`."""

from typing import Any

from pydantic import Field, model_validator

from oniris_core.config.base import Count, Params, Positive, Share


class CollectParams(Params):
    """How episodes are played and recorded."""

    env_id: str = Field(description="Gymnasium id with its version, such as LunarLander-v3")
    env_kwargs: dict[str, Any] = Field(description="keyword arguments of gymnasium.make")
    import_env_module: bool = Field(description="allow ids of the form module:Env, which import that module's code")
    episodes: Positive = Field(description="episodes to play")
    max_frames: Positive = Field(description="frames recorded of an episode at most, the reset frame among them")
    height: Positive = Field(description="height of a recorded frame, pixels")
    width: Positive = Field(description="width of a recorded frame, pixels")
    frame_skip: Positive = Field(description="environment steps from one recorded frame to the next")
    frames_per_action: Positive = Field(description="recorded frames for which an action is held")
    random_share: Share = Field(description="share of episodes played at random")
    heuristic_share: Share = Field(description="share played by Gymnasium's heuristic (random where it ships none)")
    heuristic_noise: Share = Field(description="share of random actions in those: from 0 up to this, drawn per episode")
    held_out_share: Share = Field(description="share of episodes kept from training, for evaluation")
    workers: Count = Field(description="worker processes (0: as many as there are cores)")

    @model_validator(mode="after")
    def _shares_add_up(self) -> "CollectParams":
        if abs(self.random_share + self.heuristic_share - 1) > 1e-9:
            raise ValueError(
                f"random_share and heuristic_share must add up to 1, not {self.random_share + self.heuristic_share:g}"
            )
        return self
