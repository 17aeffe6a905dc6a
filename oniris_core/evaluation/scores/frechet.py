"""Frechet distance between two sets of features (arXiv 1706.08500, eq. 6), on the action probe's last hidden layer."""

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance


class _Features(nn.Identity):
    """Features given as they are, where the metric expects a network that makes them of images."""

    def __init__(self, count: int):
        super().__init__()
        self.num_features = count


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of features [N, F] and [M, F], in double precision; NaN where a set has fewer than two."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    metric = FrechetInceptionDistance(feature=_Features(a.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(a).double(), real=True)
    metric.update(torch.from_numpy(b).double(), real=False)
    return float(metric.compute())
