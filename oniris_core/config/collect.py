"""Parameters of the stage `collect`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from oniris_core.config.base import Count, Float, Params, Positive, Share


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
    # The rest has defaults, so that a params.yaml from before there were recordings goes on working.
    source: Literal["environment", "videos", "counter_strike", "minari", "lerobot"] = Field(
        "environment", description="what is recorded: an environment that is played, or recordings in this layout"
    )
    recordings: str = Field("", description="folder of the recordings (empty for an environment)")
    recording_action_key: str = Field("", description="name of the actions in their files (empty: actions or action)")
    recording_action_space: dict[str, Any] = Field(
        {},
        description="action space of the recordings, such as {kind: discrete, sizes: [4]} ({}: declared or inferred)",
    )
    recording_action_leads_to: Literal["next_frame", "same_frame"] = Field(
        "next_frame",
        description="the frame that a row's action leads to: the one after, or the row's own (videos only)",
    )
    recording_skipped_actions: Literal["last", "all"] = Field(
        "last", description="actions kept of those between two recorded frames when frame_skip is above 1"
    )
    recording_camera: str = Field("", description="which frames of several (empty: there is only one kind)")
    recording_frame_rate: Annotated[Float, Field(ge=0)] = Field(
        0.0, description="frames per second of the recordings (0: as they say themselves, or 30)"
    )

    def record(self) -> dict[str, Any]:
        """What the result depends on: no number of workers, no path, and nothing that the chosen source does not use."""
        of_recordings = {name for name in type(self).model_fields if name.startswith("recording")} | {"source"}
        for_both = {"max_frames", "height", "width", "frame_skip", "held_out_share"}
        unused = (
            of_recordings if self.source == "environment" else set(type(self).model_fields) - of_recordings - for_both
        )
        return self.model_dump(mode="json", exclude=unused | {"workers", "recordings"})

    @model_validator(mode="after")
    def _shares_add_up(self) -> "CollectParams":
        if abs(self.random_share + self.heuristic_share - 1) > 1e-9:
            raise ValueError(
                f"random_share and heuristic_share must add up to 1, not {self.random_share + self.heuristic_share:g}"
            )
        return self
