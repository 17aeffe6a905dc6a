"""Puts a trained pipeline's VAE and world model into demo/, as small as they can be: `python -m demo.pack`.

Of the world model one average stays, and the early snapshot of it that autoguidance needs, if there are any.
"""

import json
import shutil
from pathlib import Path

from oniris_core.common.files import open_artefact, staged_folder, to_json
from oniris_core.common.weights import load_tensors, save_tensors
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.config.render import RenderParams
from oniris_core.world.averages import Averages

DEMO = Path(__file__).parent


def pack(models: Path, params: Path, out: Path, half: bool = False) -> None:
    """Copy `vae` and `world` from `models` to `out`, for rendering by the section `render` of `params`.

    Args:
        models: where a pipeline left them.
        params: the parameter file.
        out: the folder to put them in.
        half: store weights in half precision, which rounds one by 2^-12 of itself at most; they are still computed with in
            float32. Latents of the VAE before are not those of the one after: the packed world belongs to the packed VAE.
    """
    render = load_section(RenderParams, "render", read_yaml(params), params, {})
    for kind, stage in (("vae", "train_vae"), ("world", "train")):
        open_artefact(models / kind, kind, made_by=stage)
    with staged_folder(out / "vae", "vae") as folder:
        shutil.copyfile(models / "vae/config.json", folder / "config.json")
        _copy(models / "vae/weights.safetensors", folder / "weights.safetensors", half)
    identity = open_artefact(out / "vae", "vae", made_by="train_vae").identity
    about = json.loads((models / "world/config.json").read_bytes())
    width, steps = about["ema_widths"][0], about["steps"]
    whole = Averages(models / "world", (width,), steps, tuple(about["ema_snapshots"]))
    early = [whole.nearest_snapshot(render.autoguidance_share)] if whole.snapshots else []
    with staged_folder(out / "world", "world") as folder:
        (folder / "snapshots").mkdir()
        small = Averages(folder, (width,), steps, tuple(early))
        for at in (*early, steps):
            _copy(whole.file(width, at), small.file(width, at), half)
        kept = {"vae_identity": identity, "ema_widths": [width], "ema_snapshots": early}
        (folder / "config.json").write_text(to_json({**about, **kept}))


def _copy(file: Path, to: Path, half: bool) -> None:
    if not half:
        shutil.copyfile(file, to)
        return
    tensors = load_tensors(file)
    # Vectors and numbers are few and decide much: they stay as they are.
    save_tensors(to, {name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in tensors.items()})


if __name__ == "__main__":
    pack(Path("models"), Path("params.yaml"), DEMO)
