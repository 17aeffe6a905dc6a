"""Which packages of the lock file the steps import, so that they can be brought to a machine without a network."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"
MODULES = (
    "benchmarks.gpu.correct", "benchmarks.gpu.fast", "benchmarks.gpu.learned", "stages.train_vae", "stages.encode",
    "stages.train", "stages.render",
)  # fmt: skip
LATER = (
    "einops",
    "gymnasium",
    "Box2D",
    "pygame",
    "imageio",
    "jinja2",
    "matplotlib",
    "PIL",
    "scipy",
    "torchmetrics",
    "zarr",
)
"""What is imported inside of commands only."""


def needs() -> list[str]:
    """Lines of the lock file, those that are imported here; asked of a process of its own."""
    code = (
        f"import sys, importlib\nfor m in {MODULES + LATER!r}:\n    importlib.import_module(m)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=LOCK.parent)
    distributions = packages_distributions()
    names = {_plain(d) for module in loaded.stdout.split() for d in distributions.get(module, [])}
    return [line for line in LOCK.read_text().splitlines() if _plain(line.split("==")[0]) in names]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")
