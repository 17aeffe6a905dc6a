"""Parameters of the stage `render`."""

from pydantic import Field, model_validator

from oniris_core.config.base import Count, Float, Params, Positive


class RenderParams(Params):
    """What is generated, how, and what is shown of it."""

    episodes: Positive = Field(description="held-out episodes to continue, or as many as there are")
    context_latents: Positive = Field(description="true latent frames each rollout starts from")
    horizon: Positive = Field(description="frames to generate, a multiple of the time compression")
    batch: Positive = Field(description="rollouts generated side by side; only speed depends on it")
    samples: int = Field(
        ge=2, description="continuations of every context with different noise; the simulator's are as many"
    )
    action_contexts: Positive = Field(
        description="contexts also continued under other actions: each constant one, and those of another episode"
    )
    dreams: Positive = Field(description="long rollouts, for drift")
    dream_frames: Positive = Field(description="frames of each")
    probes: Positive = Field(
        description="networks that read actions off frames, or tell generated frames from true ones; their answers are averaged"
    )
    probe_steps: Positive = Field(description="training steps of each network that reads or tells something off frames")
    import_code: bool = Field(
        description="allow replay of environments, and wrappers, whose code is not Gymnasium's (see collect)"
    )
    videos: Positive = Field(description="episodes shown as videos and in the contact sheet")

    ema_width: Float = Field(
        gt=0,
        lt=0.28,
        description="width of the weights' average: one of train.ema_widths, or any made of their snapshots",
    )
    solver_steps: Positive = Field(description="noise levels of the solver, at each of which the network is asked once")
    sigma_max: Float = Field(gt=0, description="noise level generation starts from")
    sigma_min: Float = Field(gt=0, description="last noise level before zero")
    rho: Float = Field(ge=1, description="curvature of the noise schedule")
    context_sigma: Float = Field(gt=0, description="noise level the past is declared to have")
    compile: bool = Field(description="compile what generates: seconds to minutes at first, faster frames")
    seed_offset: Count = Field(description="added to common.seed for other samples of the same model")

    @model_validator(mode="after")
    def _consistent(self) -> "RenderParams":
        if self.sigma_min > self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g} must not exceed sigma_max = {self.sigma_max:g}")
        return self
