"""Parameters of the stage `collect`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from oniris_core.config.base import Count, Float, Ints, Params, Positive, Share


def _calls(wrappers: list[Any]) -> list[Any]:
    for entry in wrappers:
        name, arguments = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            wrong = f"an entry is a name or {{name: {{argument: value}}}}, not {entry!r}"
            raise ValueError(wrong)  # noqa: TRY004  (what pydantic turns into one line)
    return wrappers


class CollectParams(Params):
    """How episodes are played and recorded."""

    # Where and how long episodes are played, or where recordings lie: not what they hold.
    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({
        "workers", "dask_address", "episode_timeout_s", "failures_allowed", "recordings",
    })  # fmt: skip
    ADVANCED: ClassVar[frozenset[str]] = frozenset({
        "env_kwargs", "resize", "random_actions", "random_held", "dask_address", "episode_timeout_s", "failures_allowed",
        "recording_action_key", "recording_action_space", "recording_action_lag", "recording_skipped_actions",
        "recording_camera", "recording_frame_rate",
    })  # fmt: skip

    env_id: str = Field(description="Gymnasium id with its version, such as LunarLander-v3")
    env_kwargs: dict[str, Any] = Field(description="keyword arguments of gymnasium.make")
    wrappers: Annotated[list[Any], AfterValidator(_calls)] = Field(
        description="Gymnasium wrappers by dotted name, innermost first; {name: {argument: value}} passes arguments"
    )
    import_code: bool = Field(
        description="allow `policy`, ids of the form module:Env and wrappers from outside Gymnasium: all run code of others"
    )
    episodes: Annotated[int, Field(ge=1, le=2**20)] = Field(description="episodes to play")
    max_frames: Positive = Field(description="frames recorded of an episode at most, the reset frame among them")
    size: Annotated[tuple[Positive, Positive], Field(strict=False)] = Field(
        description="height and width of a recorded frame, pixels"
    )
    resize: Literal["stretch", "pad"] = Field(
        description="a screen of another shape is stretched, or keeps its aspect and is padded with black"
    )
    frame_skip: Positive = Field(description="environment steps from one recorded frame to the next")
    frames_per_action: Annotated[Ints, Field(min_length=2, max_length=2)] = Field(
        description="recorded frames for which an action is held: from the first to the second number, drawn each time"
    )
    heuristic_share: Share = Field(
        description="share of episodes played by a heuristic (random where there is none); the others are played at random"
    )
    policy: str = Field(
        description="module:callable, or a saved policy: TorchScript (.pt), of the stage policy (.pt2) or of "
        "Stable-Baselines3 (.zip); empty: none"
    )
    policy_share: Share = Field(description="share of episodes played by `policy`")
    random_actions: Share = Field(
        description="share of random actions in episodes of heuristic and policy: from 0 up to this, drawn per episode"
    )
    random_held: Positive = Field(
        1, description="decisions for which a random action is held: from 1 up to this, drawn each time"
    )
    held_out_share: Share = Field(description="share of episodes kept from training, for evaluation")
    workers: Count = Field(description="worker processes (0: as many as there are cores)")
    dask_address: str = Field(description="play on the Dask cluster whose scheduler is here (empty: on this machine)")
    episode_timeout_s: Annotated[Float, Field(gt=0)] = Field(description="longest an episode may take, seconds")
    failures_allowed: Count = Field(
        description="episodes that may crash or hang and be left out before collection stops"
    )
    # The rest has defaults, so that a params.yaml from before there were recordings goes on working.
    source: Literal[
        "environment", "videos", "pictures", "npz", "zarr", "robomimic", "lerobot", "minari", "counter_strike"
    ] = Field(
        "environment", description="what is recorded: an environment that is played, or recordings in this layout"
    )
    recordings: str = Field("", description="folder of the recordings (empty for an environment)")
    recording_action_key: str = Field(
        "", description="name of the actions in their files, or several columns: a, b (empty: actions or action)"
    )
    recording_action_space: dict[str, Any] = Field(
        {},
        description="action space of the recordings, such as {kind: discrete, sizes: [4]} ({}: declared or inferred)",
    )
    recording_action_lag: Annotated[int, Field(ge=-1024, le=1024)] = Field(
        0,
        description="frames by which an action takes effect later than the layout says (-1: a row's action led to its own "
        "frame)",
    )
    recording_skipped_actions: Literal["last", "all"] = Field(
        "last", description="actions kept of those between two recorded frames when frame_skip is above 1"
    )
    recording_camera: str = Field("", description="which frames of several (empty: there is only one kind)")
    recording_frame_rate: Annotated[Float, Field(ge=0)] = Field(
        0.0, description="frames per second of the recordings (0: as they say themselves, or 30)"
    )

    def as_record(self) -> dict[str, Any]:
        """What the result depends on: no number of workers, no path, and nothing that the chosen source does not use."""
        of_recordings = {name for name in type(self).model_fields if name.startswith("recording")} | {"source"}
        for_both = {"max_frames", "size", "resize", "frame_skip", "held_out_share"}
        unused = (
            of_recordings if self.source == "environment" else set(type(self).model_fields) - of_recordings - for_both
        )
        return self.model_dump(mode="json", exclude=unused | self.OPERATIONAL)

    @model_validator(mode="after")
    def _shares_add_up(self) -> "CollectParams":
        total = self.heuristic_share + self.policy_share
        if total > 1 + 1e-9:
            raise ValueError(f"heuristic_share and policy_share must add up to at most 1, not {total:g}")
        if bool(self.policy) != (self.policy_share > 0):
            raise ValueError("policy and policy_share belong together: set both, or neither")
        if self.policy and not self.import_code:
            raise ValueError(f"policy '{self.policy}' would run code of others; allow it with import_code: true")
        if self.frames_per_action[0] > self.frames_per_action[1]:
            raise ValueError(f"frames_per_action must not fall, not {list(self.frames_per_action)}")
        return self

    @property
    def height(self) -> int:
        """Of a recorded frame, pixels."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Of a recorded frame, pixels."""
        return self.size[1]

    @property
    def random_share(self) -> float:
        """Share of episodes played at random: what heuristic and policy leave."""
        return max(1 - self.heuristic_share - self.policy_share, 0.0)

    @property
    def wrapper_calls(self) -> list[tuple[str, dict[str, Any]]]:
        """The wrappers as (dotted name, keyword arguments)."""
        return [next(iter(entry.items())) if isinstance(entry, dict) else (entry, {}) for entry in self.wrappers]
