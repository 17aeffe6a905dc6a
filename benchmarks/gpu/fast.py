"""Is it fast? The real training loop and the real rollout on random latents of each preset's shape."""

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.gpu.results import Results
from benchmarks.harness import count_flops, random_clip, two_stream_pass
from benchmarks.rollout_cost import endless, memory_held
from oniris_core.common.process import StopRequest
from oniris_core.config.presets import apply_preset
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.data.latents.clips import LatentClips
from oniris_core.data.latents.store import LatentStore
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.data.rows.clips import TRAIN
from oniris_core.training.fit.loop import READ_EVERY, fit
from oniris_core.training.fit.machine.distributed import Ranks
from oniris_core.training.fit.trainer import Run
from oniris_core.training.fit.watch.stopwatch import PHASES
from oniris_core.training.vae.params import TrainVaeParams
from oniris_core.training.vae.trainer import vae_config
from oniris_core.training.world.params import TrainParams
from oniris_core.training.world.trainer import WorldTrainer, denoiser_config
from oniris_core.world.denoiser import Denoiser
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.temporal import Attention
from oniris_core.world.video_attention import block_mask

ROOT = Path(__file__).parents[2]
WANTED = {"gpu64": 0.25, "gpu": 0.4, "csgo": 0.4}
"""Model FLOP utilisation to reach."""


def measure(results: Results, device: torch.device, tiny: bool, base: Path) -> None:
    """Measure all there is time for, the most wanted first."""
    rate = _matrix_rate(results, device, 256 if tiny else 8192)
    gpu64 = _preset("tiny" if tiny else "gpu64", base)
    works: list[tuple[str, Callable[[], None]]] = []
    for compiled in (False, True) if device.type == "cuda" else (False,):
        for name in ("tiny",) if tiny else ("gpu64", "gpu", "csgo"):
            how = f"{name}, {'compiled' if compiled else 'eager'}"
            works.append((how, partial(_training, results, name, base, device, rate, compiled)))
    works += [
        ("clip lengths", partial(_clip_lengths, results, gpu64, device, (4, 8) if tiny else (8, 16, 32, 64, 128))),
        ("generation", partial(_generation, results, gpu64, device, (2,) if tiny else (1, 64, 512))),
        ("long rollout", partial(_long_rollout, results, gpu64, device, 20 if tiny else 2500)),
    ]
    for name, work in works:
        if results.left < 5:
            results.add(name, "not measured: the time was up")
            continue
        try:
            work()
        except Exception as trouble:  # whatever it is: it is written down, and the next measurement may succeed
            results.add(name, f"failed: {type(trouble).__name__}: {' '.join(str(trouble).split())[:300]}", kept=False)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _matrix_rate(results: Results, device: torch.device, size: int) -> float:
    """Operations a second of a large bfloat16 matrix product: what the card can do."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _median(lambda: a @ b, device, 10)
    results.add("bfloat16 matrix product", 2 * size**3 / seconds / 1e12, "TFLOP/s")
    return 2 * size**3 / seconds


def _median(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median seconds after three calls to warm up."""
    seconds = []
    for repetition in range(3 + repetitions):
        start = time.perf_counter()
        work()
        _wait(device)
        if repetition >= 3:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _preset(name: str, base: Path) -> tuple[TrainParams, LatentStore]:
    """The section `train` of a preset, and random latents of the shape that its VAE makes."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_bytes(base.read_bytes())
        apply_preset(name, ROOT / "presets", file)
        content = read_yaml(file)
        params = load_section(TrainParams, "train", content, file, {})
        vae = vae_config(load_section(TrainVaeParams, "train_vae", content, file, {}))
        size = content["collect"]["size"][0]
    _, C, h, w = vae.latent_shape(vae.group, size, size)
    episodes, length = 64, max(2 * params.clip_latents, 32)
    rows = episodes * length
    rng = np.random.default_rng(0)
    store = LatentStore(
        rng.standard_normal((rows, C, h, w), np.float32).astype(np.float16),
        rng.integers(0, 4, (rows, vae.group)), np.arange(1, episodes + 1) * length, np.arange(episodes),
        np.full(episodes, TRAIN, np.uint8), np.zeros(C, np.float32), np.ones(C, np.float32), 0.35, "",
        ActionSpec("discrete", (4,), start=(0,)), {}, "",
        rng.standard_normal((rows, vae.group), np.float32), rng.random((rows, vae.group)) < 0.1,
    )  # fmt: skip
    return params, store


def _denoiser(preset: tuple[TrainParams, LatentStore], device: torch.device) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(denoiser_config(*preset)).to(device)


def _training(results: Results, name: str, base: Path, device: torch.device, rate: float, compiled: bool) -> None:
    """A step of `fit`: its share of the card's rate, where its time goes, how often it waits."""
    params, store = preset = _preset(name, base)
    how, flops = f"{name}, {'compiled' if compiled else 'eager'}", params.batch * _flops_of_a_clip(preset)
    steps = READ_EVERY if device.type == "cuda" else 3
    quick = params.model_copy(update={"compile": compiled, "steps": 3 * steps, "minutes": 0.0})
    clips = LatentClips(store, TRAIN, params.clip_latents, "a clip", _before(quick))
    trainer = WorldTrainer(quick, denoiser_config(quick, store), clips, 0, device, None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with _waits() as waits:
        history = fit(trainer, quick, Run(how, None, Ranks(), StopRequest(), lambda _: None))
    last = slice(2 * steps, None)
    seconds = float(history["seconds"][last].median())
    utilisation = flops / seconds / rate
    if name in WANTED and compiled:
        results.at_least(f"{how}: model FLOP utilisation", utilisation, WANTED[name])
    else:
        results.add(f"{how}: model FLOP utilisation", utilisation)
    results.add(f"{how}: a step of {params.batch} clips of {params.clip_latents}", 1e3 * seconds, "ms")
    results.add(f"{how}: operations counted in a step", flops / 1e12, "TFLOP")
    results.add(f"{how}: latent frames", trainer.frames_per_step / seconds, "1/s")
    parts = {phase: float(history[f"seconds_{phase}"][last].median()) / seconds for phase in PHASES}
    parts["averages, logs, gaps between launches"] = max(1 - sum(parts.values()), 0.0)
    for phase, part in parts.items():
        if part:
            results.add(f"{how}: {'forward and backward, replayed' if phase == 'forward' and not parts['backward'] else phase}",
                        part, "of a step")  # fmt: skip
    results.add(f"{how}: before its first steps", time.perf_counter() - start - 2 * steps * seconds, "s")
    if device.type == "cuda":
        places = sorted({waits.count(place) and f"{Path(place).name} x {waits.count(place)}" for place in waits})
        results.add(f"{how}: waits for the card in {3 * steps} steps, 3 times read", ", ".join(places) or "none")
        results.add(f"{how}: memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def _before(params: TrainParams) -> int:
    return params.forecast_ages[-1]


@contextlib.contextmanager
def _waits() -> Iterator[list[str]]:
    """The places where the host waited for the card, as torch tells."""
    found: list[str] = []
    if not torch.cuda.is_available():
        yield found
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("always")
            yield found
            found += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _flops_of_a_clip(preset: tuple[TrainParams, LatentStore]) -> float:
    """Counted on tensors without values, forward and backward."""
    nowhere = torch.device("meta")
    with nowhere:
        denoiser = Denoiser(denoiser_config(*preset))
    clip = random_clip(denoiser.config, 1, preset[0].clip_latents, nowhere)
    return float(count_flops(lambda: two_stream_pass(denoiser, clip))[0])


def _clip_lengths(
    results: Results, preset: tuple[TrainParams, LatentStore], device: torch.device, lengths: tuple[int, ...]
) -> None:
    """Cost of a training frame in longer clips, at the same number of frames a batch; and attention against its need."""
    denoiser, frames = _denoiser(preset, device), 8 * max(lengths)
    first = None
    for T in lengths:
        if results.left < 15 and device.type == "cuda":
            results.add(f"clips of {T}", "not measured: the time was up")
            continue
        clip = random_clip(denoiser.config, frames // T, T, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seconds = _median(partial(two_stream_pass, denoiser, clip), device, 5) / frames
        first = first or seconds
        what = f"clips of {T}: a training frame against clips of {lengths[0]}"
        if T == 128:
            results.at_most(what, seconds / first, 1.15, "x")
        else:
            results.add(what, seconds / first, "x")
        for level in sorted({m.window: m for m in denoiser.modules() if isinstance(m, Attention) and m.window}):
            pixels = denoiser.config.latent_height * denoiser.config.latent_width
            mask = block_mask(T, pixels, level, device)
            blocks = int(mask.kv_num_blocks.sum()) + int(
                mask.full_kv_num_blocks.sum() if mask.full_kv_num_blocks is not None else 0
            )
            computed = blocks * math.prod(mask.BLOCK_SIZE)
            needed = 2 * pixels**2 * sum(min(t, level) + 1 for t in range(T))
            results.add(
                f"clips of {T}: attention computed by blocks, against needed, {pixels} pixels", computed / needed, "x"
            )


def _generation(
    results: Results, preset: tuple[TrainParams, LatentStore], device: torch.device, batches: tuple[int, ...]
) -> None:
    """Latent frames a second of rollouts side by side, by the solver's 6 noise levels, one evaluation each."""
    form, c = GenerationForm(_denoiser(preset, device)), preset[1].actions.shape[1]
    for batch in batches:
        rollout = endless(form, 6, batch, device)
        seconds = _median(lambda: next(rollout), device, 10)  # noqa: B023
        results.add(f"generation, batch {batch}", c * batch / seconds, "frames/s")
        results.add(f"generation, batch {batch}: a latent frame of all", 1e3 * seconds, "ms")


def _long_rollout(
    results: Results, preset: tuple[TrainParams, LatentStore], device: torch.device, latents: int
) -> None:
    """Time and memory at the start of a rollout and after many latent frames, each denoised in one evaluation."""
    form, c = GenerationForm(_denoiser(preset, device)), preset[1].actions.shape[1]
    early, late = (endless(form, 1, 1, device) for _ in range(2))
    for rollout in (early, late):
        for _ in islice(rollout, 5):
            pass
    memory = memory_held(device)
    done = 5
    while done < latents and results.left > 5:
        next(late)
        done += 1
    if done < latents:
        results.add("long rollout", f"went to frame {c * done} only: the time was up")
    seconds: dict[str, list[float]] = {"early": [], "late": []}
    for _ in repeat(None, 21):
        for name, rollout in (("early", early), ("late", late)):
            start = time.perf_counter()
            next(rollout)
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    ratio = float(np.median(seconds["late"]) / np.median(seconds["early"]))
    results.at_most(f"frame {c * done} against frame {c * 5}: time", ratio, 1.02, "x")
    results.at_most(f"frame {c * done} against frame {c * 5}: memory", memory_held(device) / memory, 1.02, "x")
