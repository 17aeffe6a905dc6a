"""What a GPU makes of Oniris, in one command that loses nothing when it is cut off.

    python -m benchmarks.gpu --minutes 9 --out FOLDER

Three steps, each in a process and with a budget of its own: is it right (`correct`), is it fast (`fast`), does it learn
(`learned`: the stages of the pipeline by the clock, weights, `render`). What a step finds is on disk the moment it is known;
`FOLDER/kept` holds what is worth taking home. `--device cpu --size tiny` rehearses it.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.gpu.needs import needs as lock_lines
from benchmarks.gpu.results import Results, read_rows
from oniris_core.common.artefacts.files import atomic_write, to_json
from oniris_core.common.errors import UserError
from oniris_core.common.process import die_with_parent
from oniris_core.config.presets import apply_preset

ROOT = Path(__file__).parents[2]
STEPS = ("correct", "fast", "learned")
SHARES = {"correct": 1 / 6, "fast": 1 / 3}
LONGEST = {"correct": 90.0}
"""Seconds at most; what is left over goes to the steps that follow."""
FEWEST = 0.25
"""Minutes below which not even the checks would end."""
MEMORY = 6.0
"""GiB of a card that `gpu64` needs for 96 clips a step; it grows with them."""
LEAST = 8.0
"""Seconds of a step at least: to start a process and load torch takes some of them."""


def main(
    out: Annotated[Path | None, typer.Option(help="the folder to make")] = None,
    minutes: Annotated[float, typer.Option(help="all of it may take, minutes")] = 9.0,
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    size: Annotated[str, typer.Option(help="gpu64, or tiny to rehearse")] = "gpu64",
    episodes: Annotated[
        Path, typer.Option(help="the episode store to learn from, of frames as the preset has them")
    ] = Path("data/episodes.zarr"),
    steps: Annotated[str, typer.Option(help="which steps, in this order")] = ",".join(STEPS),
    option: Annotated[list[str] | None, typer.Option(help="SECTION.KEY=VALUE, over the preset")] = None,
    needs: Annotated[bool, typer.Option("--needs", help="print which packages it imports, and end")] = False,
    params: Annotated[Path, typer.Option(help="the parameter file that the preset is laid over")] = ROOT
    / "params.yaml",
    worker: Annotated[str, typer.Option(hidden=True)] = "",
    budget: Annotated[float, typer.Option(hidden=True)] = 0.0,
) -> None:
    """Check, time and train on a GPU, by the clock."""
    try:
        if needs:
            print("\n".join(lock_lines()))
        elif worker and out is not None:
            sys.exit(_work(worker, budget, out, device, size, episodes, params))
        else:
            run(out, minutes, device, size, episodes, steps.split(","), option or [], params)
    except UserError as error:
        print(f"oniris: error: {error}", file=sys.stderr)
        sys.exit(2)


def run(
    out: Path | None, minutes: float, device: str, size: str, episodes: Path, steps: list[str], options: list[str],
    base: Path,
) -> None:  # fmt: skip
    """Give every step its process and its time; see `main` for the arguments.

    Raises:
        UserError: anything that can be known to be wrong before.
    """
    if out is None:
        raise UserError("--out is missing: name the folder to make")
    if out.exists():
        raise UserError(f"{out} exists already: name a folder to be made")
    if unknown := [step for step in steps if step not in STEPS]:
        raise UserError(f"--steps: there is no '{unknown[0]}' (there are: {', '.join(STEPS)})")
    if minutes < FEWEST:
        raise UserError(f"--minutes {minutes:g} is less than the checks need: give at least {FEWEST:g}")
    if size not in ("gpu64", "tiny"):
        raise UserError(f"--size is gpu64 or tiny, not '{size}'")
    preset = _parameters(base, size, options)
    _check_card(device, preset)
    params = out / "params.yaml"
    if "learned" in steps:
        _check_store(preset, episodes)
    out.mkdir(parents=True)
    atomic_write(params, preset)
    start, ended = time.monotonic(), dict[str, dict[str, Any]]()
    for position, step in enumerate(steps):
        left = 60 * minutes - (time.monotonic() - start)
        budget = min(max(SHARES.get(step, 1.0) * 60 * minutes, LEAST), LONGEST.get(step, left), left)
        budget = left if position == len(steps) - 1 else budget
        ended[step] = _one(step, budget, out, device, size, episodes, base)
        _write(out, ended, device)
    print((out / "results.md").read_text())


def _one(step: str, budget: float, out: Path, device: str, size: str, episodes: Path, base: Path) -> dict[str, Any]:
    """Run a step in a process of its own; it is ended where its time is."""
    begin = time.monotonic()
    command = [
        sys.executable, "-m", "benchmarks.gpu", "--worker", step, "--budget", f"{budget:.2f}", "--out", str(out.resolve()),
        "--device", device, "--size", size, "--episodes", str(episodes.resolve()), "--params", str(base.resolve()),
    ]  # fmt: skip
    environment = {**os.environ, "ONIRIS_ANNOUNCED": "1", "ONIRIS_RUNS": str(out.resolve() / "work/runs")}
    if not os.access(Path.home(), os.W_OK):  # of a bare machine
        for variable in ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            environment.setdefault(variable, str(out.resolve() / "cache" / variable.lower()))
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            code = process.wait(budget)
            status = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            process.kill()
            status = "cut off: its time was up"
        except BaseException:
            process.kill()
            raise
    return {"status": status, "budget_s": round(budget, 1), "used_s": round(time.monotonic() - begin, 1)}


def _write(out: Path, ended: dict[str, dict[str, Any]], device: str) -> None:
    """Everything that is known so far, as JSON and as Markdown, also into `kept`."""
    found = {step: {**about, "rows": read_rows(out, step)} for step, about in ended.items()}
    lines = [f"# {_card(device)}", ""]
    for step, about in ended.items():
        lines += [f"## {step}: {about['status']}, {about['used_s']} s of {about['budget_s']} s", ""]
        table = out / f"{step}.md"
        lines += [table.read_text() if table.is_file() else "nothing measured", ""]
    (out / "kept").mkdir(exist_ok=True)
    for folder in (out, out / "kept"):
        atomic_write(folder / "results.json", to_json({"device": _card(device), "steps": found}).encode())
        atomic_write(folder / "results.md", "\n".join(lines).encode())


def _work(step: str, budget: float, out: Path, device: str, size: str, episodes: Path, base: Path) -> int:
    """In the process of a step: 0 if all went well."""
    end = time.monotonic() + budget
    die_with_parent(os.getppid())
    from oniris_core.common.devices import pick_device

    where, tiny = pick_device(device, 1 if device == "cpu" else 0), size == "tiny"
    results = Results(out, step, end - time.monotonic())
    if step == "correct":
        from benchmarks.gpu.correct import check

        check(results, where, tiny)
    elif step == "fast":
        from benchmarks.gpu.fast import measure

        measure(results, where, tiny, base)
    else:
        from benchmarks.gpu.learned import learn

        return 0 if learn(results, out / "params.yaml", episodes, device, _what_is_right(results, out)) else 1
    return 0


def _what_is_right(results: Results, out: Path) -> dict[str, list[str]]:
    """Options for the trainings, after what `correct` found wrong: then eagerly, and attention in dense pieces."""
    wrong = [row["what"] for row in read_rows(out, "correct") if row["kept"] is False]
    if any(what.startswith("attention") for what in wrong):
        from oniris_core.world import video_attention

        video_attention.block_sparse = video_attention.dense_pieces
        results.add("attention", "in dense pieces: the compiled form was wrong")
    if any(what.startswith("compiled") for what in wrong):
        results.add("networks", "not compiled: compiled ones were wrong")
        return {stage: ["--no-compile"] for stage in ("train_vae", "train")}
    return {}


def _check_card(device: str, preset: bytes) -> None:
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device is cuda or cpu, not '{device}'")
    if device == "cpu":
        return
    from oniris_core.common.devices import pick_device

    where = pick_device(device, 0)
    if where.type == "cuda":
        import torch
        from ruamel.yaml import YAML

        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        batch = YAML(typ="safe").load(preset)["train"]["batch"]
        if memory < (needed := MEMORY * batch / 96):
            raise UserError(
                f"this card has {memory:.1f} GiB, {batch} clips a step need {needed:.1f}: lower them with "
                f"--option train.batch={max(int(batch * memory / needed / 2), 1)} (and train_vae.batch alike)"
            )


def _card(device: str) -> str:
    import torch

    return f"{torch.cuda.get_device_name(0) if device == 'cuda' else 'CPU'}, torch {torch.__version__}"


def _parameters(base: Path, size: str, options: list[str]) -> bytes:
    """The parameter file of the preset, over `base`, with `options` in place of its values."""
    from tempfile import TemporaryDirectory

    from ruamel.yaml import YAML

    with TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        shutil.copyfile(base, file)
        apply_preset(size, ROOT / "presets", file)
        yaml = YAML()
        yaml.width = 200
        document = yaml.load(file.read_text())
        for option in options:
            name, equals, value = option.partition("=")
            section, _, key = name.partition(".")
            if not equals or key not in document.get(section, {}):
                raise UserError(f"--option {option}: there is no parameter '{name}'; give SECTION.KEY=VALUE")
            document[section][key] = YAML(typ="safe").load(value)
        with file.open("w") as stream:
            yaml.dump(document, stream)
        return file.read_bytes()


def _check_store(preset: bytes, episodes: Path) -> None:
    from tempfile import TemporaryDirectory

    from benchmarks.gpu.learned import check_store

    with TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_bytes(preset)
        check_store(file, episodes)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
