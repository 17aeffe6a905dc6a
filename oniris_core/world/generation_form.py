"""The generation form: a trained denoiser made ready to step, one latent frame of each rollout at a time.

The training form (`Denoiser`) runs whole clips in parallel; this runs the same weights for one new frame against what is
remembered of those before it, and gives the same numbers. Everything constant is folded into the weights once, the whole
state of a rollout goes in and comes out as tensors, and no branch or number depends on a tensor's value: it compiles to one
graph and exports.

    ahead = form.look_ahead(state, told)      once a latent frame
    D_x = form.denoise(state, ahead, x, sigma)  at each noise level
    state = form.enter(state, ahead, told, x, sigma)  the finished frame joins the past
    rewards, ends = form.outcomes(state)      of that frame, if the model has learned them

Axes: B rollouts side by side, C channels, H, W; E features of the embedding; A features of an action, as told.
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.nn.magnitude import mp_cat, settle_
from oniris_core.nn.rotary import rotary_angles
from oniris_core.world.denoiser import Denoiser, told_of
from oniris_core.world.folded_blocks import Entering, FoldedBlock, folded, same_conv
from oniris_core.world.outcomes import Outcomes, actions_seen
from oniris_core.world.rollout_state import Ahead, RolloutState, shapes


class GenerationForm(nn.Module):
    """D(x; sigma, actions, past) of a trained `Denoiser` for the next frame of each of B rollouts.

    Nothing is checked here, at each evaluation: `oniris_core.sampling` checks what enters a rollout.

    Args:
        denoiser: the trained model; it is copied, and later changes of it are not seen.
    """

    noise: Tensor
    action: Tensor
    stem: Tensor
    stem_ones: Tensor
    head: Tensor
    embeddings: Tensor
    gates: Tensor

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.config = config = denoiser.config
        unet, height, width = denoiser.unet, config.latent_height, config.latent_width
        half = 0.5 / math.sqrt(0.5)  # each part's share in mp_sum(noise, action, 0.5)
        self.fourier = copy.deepcopy(denoiser.fourier)
        self.register_buffer("noise", folded(denoiser.noise, gain=half))
        self.register_buffer("action", folded(denoiser.action, gain=half))
        stem = folded(unet.stem, height, width)
        self.register_buffer("stem", stem[:, :-1].contiguous())
        ones = stem.new_ones(1, 1, height, width)  # what the channel of ones comes to is the same for every frame
        self.register_buffer("stem_ones", same_conv(ones, stem[:, -1:]))
        self.register_buffer("head", folded(unet.head, height, width, unet.head_gain))
        self.blocks = nn.ModuleList()
        sizes = list[tuple[int, int]]()
        for block in (*unet.encoder, *unet.decoder):
            if block.resample == "down":
                height, width = height // 2, width // 2
            elif block.resample == "up":
                height, width = 2 * height, 2 * width
            sizes.append((height, width))
            self.blocks.append(FoldedBlock(block, height, width))
        self._sizes, self._encoders, self._uses_skip = sizes, len(unet.encoder), list(unet.uses_skip)
        self._window, self._compiled = config.unet.window, False
        self._pixels = next((h * w for block, (h, w) in self._sized() if block.looks_back), 0)
        self._shapes = dict[int, list[tuple[int, ...]]]()  # of states with so many slots, without the batch
        # The embeddings and gates of all blocks at once.
        self.register_buffer("embeddings", torch.cat([block.embedding for block in self._each()]))
        self.register_buffer("gates", torch.stack([block.gate for block in self._each()], dim=1))  # [3, blocks]
        self._widths = [len(block.embedding) for block in self._each()]
        self.forecaster = copy.deepcopy(denoiser.forecaster)
        settle_(self.forecaster)
        self.heads = copy.deepcopy(denoiser.outcomes)
        if self.heads is not None:
            settle_(self.heads)
        self.requires_grad_(False).eval()

    def compile_parts(self) -> None:
        """Compile its three steps, each to one graph for every moment and noise level of batches of one size.

        From then on a state has room for the whole window from the start, so that no shape changes on the way.
        """
        self._compiled = True
        for name in ("look_ahead", "denoise", "enter"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=False, fullgraph=True))

    def _room(self, slots: int | None) -> int:
        return self._window if self._compiled or slots is None else min(slots, self._window)

    def _each(self) -> list[FoldedBlock]:
        return [block for block in self.blocks if isinstance(block, FoldedBlock)]

    def _sized(self) -> list[tuple[FoldedBlock, tuple[int, int]]]:
        return list(zip(self._each(), self._sizes, strict=True))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of a latent frame."""
        c = self.config
        return c.latent_channels, c.latent_height, c.latent_width

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.stem.device

    @property
    def frames_held(self) -> int:
        """How many of the last frames a state holds."""
        return self.config.forecast_ages[-1]

    def tell(self, actions_BA: Tensor, has_action_B: Tensor) -> Tensor:
        """[B, A + 1]: what the network is told of actions, some of which may not be known."""
        return told_of(actions_BA, has_action_B)

    def begin(self, first_BCHW: Tensor, sigma_B: Tensor, slots: int | None = None) -> RolloutState:
        """The state of rollouts that are about to begin: their first frame has not entered yet, but is given.

        Before it an episode stood still, so that its first frame is expected as in training: from copies of itself.

        Args:
            first_BCHW: the first frame of each rollout.
            sigma_B: the noise level that it is declared to have.
            slots: how many frames there is room for, if not the whole window: before more have entered, it must `grow`.
        """
        c, B, slots = self.config, first_BCHW.shape[0], self._room(slots)
        nothing = self.tell(first_BCHW.new_zeros(B, c.action_features), first_BCHW.new_zeros(B))
        convs, keys, values = list[Tensor](), list[Tensor](), list[Tensor]()
        for block, (height, width) in self._sized():
            convs.append(first_BCHW.new_zeros(B, 2, block.frame.shape[1], height, width))
            if block.attention is not None and block.looks_back:
                D, pixels = block.attention.head_channels, slots * height * width
                heads = block.attention.out.shape[0] // D
                keys.append(first_BCHW.new_zeros(B, heads, D, pixels))
                values.append(first_BCHW.new_zeros(B, heads, D + 1, pixels))
        return RolloutState(
            position=torch.zeros(B, dtype=torch.int64, device=first_BCHW.device),
            clean=first_BCHW[:, None].repeat(1, self.frames_held, 1, 1, 1),
            clean_sigma=sigma_B.clone(),
            told=nothing[:, None].repeat(1, actions_seen(self.config.forecast_ages), 1),
            convs=tuple(convs), keys=tuple(keys), values=tuple(values),
        )  # fmt: skip

    def check(self, state: RolloutState) -> None:
        """Raise ValueError if a state is of another architecture than this model's."""
        slots = state.keys[0].shape[-1] // self._pixels if state.keys and self._pixels else 1
        if slots not in self._shapes:
            frame = self.stem.new_zeros(1, *self.latent_shape)
            self._shapes[slots] = shapes(self.begin(frame, frame[:, 0, 0, 0], slots))
        if shapes(state) != self._shapes[slots]:
            raise ValueError("a state of another model than this one")

    def grow(self, state: RolloutState, slots: int) -> RolloutState:
        """The same state with room for so many frames, or the whole window; to be asked for while it holds all that entered."""
        wanted = [self._room(slots) * h * w for block, (h, w) in self._sized() if block.looks_back]

        def with_room(held: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(
                F.pad(part, (0, max(room - part.shape[-1], 0))) for part, room in zip(held, wanted, strict=True)
            )

        return state._replace(keys=with_room(state.keys), values=with_room(state.values))

    def look_ahead(self, state: RolloutState, told_BA: Tensor) -> Ahead:
        """All that is known of the next frame before it is looked at; `told_BA` from `tell`: the actions that lead to it."""
        has_past = (state.position > 0).to(told_BA.dtype)[:, None]
        seen = torch.stack([state.clean[:, -age] for age in self.config.forecast_ages], dim=1)
        told = torch.stack([told_BA, *state.told.unbind(1)[::-1]], dim=1)  # not flipped: some runtimes get that wrong
        forecast = self.forecaster(seen[:, None], told[:, None], state.clean_sigma[:, None])
        center, spread = forecast.mean[:, 0], forecast.spread[:, 0]
        fixed = torch.cat([center, (spread / self.config.change_std).log()], dim=1)
        stem = self.stem_ones + same_conv(fixed, self.stem[:, self.config.latent_channels :])
        _, by_position, constant = self.gates.unbind(0)
        position = torch.log1p(state.position.to(told_BA.dtype))[:, None]
        angles: tuple[Tensor, ...] = ()
        if state.keys:
            D = self.config.unet.head_channels
            angles = tuple(
                torch.stack([part * D**-0.5, part], dim=1)[:, :, None, :, None].to(told_BA.dtype)
                for part in rotary_angles(state.position, D)
            )
        return Ahead(
            center, spread, stem, F.linear(told_BA, self.action), by_position * position + constant, has_past,
            tuple(
                same_conv(frames.flatten(1, 2), block.past)
                for frames, block in zip(state.convs, self._each(), strict=True)
            ),
            angles,
        )  # fmt: skip

    def denoise(self, state: RolloutState, ahead: Ahead, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """D: the expected clean frame, given it noised at the noise levels sigma_B, above 0."""
        return self.evaluate(state, ahead, x_BCHW, sigma_B)[0]

    def enter(
        self, state: RolloutState, ahead: Ahead, told_BA: Tensor, x_BCHW: Tensor, sigma_B: Tensor
    ) -> RolloutState:
        """The state after a finished frame, declared to have noise level sigma_B, has joined the past."""
        return self.join(state, told_BA, x_BCHW, sigma_B, self.evaluate(state, ahead, x_BCHW, sigma_B)[1])

    def join(
        self, state: RolloutState, told_BA: Tensor, x_BCHW: Tensor, sigma_B: Tensor, entering: Sequence[Entering]
    ) -> RolloutState:
        """The state after a frame of which `evaluate` has said what the blocks remember; no weight is needed for that."""
        first = (state.position == 0)[:, None, None, None, None]

        def shifted(held: Tensor, new: Tensor) -> Tensor:
            """The oldest leaves; before the first frame stand copies of it."""
            after = torch.cat([held[:, 1:], new[:, None]], dim=1)
            return torch.where(first, new[:, None].expand_as(after), after)

        def written(held: Tensor, new: Tensor) -> Tensor:
            into = held.unflatten(-1, (-1, new.shape[-1]))  # [B, N, D, V, P]
            slots = torch.arange(into.shape[3], device=new.device)
            here = slots == state.position[:, None] % into.shape[3]
            return torch.where(here[:, None, None, :, None], new[:, :, :, None], into).flatten(3)

        attention = [part.attention for part in entering if part.attention is not None]
        return RolloutState(
            position=state.position + 1,
            clean=torch.cat([state.clean[:, 1:], x_BCHW[:, None]], dim=1),
            clean_sigma=sigma_B,
            told=torch.cat([state.told, told_BA[:, None]], dim=1)[:, 1:].contiguous(),
            convs=tuple(shifted(held, part.conv) for held, part in zip(state.convs, entering, strict=True)),
            keys=tuple(written(held, key) for held, (key, _) in zip(state.keys, attention, strict=True)),
            values=tuple(written(held, value) for held, (_, value) in zip(state.values, attention, strict=True)),
        )

    def outcomes(self, state: RolloutState) -> Outcomes | None:
        """What the newest frame of each rollout earned, and whether its episode has ended; None where that was not learned."""
        return None if self.heads is None else self.heads.after(state.clean, state.told, state.clean_sigma)

    def evaluate(
        self, state: RolloutState, ahead: Ahead, x_BCHW: Tensor, sigma_B: Tensor
    ) -> tuple[Tensor, list[Entering]]:
        """`denoise`, and what each block would remember of the frame."""
        sigma, spread, from_center = sigma_B[:, None, None, None], ahead.spread, x_BCHW - ahead.center
        c_in = torch.rsqrt(sigma.square() + spread.square())
        share = spread * c_in  # the root of c_skip
        unit_change = c_in * from_center
        c_noise = sigma_B.log() / 4
        embedding = F.silu(F.linear(self.fourier(c_noise), self.noise) + ahead.action)
        scales = (F.linear(embedding, self.embeddings) + 1).split(self._widths, dim=1)
        gate = torch.sigmoid(self.gates[0] * c_noise[:, None] + ahead.gate) * ahead.has_past
        root = torch.rsqrt((1 - gate).square() + gate.square())
        of_frame, of_past = ((part * root)[..., None, None, None].unbind(1) for part in (1 - gate, gate))

        x = ahead.stem + same_conv(share * unit_change, self.stem[:, : self.config.latent_channels])
        skips, looking = [x], 0
        entering: list[Entering] = []
        for number, block in enumerate(self._each()):
            decoding = number - self._encoders
            if decoding >= 0 and self._uses_skip[decoding]:
                x = mp_cat(x, skips.pop(), dim=1)
            scale = scales[number][..., None, None]
            keys, values = None, None
            if block.looks_back:
                keys, values = state.keys[looking], state.values[looking]
                looking += 1
            x, left = block(
                x, scale * of_frame[number], ahead.past[number] * (scale * of_past[number]), keys, values, ahead.angles
            )
            entering.append(left)
            if decoding < 0:
                skips.append(x)
        added, gain = same_conv(x, self.head).chunk(2, dim=1)
        F_x = added + gain * unit_change
        return ahead.center + share.square() * from_center + sigma * share * F_x, entering
