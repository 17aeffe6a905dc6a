"""What a training step of the world model is."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oniris_core.common.seeds import numpy_rng, torch_generator
from oniris_core.data.latents.clips import LatentClips, action_features
from oniris_core.data.latents.store import LatentStore
from oniris_core.data.rows.clips import TRAIN
from oniris_core.nn.magnitude import force_normalize_
from oniris_core.training.fit.machine.compilation import compile_parts
from oniris_core.training.fit.machine.distributed import Ranks, of_all_ranks
from oniris_core.training.fit.machine.on_device import may_be_kept, to_device
from oniris_core.training.fit.optimiser.muon import Muon
from oniris_core.training.fit.optimiser.schedules import cooldown, inverse_sqrt, warmup
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.trainer import Outcome
from oniris_core.training.world.params import TrainParams
from oniris_core.training.world.snapshots import SnapshotEma
from oniris_core.world.averages import snapshot_steps
from oniris_core.world.denoiser import Denoiser, DenoiserConfig, Expected
from oniris_core.world.forecast import Forecaster
from oniris_core.world.loss import (
    ExpectedLoss,
    clean_frames,
    forecast_loss,
    loss_rows,
    noised_errors,
)
from oniris_core.world.outcomes import OutcomeConfig
from oniris_core.world.unet import Block, UNetConfig

START_SHARE, END_SHARE = 0.3, 0.2
"""Shares of the clips that begin with their episode, as a rollout does, and that end with it, where it may lie still."""
COOLDOWN_SHARE = 0.6
"""Last share of the training, over which the learning rate falls to zero."""
CONTEXT_NOISE = 0.2
"""Sigma of the clean frames: from 0 up to this, drawn per clip."""
SNAPSHOTS = 16
"""Of each average, evenly spread over the training: any width can be made of them afterwards."""


def denoiser_config(params: TrainParams, store: LatentStore) -> DenoiserConfig:
    """The architecture that the parameters and the latents ask for."""
    channels, height, width = (int(size) for size in store.latents.shape[1:])
    unet = UNetConfig(
        params.channels[0], params.channel_mult, params.blocks, params.video_attention, params.frame_attention,
        params.head_channels, params.window,
    )  # fmt: skip
    unet.check_latent_size(height, width)
    features = store.action_spec.features * store.actions.shape[1]
    return DenoiserConfig(
        unet, channels, height, width, features, store.change_std, params.forecast_channels,
        params.forecast_ages, outcome_config(params, store),
    )  # fmt: skip


def outcome_config(params: TrainParams, store: LatentStore) -> OutcomeConfig | None:
    """What there is to learn of rewards and ends; None where nobody asks for it or no training episode has a reward."""
    lengths = np.diff(store.episode_ends, prepend=0)
    rewards = store.rewards[np.repeat(store.split == TRAIN, lengths)].astype(np.float64)
    if not params.outcome_weight or not rewards.any():
        return None
    # Rewards that are not 0 somewhere are not all alike: those of the resets are 0.
    return OutcomeConfig(rewards.shape[1], float(rewards.mean()), float(rewards.std()))


@dataclass(frozen=True)
class WorldBatch:
    """Clips and their noise; see `noised_errors`. What their T frames earned and whether the episode has ended, [B, T, c].

    And whether the forecast alone is learned from them, beside rewards and ends.
    """

    x_BTCHW: Tensor
    actions_BTA: Tensor
    has_action_BT: Tensor
    sigma_BT: Tensor
    noise_BTCHW: Tensor
    clean_sigma_B: Tensor
    clean_noise_BTCHW: Tensor
    forecast_only: bool
    rewards_BTc: Tensor | None = None
    ended_BTc: Tensor | None = None


class WorldObjective(nn.Module):
    """The mean over frames of loss / usual loss, and of the forecast's own loss and that of rewards and ends.

    Args:
        denoiser: what is trained.
        usual: the loss that is usual at each sigma; same shape. No part of what the ranks synchronise.
        outcome_weight: of the loss of rewards and ends, if there are heads for them.
    """

    def __init__(self, denoiser: Denoiser, usual: Callable[[Tensor], Tensor], outcome_weight: float = 1.0):
        super().__init__()
        self.denoiser, self._usual, self._outcome_weight = denoiser, usual, outcome_weight

    def forward(self, batch: WorldBatch) -> Outcome:
        """The loss of a batch; of a whole step also `weighted`, as it is, `forecast`, and the `rows` it was seen at."""
        b, T = batch, batch.sigma_BT.shape[1]
        clean = clean_frames(b.x_BTCHW, b.actions_BTA, b.has_action_BT, b.clean_sigma_B, b.clean_noise_BTCHW)
        expected = self.denoiser.expect(clean, T)
        found = self._of_frames(b, expected)
        if self.denoiser.outcomes is None or b.rewards_BTc is None or b.ended_BTc is None:
            return found
        # In a dream the newest frame is not a true one but one that was drawn, in which a crash is less plain.
        told = (
            self.denoiser.find_outcomes(clean, T),
            self.denoiser.find_outcomes(clean, T, expected.drawn(b.noise_BTCHW)),
        )
        outcomes = torch.stack(
            [self.denoiser.outcomes.loss(one, b.rewards_BTc, b.ended_BTc).mean() for one in told]
        ).mean()
        logs = {**found.logs, "outcomes": outcomes.detach()}
        return Outcome(found.loss + self._outcome_weight * outcomes, logs, found.kept)

    def _of_frames(self, b: WorldBatch, expected: Expected) -> Outcome:
        if b.forecast_only:
            alone = forecast_loss(self.denoiser, b.x_BTCHW[:, -b.sigma_BT.shape[1] :], expected).mean()
            return Outcome(alone, {"forecast": alone.detach()}, {})
        errors = noised_errors(
            self.denoiser, b.x_BTCHW, b.actions_BTA, b.has_action_BT, b.sigma_BT, b.noise_BTCHW, b.clean_sigma_B,
            b.clean_noise_BTCHW, expected,
        )  # fmt: skip
        loss, rows = errors.loss, loss_rows(b.sigma_BT, errors.loss)
        total, shown = (loss / self._usual(b.sigma_BT)).mean(), {"weighted": loss.detach().mean()}
        forecast = errors.forecast.mean()
        shown["forecast"] = forecast.detach()
        return Outcome(total + forecast, shown, {"rows": rows})


def _groups(denoiser: Denoiser) -> list[dict[str, list[nn.Parameter]]]:
    """The parameters for the optimiser, those of the heads apart: so that the others move alike, to the bit, without them."""
    heads = [] if denoiser.outcomes is None else list(denoiser.outcomes.parameters())
    own = set(map(id, heads))
    rest = [parameter for parameter in denoiser.parameters() if id(parameter) not in own]
    return [{"params": rest}, *([{"params": heads}] if heads else [])]


ClipSource = Callable[[np.ndarray], tuple[Tensor, Tensor, Tensor]]
"""Makes of numbers of clips their latents, actions and has_action (see `LatentBatch`), on the device."""


def clip_source(clips: LatentClips, device: torch.device) -> ClipSource:
    """Clips from the memory of the device if all latents fit there, else from this machine's memory or disk."""
    store = clips.store
    if not clips.in_memory or not may_be_kept(store.latents.nbytes, device):

        def read(chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
            found = clips[chosen]
            return (
                to_device(found.latents, device),
                to_device(found.actions, device),
                to_device(found.has_action, device),
            )

        return read
    latents = torch.from_numpy(store.latents).to(device)
    features = torch.from_numpy(action_features(store, 0, len(store.latents))).to(device)
    mean, std = (torch.from_numpy(part).to(device)[:, None, None] for part in (store.mean, store.std))

    def gather(chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        rows, has_action = (to_device(part, device) for part in clips.places(chosen))
        return (latents[rows].float() - mean) / std, features[rows], has_action

    return gather


class WorldTrainer:
    """Trains a denoiser on random latent clips; see `oniris_core.training.fit.trainer.Trainer`.

    Attributes:
        denoiser: what is trained.
        expected: the usual loss.
        snapshots: after which steps the averages are kept, as files in the folder `kept` (None: not by this rank).
    """

    gauge = "weighted"

    def __init__(
        self,
        params: TrainParams,
        config: DenoiserConfig,
        clips: LatentClips,
        seed: int,
        device: torch.device,
        kept: Path | None,
        ranks: Ranks | None = None,
    ):
        self._params, self._clips, self._seed, self.device = params, clips, seed, device
        self._ranks = ranks or Ranks()
        torch.manual_seed(int(torch_generator(seed, "world/init").initial_seed()))
        self.denoiser = Denoiser(config).to(device)
        force_normalize_(self.denoiser)
        # Where the clock says when a training ends nobody knows which steps are evenly spread over it.
        self.snapshots = () if params.minutes else snapshot_steps(params.steps, SNAPSHOTS)
        self.expected = ExpectedLoss().to(device)
        self.state = TrainState(
            self.denoiser,
            Muon(_groups(self.denoiser), lr=params.lr),
            [SnapshotEma(self.denoiser, width, self.snapshots, kept) for width in params.ema_widths],
            self.expected,
        )
        self.objective: nn.Module = WorldObjective(self.denoiser, self.expected.__call__, params.outcome_weight)
        if params.compile:
            self.denoiser.make_masks(params.clip_latents, device)
            compile_parts(self.denoiser, (Block, Forecaster))
        self.frames_per_step = params.batch * params.clip_latents
        self._source = clip_source(clips, device)
        self.in_memory = clips.in_memory

    def batch(self, step: int, part: int) -> WorldBatch:
        """Random clips with random noise."""
        p, seed, device = self._params, self._seed, self.device
        mine = self._ranks.part(p.batch, p.accumulate, part)
        drawn = self._drawn(step)[mine]
        x, actions, has_action = self._source(drawn)
        rows, store = self._clips.places(drawn)[0][:, -p.clip_latents :], self._clips.store
        rewards, ended = (to_device(values[rows], device) for values in (store.rewards, store.ended))
        # Noise is drawn for the whole step, whoever takes part in it: a clip's depends on its place alone.
        generator = torch_generator(seed, "world/noise", step, device=device.type)
        whole = functools.partial(torch.randn, generator=generator, device=device)
        sigma = (p.p_mean + p.p_std * whole(p.batch, p.clip_latents)).exp()
        noise = whole(p.batch, p.clip_latents, *x.shape[2:])
        clean_noise = whole(p.batch, *x.shape[1:])
        # A clean frame is never declared to be quite without noise: its logarithm is an input.
        clean_sigma = (CONTEXT_NOISE * torch.rand(p.batch, generator=generator, device=device)).clamp(min=1e-3)
        here = slice(int(mine[0]), int(mine[-1]) + 1)
        return WorldBatch(
            x, actions, has_action, sigma[here], noise[here], clean_sigma[here], clean_noise[here],
            self.forecast_only(step), rewards, ended,
        )  # fmt: skip

    def forecast_only(self, step: int) -> bool:
        """Whether a step trains the forecast alone: drawn, so that such steps are spread over the training."""
        drawn = numpy_rng(self._seed, "world/lesson", step).random()
        return bool(drawn < self._params.forecast_only_share)

    def _drawn(self, step: int) -> np.ndarray:
        p = self._params
        return self._clips.index.draw(p.batch, self._seed, "world/clips", step, START_SHARE, END_SHARE)

    def lr(self, step: int, share: float) -> float:
        """Warm-up, then constant, then inverse square root, at last down to zero."""
        p = self._params
        falling = inverse_sqrt(step, p.lr_ref_steps) * cooldown(share, COOLDOWN_SHARE)
        return p.lr * warmup(step, p.warmup_steps) * falling

    def after_step(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Forced weight normalisation (arXiv 2312.02696, eq. 66); the usual loss takes in the frames of all ranks."""
        force_normalize_(self.denoiser)
        if kept[0]:
            self.expected.observe(torch.cat([of_all_ranks(part["rows"]) for part in kept]))
        return {}

    def describe(self, step: int) -> str:
        """The episodes of a step."""
        return f"episodes {', '.join(map(str, self._clips.index.episode[self._drawn(step)]))}"
