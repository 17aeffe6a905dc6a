"""Not a stage: writes a preset (presets/*.yaml) into params.yaml, for `dvc repro` and `dvc exp run` to follow."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.config.cli import PARAMS_FILE, StageCommand, say
from oniris_core.config.presets import apply_preset

PRESETS = Path(__file__).resolve().parent.parent / "presets"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=StageCommand)
def main(
    name: Annotated[str, typer.Argument(help="cpu, control, gpu64, gpu, csgo or tiny: a file of the folder presets/")],
    params: Annotated[Path, typer.Option(help="the parameter file to change")] = PARAMS_FILE,
) -> None:
    """Set the parameters of a preset in params.yaml; comments and all other parameters stay as they are."""
    changes = apply_preset(name, PRESETS, params)
    for change in changes:
        say(change)
    say(f"{params} now follows preset '{name}' ({len(changes)} changes)")


if __name__ == "__main__":
    app()
