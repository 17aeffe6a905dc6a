"""Compiles the parts of a network that repeat, not the network: one compilation serves all blocks of one shape."""

import torch
from torch import nn

SHAPES = 64
"""Different blocks of a network at most; torch would stop compiling after 8."""


def compile_parts(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """From now on run every module of these kinds in `network` compiled; names and weights stay as they are."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    for module in network.modules():
        if isinstance(module, kinds):
            module.compile(dynamic=False)
