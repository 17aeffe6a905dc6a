"""The training loss at the end by noise level and by position in the clip, from the frames the usual loss is fitted to."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oniris_core.world.loss import ExpectedLoss

BINS = 20


def loss_by_sigma(expected: ExpectedLoss) -> str:
    """CSV by bins of log sigma: middle of the bin, frames in it, their geometric mean loss, the usual loss there."""
    log_sigma, log_loss, _ = expected.recent.double().cpu().numpy().T
    edges = np.histogram_bin_edges(log_sigma, BINS)
    bins = np.digitize(log_sigma, edges[1:-1])
    middles = (edges[:-1] + edges[1:]) / 2
    usual = _usual(expected, middles)
    return _table(
        ("sigma", "frames", "loss", "usual"),
        ((10 ** middles[b], n, 10 ** log_loss[of].mean(), usual[b]) for b, n, of in _groups(bins)),
    )


def loss_by_position(expected: ExpectedLoss) -> str:
    """CSV by position in the clip: frames, their geometric mean loss, and the mean of loss / usual loss."""
    log_sigma, log_loss, position = expected.recent.double().cpu().numpy().T
    relative = 10**log_loss / _usual(expected, log_sigma)
    return _table(
        ("position", "frames", "loss", "relative"),
        ((p, n, 10 ** log_loss[of].mean(), relative[of].mean()) for p, n, of in _groups(position)),
    )


def loss_figure(expected: ExpectedLoss) -> Figure:
    """`draw_loss` as a picture of its own."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    draw_loss(figure.subplots(), expected)
    return figure


def draw_loss(axis: Axes, expected: ExpectedLoss) -> None:
    """Loss against sigma, each frame coloured by its position, and the curve of the usual loss."""
    rows = expected.recent.cpu().numpy()
    axis.set(title="loss by noise level", xlabel="sigma", ylabel="weighted loss", xscale="log", yscale="log")
    if len(rows):
        log_sigma, log_loss, position = rows.T
        dots = axis.scatter(10**log_sigma, 10**log_loss, c=position, s=3, alpha=0.5, cmap="viridis", linewidths=0)
        axis.figure.colorbar(dots, ax=axis, label="position in the clip")
        grid = np.linspace(log_sigma.min(), log_sigma.max(), 200)
        axis.plot(10**grid, _usual(expected, grid), color="black", label="usual loss")
        axis.legend()


def _usual(expected: ExpectedLoss, log_sigma: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        sigma = torch.from_numpy(10 ** log_sigma.astype(np.float32)).to(expected.coefficients.device)
        return expected(sigma).cpu().numpy()


def _groups(keys: np.ndarray) -> Iterable[tuple[int, int, np.ndarray]]:
    for key in np.unique(keys):
        of = keys == key
        yield int(key), int(of.sum()), of


def _table(names: Sequence[str], rows: Iterable[Sequence[float]]) -> str:
    return "\n".join([",".join(names), *(",".join(f"{value:.6g}" for value in row) for row in rows)]) + "\n"
