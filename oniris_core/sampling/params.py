"""Parameters of the stage `render`."""

from typing import ClassVar

from pydantic import Field

from oniris_core.config.base import Float, Params, Positive

SIGMA_MIN = 0.05
"""Last noise level before zero."""


class RenderParams(Params):
    """What is generated, how, and what is measured of it."""

    ADVANCED: ClassVar[frozenset[str]] = frozenset({"action_contexts", "dream_frames", "probe_steps"})

    episodes: Positive = Field(description="held-out episodes to continue, or as many as there are")
    context_latents: Positive = Field(description="true latent frames each rollout starts from")
    horizon: Positive = Field(description="frames to generate, a multiple of the time compression")
    samples: int = Field(
        ge=2, description="continuations of every context with different noise; the simulator's are as many"
    )
    action_contexts: Positive = Field(
        description="contexts also continued under other actions: each constant one, and those of another episode"
    )
    dreams: Positive = Field(description="long rollouts, for drift")
    dream_frames: Positive = Field(description="frames of each")
    probe_steps: Positive = Field(description="training steps of each network that reads or tells something off frames")
    import_code: bool = Field(
        description="allow replay of environments, and wrappers, whose code is not Gymnasium's, also by play (see collect)"
    )

    ema_width: Float = Field(
        gt=0,
        lt=0.28,
        description="width of the weights' average: one of train.ema_widths, or any made of their snapshots",
    )
    solver_steps: Positive = Field(description="noise levels of the solver, at each of which the network is asked once")
    sigma_max: Float = Field(ge=SIGMA_MIN, description="the first of them; the last is 0.05")
    compile: bool = Field(description="compile what generates: seconds to minutes at first, faster frames")
