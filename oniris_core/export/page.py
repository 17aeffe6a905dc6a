"""The page of `stages.play` as one file that dreams by itself: no server, no network.

Its parts lie in it as gzip in base64, each with its SHA-256, which the page compares. The script is run only if it has the
checksum that the page's own policy names; the policy also forbids every request.
"""

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.errors import UserError
from oniris_core.data.episodes.groups import group_rows
from oniris_core.environment.starts import Starts, open_starts
from oniris_core.export.bundle import bundle
from oniris_core.export.description import Description
from oniris_core.export.runtime import PACKAGE, Engine, Runtime
from oniris_core.play.controls import controls, resting
from oniris_core.play.greeting import greeting
from oniris_core.vae.codec import Codec
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.store import World

HERE = Path(__file__).parent / "page"
PLAYS = Path(__file__).parent.parent / "play/web/page"
MOST_LATENTS = 8
"""Latent frames of a start, after the first, that the page holds."""
GPU_FROM = 100e6
"""Multiply-adds of an evaluation from which the page brings what a graphics card needs, about 4 MB. Below, calling the card
takes longer than computing (ours: some 400 operators of 10 to 50 microseconds each)."""
_DAMAGED = ("Opening the dream. If this stays, the file is damaged or the browser too old: it takes one of 2023 or later "
            "(Chrome, Edge, Firefox 114, Safari 16.4).")  # fmt: skip


def write_page(out: Path, folder: Path, about: Description, codec: Codec, world: World, runtime: Runtime) -> None:
    """Write the page.

    Args:
        out: the file, which may be there only if it is the very same.
        folder: what `write_export` has written, of which `about` is the description.
        codec, world: what was exported.
        runtime: of the page.

    Raises:
        UserError: another file is there.
    """
    starts = _shortened(open_starts(folder / "starts.npz", 2**31, 1), about.group)
    needs_gpu = multiply_adds(world.form) >= GPU_FROM
    engine = runtime.gpu if needs_gpu else runtime.plain
    found = controls(about.environment, world.action_spec)
    rest = resting(world.action_spec, found)
    hello = greeting(starts, about.group, world.action_spec, found, rest, min(about.context_latents, MOST_LATENTS))
    latents, tolds = _begun(starts, codec, world)
    held = {
        "hello": {**hello, "why": "there is no simulator in this file"},
        "about": about.model_dump(mode="json"), "gpu": needs_gpu,
        "starts": [
            {"tolds": told, "actions": start.actions.tolist()} for start, told in zip(starts.starts, tolds, strict=True)
        ],
    }  # fmt: skip
    parts = {f"{name}.onnx": (folder / f"{name}.onnx").read_bytes() for name in about.parts if name != "encode"}
    out_bytes = _page(parts, held, latents.astype("<f4").tobytes(), engine, runtime.version)
    if not out.exists():
        atomic_write(out, out_bytes)
    elif out.read_bytes() != out_bytes:
        raise UserError(f"{out} exists, and is another page: remove it or choose another path")


@torch.no_grad()
def multiply_adds(form: GenerationForm) -> float:
    """Of one evaluation of one rollout."""
    frame = form.stem.new_zeros(1, *form.latent_shape)
    sigma = frame.new_ones(1)
    state = form.begin(frame, sigma)
    ahead = form.look_ahead(state, form.tell(frame.new_zeros(1, form.config.action_features), sigma))
    with FlopCounterMode(display=False) as counter:
        form.denoise(state, ahead, frame, sigma)
    return counter.get_total_flops() / 2


def _shortened(starts: Starts, group: int) -> Starts:
    rows = 1 + MOST_LATENTS * group
    cut = (type(one)(one.episode, one.seed, one.frames[:rows], one.actions[:rows]) for one in starts.starts)
    return Starts(tuple(cut), starts.record)


def _begun(starts: Starts, codec: Codec, world: World) -> tuple[np.ndarray, list[list[list[float]]]]:
    """Standardised latents of all starts, one behind the other, and what is told of the actions that led to each."""
    group, latents, tolds = codec.vae.config.group, list[np.ndarray](), list[list[list[float]]]()
    for start in starts.starts:
        rows = group_rows(0, 1 + start.latents(group), group)
        z = codec.encode(np.array(start.frames[rows]))
        latents.append((z - world.mean[:, None, None]) / world.std[:, None, None])
        features = torch.from_numpy(world.action_spec.encode(start.actions[rows]).reshape(len(z), -1))
        tolds.append(world.form.tell(features, (torch.arange(len(z)) > 0).float()).tolist())
    return np.concatenate(latents), tolds


def _page(parts: dict[str, bytes], held: dict[str, Any], latents: bytes, engine: Engine, version: str) -> bytes:
    modules = {file.stem: file.read_text() for folder in (PLAYS, HERE) for file in sorted(folder.glob("*.js"))}
    script = "\n" + bundle(modules, "play")
    parts = {
        **parts, "page.json": json.dumps(held, separators=(",", ":"), allow_nan=False).encode(), "latents": latents,
        "worker.js": bundle(modules, "worker").encode(), "runtime.mjs": engine.module, "runtime.wasm": engine.wasm,
    }  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}' blob: 'wasm-unsafe-eval'; worker-src blob:; "
        "style-src 'unsafe-inline'; img-src data: blob:; media-src blob:; base-uri 'none'; form-action 'none'"
    )
    style = (PLAYS / "play.css").read_text() + (HERE / "offline.css").read_text()
    licence = (HERE / "onnxruntime-licence.txt").read_text()
    html = (PLAYS / "index.html").read_text()
    for before, after in (
        ('<meta charset="utf-8">', f'<meta charset="utf-8">\n  <meta http-equiv="Content-Security-Policy" content="{policy}">'),
        ('<link rel="stylesheet" href="play.css">', f"<style>\n{style}</style>"),
        ('<script type="module" src="play.js"></script>', f"<!--\n{PACKAGE} {version} lies in this file:\n\n{licence}-->"),
        ('<p id="message" role="status" hidden></p>', f'<p id="message" role="status">{_DAMAGED}</p>'),
        ("</body>", f'{"".join(_part(*part) for part in parts.items())}<script type="module">{script}</script>\n</body>'),
    ):  # fmt: skip
        assert html.count(before) == 1, before
        html = html.replace(before, after)
    return html.encode()


def _part(name: str, content: bytes) -> str:
    packed = gzip.compress(content, 9, mtime=0)
    sha256, text = hashlib.sha256(packed).hexdigest(), base64.b64encode(packed).decode()
    return f'<script type="text/plain" id="part-{name}" data-sha256="{sha256}">{text}</script>\n'
