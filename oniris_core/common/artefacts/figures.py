"""Pictures of reports as files."""

from pathlib import Path

from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> None:
    """A PNG without the name and version of the program that drew it, so that equal figures are equal files."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
