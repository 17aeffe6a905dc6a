"""Puts a trained pipeline's VAE and world model into a folder, as small as they can be: `python -m demo.pack --help`.

Of the world model one average stays.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.files import open_artefact, staged_folder, to_json
from oniris_core.common.artefacts.weights import load_tensors, save_tensors
from oniris_core.world.averages import Averages

DEMO = Path(__file__).parent


def pack(models: Path, out: Path, half: bool = False) -> None:
    """Copy `vae` and `world` from `models` to `out`.

    Args:
        models: where a pipeline left them.
        out: the folder to put them in.
        half: store weights in half precision, which rounds one by 2^-12 of itself at most; they are still computed with in
            float32. Latents of the VAE before are not those of the one after: the packed world belongs to the packed VAE.
    """
    for kind, stage in (("vae", "train_vae"), ("world", "train")):
        open_artefact(models / kind, kind, made_by=stage)
    with staged_folder(out / "vae", "vae") as folder:
        shutil.copyfile(models / "vae/config.json", folder / "config.json")
        _copy(models / "vae/weights.safetensors", folder / "weights.safetensors", half)
    identity = open_artefact(out / "vae", "vae", made_by="train_vae").identity
    about = json.loads((models / "world/config.json").read_bytes())
    width, steps = about["ema_widths"][0], about["steps"]
    with staged_folder(out / "world", "world") as folder:
        whole, small = (Averages(where, (width,), steps, ()) for where in (models / "world", folder))
        _copy(whole.file(width, steps), small.file(width, steps), half)
        kept = {"vae_identity": identity, "ema_widths": [width], "ema_snapshots": []}
        (folder / "config.json").write_text(to_json({**about, **kept}))


def _copy(file: Path, to: Path, half: bool) -> None:
    if not half:
        shutil.copyfile(file, to)
        return
    tensors = load_tensors(file)
    # Vectors and numbers are few and decide much: they stay as they are.
    save_tensors(to, {name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in tensors.items()})


def main(
    models: Annotated[Path, typer.Option(help="where a pipeline left them")] = Path("models"),
    out: Annotated[Path, typer.Option(help="where to put them")] = DEMO,
    half: Annotated[bool, typer.Option(help="store weights in half precision")] = True,
) -> None:
    """Pack a VAE and a world model."""
    pack(models, out, half)


if __name__ == "__main__":
    typer.run(main)
