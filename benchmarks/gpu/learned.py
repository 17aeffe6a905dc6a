"""Does it learn? The stages themselves, one after another, by the clock, and what `render` says of the result."""

import importlib
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu.results import Results
from demo.pack import pack
from oniris_core import sampling
from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.devices import pick_device
from oniris_core.common.errors import UserError
from oniris_core.config.reader import read_yaml
from oniris_core.data.episodes.store import open_episodes
from oniris_core.data.rows.clips import HELD_OUT

SHARES = {"train_vae": 0.22, "train": 0.46}
"""Of the time of this step that the two trainings get; the rest is for start-up, encoding and the evaluation."""

FIGURES = (
    ("rollout/skill@8", None, ""), ("rollout/skill@16", 0.95, ""), ("rollout/skill@32", None, ""),
    ("rollout/spread_over_error@16", None, ""), ("rollout/position_px@16", None, "px"), ("rollout/found@16", None, ""),
    ("rollout/found@32", None, ""), ("rollout/angle_deg@16", None, "degrees"), ("rollout/angle_deg@24", None, "degrees"),
    ("control/action_accuracy", None, ""), ("control/reconstructed", None, ""), ("drift/one_object", None, ""),
    ("told_apart/accuracy", -0.6, ""), ("told_apart/simulator", None, ""), ("rollout/psnr@16", None, "dB"),
)  # fmt: skip
"""Of metrics.json: name, bound (at least; below 0: at most), unit."""


def learn(results: Results, params: Path, episodes: Path, device: str, options: dict[str, list[str]]) -> bool:
    """Run the stages; returns whether all of them ended well.

    Args:
        results: to be added to.
        params: the parameter file that they follow.
        episodes: the store of episodes.
        device: as `common.device`.
        options: more of them for a stage, by its name.
    """
    work, out = results.folder / "work", results.folder
    minutes = {stage: share * results.left / 60 for stage, share in SHARES.items()}
    common = ["--params", str(params), "--device", device]
    models, latents = work / "models", work / "latents.zarr"
    of_frames, of_latents = ["--episode-store", str(episodes)], ["--latent-store", str(latents)]
    vae_made, world_made = str(models / "vae"), str(models / "world")
    ok = _stage(results, "train_vae", [
        *common, "--minutes", f"{minutes['train_vae']:.4f}", *of_frames, "--out", vae_made,
        "--report", str(out / "report_vae"), *options.get("train_vae", []),
    ]) and _stage(results, "encode", [
        *common, *of_frames, "--vae", vae_made, "--out", str(latents), "--report", str(out / "report_latents"),
    ]) and _stage(results, "train", [
        *common, "--minutes", f"{minutes['train']:.4f}", *of_latents, "--vae", vae_made, "--out", world_made,
        "--report", str(out / "report_world"), *options.get("train", []),
    ])  # fmt: skip
    if not ok:
        return False
    pack(models, out / "weights", half=True)
    sizes = [file.stat().st_size / 2**20 for file in (out / "weights").rglob("*.safetensors")]
    results.at_most("largest file of weights", max(sizes), 16, "MiB")
    film(out, params, episodes, device)
    keep(out)
    ok = _stage(results, "render", [
        *common, *of_frames, *of_latents, "--vae", vae_made, "--world", world_made, "--out", str(out / "renders"),
        "--report", str(out / "report"),
    ], allowed=(0, 1))  # fmt: skip
    metrics = out / "report" / "metrics.json"
    if metrics.is_file():
        _figures(results, json.loads(metrics.read_bytes()))
    keep(out)
    return ok and metrics.is_file()


def _stage(results: Results, name: str, options: list[str], allowed: tuple[int, ...] = (0,)) -> bool:
    """Run a stage in this process: to start another would cost seconds."""
    start = time.monotonic()
    try:
        importlib.import_module(f"stages.{name}").app(args=options)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    took = time.monotonic() - start
    if code not in allowed:
        results.add(f"{name}: failed with exit code {code} (its message is above)", took, "s", kept=False)
        return False
    results.add(name, took, "s")
    return True


def _figures(results: Results, metrics: dict[str, Any]) -> None:
    for name, bound, unit in FIGURES:
        if name not in metrics:
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        unit = f"{unit} ({low:.3g} to {high:.3g})".strip() if low is not None and high is not None else unit
        if bound is None:
            results.add(name, float(metrics[name]), unit)
        elif bound < 0:
            results.at_most(name, float(metrics[name]), -bound, unit)
        else:
            results.at_least(name, float(metrics[name]), bound, unit)


def keep(out: Path) -> None:
    """Lay what a person wants to have afterwards into `out/kept`, a few files: weights, figures, pictures."""
    kept = out / "kept"
    kept.mkdir(exist_ok=True)
    for file in (out / "report/metrics.json", out / "renders/comparison.png", out / "rollout.gif"):
        if file.is_file():
            shutil.copyfile(file, kept / file.name)
    for name in ("vae", "world"):
        if (out / "weights" / name).is_dir():
            shutil.make_archive(str(kept / name), "zip", out / "weights" / name)


def film(out: Path, params: Path, episodes: Path, device: str, count: int = 4, seconds: float = 3.0) -> None:
    """Write `out/rollout.gif`: held-out episodes, above what happened and below what the packed weights make of it."""
    where = pick_device(device, 0)
    model = sampling.load(out / "weights/world", out / "weights/vae", sampling.sampler(params), device=where)
    store = open_episodes(episodes)
    c, rate = model.group, store.attributes["frame_rate"]
    known = 1 + (read_yaml(params)["render"]["context_latents"] - 1) * c
    wanted = known + round(seconds * rate) // c * c
    long_enough = [e for e in store.episodes(HELD_OUT) if store.bounds(e)[1] - store.bounds(e)[0] >= known + c]
    truth, told = [], []
    for episode in long_enough[:count]:
        start, end = store.bounds(episode)
        rows = np.minimum(np.arange(start, start + wanted), end - 1)
        truth.append(store.frames[start:end][rows - start])
        told.append(store.actions[rows])
    frames, actions = np.stack(truth), np.stack(told)
    made = np.concatenate(list(sampling.rollout(model, frames[:, :known], actions.swapaxes(0, 1))), axis=1)
    pairs = np.concatenate([frames[:, known : known + made.shape[1]], made], axis=2)  # [B, T, 2H, W, 3]
    row = np.concatenate(list(pairs), axis=2)
    large = row.repeat(3, 1).repeat(3, 2)
    pictures = [Image.fromarray(frame).quantize(128) for frame in large]
    data = io.BytesIO()
    pictures[0].save(
        data, "gif", save_all=True, append_images=pictures[1:], duration=round(1000 / rate), loop=0
    )  # fmt: skip
    atomic_write(out / "rollout.gif", data.getvalue())


def check_store(params: Path, episodes: Path) -> None:
    """Raise UserError unless the store is complete and its frames are those that the preset asks for."""
    collect = read_yaml(params)["collect"]
    store, wanted = open_episodes(episodes), tuple(collect["size"])
    if tuple(store.frame_size) != wanted:
        raise UserError(
            f"{episodes} has frames of {store.frame_size[0]} x {store.frame_size[1]}, the preset asks for {wanted[0]} x "
            f"{wanted[1]}: collect it again with that preset"
        )
