"""Parameters of the stage `policy`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from oniris_core.config.base import Count, Float, Params, Positive


class PolicyParams(Params):
    """How a policy is trained inside the world model, and how it is judged outside."""

    steps: Positive = Field(description="decisions to train for, over all dreams; one decision is one latent frame")
    dreams: Positive = Field(description="dreams side by side")
    observations: Literal["pixels", "latents"] = Field(
        description="what the policy sees: the frames of the last latent frame, or that latent frame"
    )
    context_latents: Count = Field(description="true latent frames, after the reset frame, that a dream starts from")
    horizon: Positive = Field(description="frames after which a dream is truncated, a multiple of the time compression")
    solver_steps: Positive = Field(description="noise levels of the Heun solver in dreams")
    rollout_steps: Annotated[int, Field(ge=2)] = Field(description="decisions of each dream between two updates of PPO")
    batch: Annotated[int, Field(ge=2)] = Field(description="decisions of a minibatch of PPO")
    epochs: Positive = Field(description="passes of PPO over the decisions of an update")
    lr: Float = Field(gt=0, description="learning rate of PPO")
    gamma: Float = Field(gt=0, le=1, description="discount of a reward one decision later")
    entropy: Float = Field(ge=0, description="weight of the entropy of actions in the loss of PPO")
    points: Positive = Field(description="times in the training at which returns inside and outside are compared")
    point_episodes: Positive = Field(description="recorded starts they are compared on, or as many as there are")
    judge_episodes: Positive = Field(description="new episodes of the simulator on which every player is judged")
    true_baseline: bool = Field(description="train the same in the simulator too, to compare with")
    import_code: bool = Field(description="allow a simulator and wrappers whose code is not Gymnasium's (see collect)")

    @model_validator(mode="after")
    def _whole_batches(self) -> "PolicyParams":
        taken = self.dreams * self.rollout_steps
        if taken % self.batch:
            raise ValueError(
                f"batch = {self.batch} must divide dreams * rollout_steps = {taken}, the decisions of an update"
            )
        return self
