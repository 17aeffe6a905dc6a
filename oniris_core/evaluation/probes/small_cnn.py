"""The small networks that read states and actions off pictures, and how they are trained: in seconds, always alike."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from oniris_core.common.seeds import numpy_rng, torch_generator

SIDE = 20
"""Crops are this many pixels high and wide, of frames 64 pixels high; larger frames are averaged down to that before."""

_WHOLE = 32  # whole frames are averaged down to about this height
_BATCH, _LR, _AT_ONCE = 128, 5e-3, 512


class SmallCnn(nn.Module):
    """Stacks of n frames [B, 3 n, s, s'] in 0..1 to features [B, F] to outputs [B, D].

    It is shown the last frame and the changes from each frame to the next: that is where motion is. A black background is 0.
    """

    def __init__(self, channels: int, side: tuple[int, int], outputs: int, features: int = 32):
        super().__init__()
        layers, width = list[nn.Module](), channels
        for wider in (48, 64, 64):
            layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
            width = wider
        pixels = -(-side[0] // 8) * -(-side[1] // 8)
        layers += [nn.Flatten(), nn.Linear(width * pixels, features), nn.BatchNorm1d(features), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(features, outputs)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features and outputs."""
        frames = x_BCHW.unflatten(1, (-1, 3))
        changes = 2 * (frames[:, 1:] - frames[:, :-1])
        features = self.body(torch.cat([frames[:, -1:], changes], dim=1).flatten(1, 2))
        return features, self.head(features)


def fit(
    images: np.ndarray,
    outputs: int,
    loss: Callable[[Tensor, np.ndarray], Tensor],
    *,
    steps: int,
    seed: int,
    purpose: str,
    device: torch.device,
    tick: Callable[[], None],
) -> SmallCnn:
    """Train a network on images.

    Args:
        images: uint8 [N, s, s', C].
        outputs: how many numbers it gives per image.
        loss: outputs [B, D] of the images with these indices [B], to a mean loss.
        steps: of 128 images, with Adam and one cycle of the learning rate up to 5e-3.
        seed, purpose: of the initial weights and of the order of images.
        device: where to compute.
        tick: called after each step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch_generator(seed, purpose).initial_seed() % 2**63))
        net = SmallCnn(images.shape[-1], images.shape[1:3], outputs).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LR, total_steps=steps + 1, pct_start=0.1)
    for step in range(steps):
        rng = numpy_rng(seed, purpose, step)
        chosen = rng.integers(len(images), size=_BATCH)
        value = loss(net(_input(_shifted(images[chosen], rng), device))[1], chosen)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        tick()
    return net.eval()


def _shifted(images_NHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to a pixel, round the edges: with few images that is worth as much as four times as many."""
    rows, columns = (
        (np.arange(size) + rng.integers(-1, 2, (len(images_NHWC), 1))) % size for size in images_NHWC.shape[1:3]
    )
    return images_NHWC[np.arange(len(images_NHWC))[:, None, None], rows[:, :, None], columns[:, None]]


@torch.no_grad()
def apply(net: SmallCnn, images: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, F] and outputs [N, D] of uint8 images [N, s, s', C]."""
    parts = [net(_input(images[i : i + _AT_ONCE], device)) for i in range(0, len(images), _AT_ONCE)]
    if not parts:
        return np.zeros((0, net.head.in_features), np.float32), np.zeros((0, net.head.out_features), np.float32)
    features, outputs = zip(*parts, strict=True)
    return torch.cat(features).cpu().numpy(), torch.cat(outputs).cpu().numpy()


def _input(images_NHWC: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(images_NHWC).to(device).permute(0, 3, 1, 2).float() / 255


def crops(frames: np.ndarray, centres: np.ndarray, screen: tuple[int, int]) -> np.ndarray:
    """Squares round a point, black beyond the frame.

    Args:
        frames: uint8 [N, H, W, C].
        centres: [N, 2], finite, on a screen of width and height `screen`.
        screen: see above.

    Returns:
        uint8 [N, SIDE, SIDE, C].
    """
    frames = shrink(frames, 64)
    height, width = frames.shape[1:3]
    half = SIDE // 2
    padded = np.pad(frames, ((0, 0), (half, half), (half, half), (0, 0)))
    corner = np.rint(centres * (width / screen[0], height / screen[1])).astype(np.int64).clip(0, (width, height))
    rows = corner[:, 1, None, None] + np.arange(SIDE)[:, None]
    columns = corner[:, 0, None, None] + np.arange(SIDE)
    return padded[np.arange(len(frames))[:, None, None], rows, columns]


def shrink(frames: np.ndarray, height: int = _WHOLE) -> np.ndarray:
    """Frames uint8 [N, H, W, C] averaged over whole blocks to at least `height` pixels of height, if they are higher."""
    factor = max(frames.shape[1] // height, 1)
    if factor == 1:
        return frames
    n, rows, columns, channels = frames.shape
    cut = frames[:, : rows // factor * factor, : columns // factor * factor]
    blocks = cut.reshape(n, rows // factor, factor, columns // factor, factor, channels)
    return blocks.mean((2, 4), dtype=np.float32).round().astype(np.uint8)
