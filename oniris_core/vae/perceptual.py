"""A perceptual loss on the features of a VGG network whose weights are a local file."""

import math
import re
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.common.artefacts.weights import load_tensors
from oniris_core.common.errors import UserError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the colours VGG was trained on, in 0..1


class Perceptual(nn.Module):
    """Mean squared distance of channel-normalised VGG features, averaged over the stages of the network.

    After LPIPS (arXiv 1801.03924, eq. 1) with all channel weights equal. The architecture is read off the file, which has
    torchvision's names (`features.0.weight`, ...): two indices apart stands an activation, three apart a pooling too.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path):
        """Load the weights.

        Raises:
            UserError: the file cannot be read as safetensors, or holds no VGG features.
        """
        super().__init__()
        found = load_tensors(path)
        indices = sorted({int(m[1]) for name in found if (m := re.fullmatch(r"features\.(\d+)\.weight", name))})
        self.stages = nn.ModuleList()
        layers = list[nn.Module]()
        try:
            for index, following in pairwise([*indices, math.inf]):
                weight, bias = found[f"features.{index}.weight"].float(), found[f"features.{index}.bias"].float()
                conv = nn.Conv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]), padding="same")
                conv.load_state_dict({"weight": weight, "bias": bias})
                layers += [conv, nn.ReLU()]
                if following - index > 2:
                    self.stages.append(nn.Sequential(*layers))
                    layers = [nn.MaxPool2d(2)]
        except (KeyError, IndexError, RuntimeError) as error:
            raise UserError(f"{path} does not hold the features of a VGG network: {error}") from None
        if not indices or found[f"features.{indices[0]}.weight"].shape[1] != 3:
            raise UserError(f"{path} does not hold the features of a VGG network: no 'features.N.weight' of 3 colours")
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])
        self.requires_grad_(False)

    def forward(self, a_BTCHW: Tensor, b_BTCHW: Tensor) -> Tensor:
        """The distance of two videos in -1..1, a scalar."""
        a, b = (((x.flatten(0, 1) + 1) / 2 - self.mean) / self.std for x in (a_BTCHW, b_BTCHW))
        distances = []
        for stage in self.stages:
            a, b = stage(a), stage(b)
            distances.append((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean())
        return torch.stack(distances).mean()
