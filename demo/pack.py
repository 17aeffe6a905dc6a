"""Puts a trained pipeline's VAE and world model into demo/, as small as they can be: `python -m demo.pack`.

Of the world model one average stays, and the early snapshot of it that autoguidance needs.
"""

import json
import shutil
from pathlib import Path

from oniris_core.common.files import open_artefact, staged_folder, to_json
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.config.render import RenderParams
from oniris_core.world.averages import Averages

DEMO = Path(__file__).parent


def pack(models: Path, params: Path, out: Path) -> None:
    """Copy `vae` and `world` from `models` to `out`, for rendering by the section `render` of `params`."""
    render = load_section(RenderParams, "render", read_yaml(params), params, {})
    for kind, stage in (("vae", "train_vae"), ("world", "train")):
        open_artefact(models / kind, kind, made_by=stage)
    shutil.rmtree(out / "vae", ignore_errors=True)
    shutil.copytree(models / "vae", out / "vae")
    about = json.loads((models / "world/config.json").read_bytes())
    width, steps = about["ema_widths"][0], about["steps"]
    whole = Averages(models / "world", (width,), steps, tuple(about["ema_snapshots"]))
    step = whole.nearest_snapshot(render.autoguidance_share)
    with staged_folder(out / "world", "world") as folder:
        (folder / "snapshots").mkdir()
        small = Averages(folder, (width,), steps, (step,))
        for at in (step, steps):
            shutil.copyfile(whole.file(width, at), small.file(width, at))
        (folder / "config.json").write_text(to_json({**about, "ema_widths": [width], "ema_snapshots": [step]}))


if __name__ == "__main__":
    pack(Path("models"), Path("params.yaml"), DEMO)
