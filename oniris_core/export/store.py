"""Writes a world model, its VAE and some starts as a folder that needs nothing of this project."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from oniris_core.common.artefacts.files import open_artefact, staged_folder, to_json
from oniris_core.common.errors import UserError
from oniris_core.environment.starts import Starts, fitting, open_starts, write_starts
from oniris_core.export.description import (
    FORMAT,
    Actions,
    Description,
    Identities,
    Latent,
    Remembered,
    Row,
    SamplerTable,
)  # fmt: skip
from oniris_core.export.graphs import graph, halved, named
from oniris_core.export.parts import Standardising, vae_parts, world_parts
from oniris_core.export.schedule import evaluations
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.vae.codec import Codec
from oniris_core.world.store import World

KIND = "export"


def write_export(
    out: Path,
    world: World,
    codec: Codec,
    sampler: Sampler,
    starts: Starts,
    context_latents: int,
    *,
    identity: str,
    half: bool,
    named_starts: str,
    tell: Callable[[str], None] = lambda _: None,
    beside: Callable[[Path, Description], None] = lambda _, __: None,
) -> Description:
    """Write the folder; what is in it depends on nothing but the arguments.

    Args:
        out: the folder, which may be there only if it is whole and of all the same.
        world, codec: of the same VAE, on the CPU.
        sampler: how frames are generated.
        starts: where dreams begin.
        context_latents: latent frames a dream starts from, after the first one.
        identity: of the world model.
        half: store larger weights in half precision.
        named_starts: the starts, for messages.
        tell: is told the name of each part before it is made.
        beside: is given the folder and its description before it is put in place, to make something of it.

    Raises:
        UserError: another folder is there; a VAE that does not belong to the model, starts that are none of its, a model with
            a part that has no ONNX form.
    """
    config, vae = world.form.config, codec.vae.config
    if codec.identity != world.vae_identity:
        raise UserError(
            f"the world model belongs to VAE {world.vae_identity[:12]}, not to {codec.identity[:12]}: name its own with --vae"
        )
    height, width = config.latent_height * vae.space, config.latent_width * vae.space
    fitting(starts, world.action_spec, (height, width), named_starts)
    starts = long_enough(starts, vae.group, context_latents, named_starts)
    standardising = Standardising(codec.vae, world.mean, world.std)
    parts = [*world_parts(world.form), *vae_parts(standardising, config.latent_height, config.latent_width)]
    about = Description(
        format=FORMAT, environment=starts.record.get("env_id"), weights="float16" if half else "float32",
        parts=tuple(part.name for part in parts), group=vae.group, height=height, width=width, frame_rate=starts.frame_rate,
        latent=Latent(shape=world.form.latent_shape, mean=tuple(world.mean.tolist()), std=tuple(world.std.tolist())),
        actions=Actions(**asdict(world.action_spec)), context_sigma=sampler.context_sigma, context_latents=context_latents,
        samplers=tuple(
            SamplerTable(steps=steps, rows=tuple(Row(**asdict(row)) for row in evaluations(replace(sampler, steps=steps))))
            for steps in fewer(sampler.steps)
        ),
        encoder=_remembered(standardising.encoder.begin(1, *world.form.latent_shape[1:]), "encoder"),
        decoder=_remembered(standardising.decoder.begin(1, *world.form.latent_shape[1:]), "decoder"),
        identities=Identities(world=identity, vae=codec.identity),
    )  # fmt: skip
    if out.exists():
        if not _is_same(out, about, starts):
            raise UserError(f"{out} exists, and is damaged or of something else: remove it or choose another path")
        beside(out, about)
        return about
    with staged_folder(out, KIND) as folder:
        for part in parts:
            tell(part.name)
            file = graph(part)
            (folder / f"{part.name}.onnx").write_bytes(halved(file) if half else file)
        (folder / "model.json").write_text(to_json(about.model_dump(mode="json")))
        (folder / "model.schema.json").write_text(to_json(Description.model_json_schema()))
        write_starts(folder / "starts.npz", starts)
        shutil.copyfile(Path(__file__).with_name("driver.py"), folder / "driver.py")
        beside(folder, about)
    return about


def _is_same(out: Path, about: Description, starts: Starts) -> bool:
    """Whether a folder is whole, and of this model, sampler, precision and starts."""
    try:
        open_artefact(out, KIND, made_by=KIND)
        found = (out / "model.json").read_text(), open_starts(out / "starts.npz", 2**31, 1).identity
    except UserError:
        return False
    return found == (to_json(about.model_dump(mode="json")), starts.identity)


def fewer(steps: int) -> list[int]:
    """The numbers of solver steps that are exported: those of the sampler last, and some with which it is faster."""
    return [count for count in range(1, steps + 1) if count in (3, 6, steps) or count & (count - 1) == 0]


def long_enough(starts: Starts, group: int, latents: int, name: str) -> Starts:
    """The starts that a dream of so many latent frames of context can begin from. Raises UserError if there are none."""
    kept = tuple(start for start in starts.starts if start.latents(group) >= latents)
    if not kept:
        raise UserError(
            f"{name}: no episode has the {1 + latents * group} frames that a dream starts from: lower --context-latents"
        )
    return Starts(kept, starts.record)


def _remembered(state: Any, name: str) -> tuple[Remembered, ...]:
    def one(name: str, tensor: Tensor) -> Remembered:
        assert not tensor.any(), f"{name} does not begin as zeros"
        kind = str(tensor.dtype).removeprefix("torch.")
        return Remembered.model_validate({"name": name, "type": kind, "shape": tuple(tensor.shape[1:])})

    return tuple(one(*pair) for pair in named(state, name))
