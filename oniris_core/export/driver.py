"""Dreams with an exported world model: needs numpy and onnxruntime, and nothing of the project that made it.

    python driver.py --frames 100 --out dream.npz

Axes: B rollouts, T frames, c frames of a latent frame, H, W. `model.json` says the rest, `model.schema.json` what it may say.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime

Tensors = dict[str, np.ndarray]


class Dream:
    """B rollouts between two latent frames. `state` and `decoder` are replaced and never changed: keep them to come back."""

    def __init__(self, folder: Path, steps: int | None = None):
        """Read a model; `steps`: one of those in `samplers`, the last if none is named."""
        self.about = json.loads((folder / "model.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the parts are too small for more
        self.parts = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options) for name in self.about["parts"]
        }
        samplers = self.about["samplers"]
        self.rows = next(one["rows"] for one in samplers[::-1] if steps in (None, one["steps"]))
        self.group: int = self.about["group"]
        self.state, self.decoder = dict[str, np.ndarray](), dict[str, np.ndarray]()

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Take in the first frames uint8 [B, 1 + k c, H, W, 3] of episodes and the actions [B, 1 + k c, ...] that led to each.

        Returns:
            them as the model shows them, uint8 [B, (k + 1) c, H, W, 3]; the first frame c times.
        """
        B, c, shown = len(frames), self.group, []
        encoder, self.decoder = self._zeros("encoder", B), self._zeros("decoder", B)
        told = self.told(actions)
        for first in range(1 - c, frames.shape[1], c):
            rows = np.maximum(np.arange(first, first + c), 0)
            out = self._run("encode", encoder, frames=frames[:, rows])
            encoder, x = _next(out, "encoder"), out["x"]
            known = told[:, rows].reshape(B, -1) if first > 0 else np.zeros_like(told[:, rows].reshape(B, -1))
            known = np.concatenate([known, np.full((B, 1), 0 if first > 0 else (known.shape[1] + 1) ** 0.5)], axis=1)
            if first <= 0:
                self.state = _next(self._run("start", x=x, sigma=self._sigma(B)), "state")
            self._enter(x, known.astype(np.float32))
            shown.append(self._show(x))
        return np.concatenate(shown, axis=1)

    def step(self, actions: np.ndarray, seeds: list[int]) -> np.ndarray:
        """The next c frames of each rollout, uint8 [B, c, H, W, 3], under actions [B, c, ...]; one seed of the noise each."""
        B, shape = len(actions), self.about["latent"]["shape"]
        told = np.concatenate([self.told(actions).reshape(B, -1), np.zeros((B, 1), np.float32)], axis=1)
        known = self._run("begin", self.state, told=told)
        position = self.state["state.position"]
        drawn = [noise(s, int(p), int(np.prod(shape))) for s, p in zip(seeds, position, strict=True)]
        spread = np.sqrt(np.square(known["ahead.spread"]) + self.rows[0]["sigma"] ** 2)
        x = known["ahead.center"] + spread * np.stack(drawn).reshape(B, *shape)
        before = np.zeros_like(x)
        for row in self.rows:
            x, sigma = x.astype(np.float32), self._sigma(B, row["sigma"])
            said = self._run("evaluate", self.state, known, x=x, sigma=sigma, only=["denoised"])
            denoised = said["denoised"].astype(np.float64)
            x, before = row["a"] * x + row["b"] * denoised + row["c"] * before, denoised
        x = x.astype(np.float32)
        self._enter(x, told, known)
        return self._show(x)

    def told(self, actions: np.ndarray) -> np.ndarray:
        """float32 [..., features]: what the model is told of actions, one-hot times sqrt(choices) or scaled to -1..1."""
        space = self.about["actions"]
        if space["kind"] == "box":
            low, high = np.array(space["low"], np.float32), np.array(space["high"], np.float32)
            return ((2 * actions - low - high) / (high - low)).astype(np.float32)
        if space["kind"] == "multi_binary":
            return (2 * actions - 1).astype(np.float32)
        choices = (actions[..., None] if space["kind"] == "discrete" else actions) - np.array(space["start"])
        one_hot = [np.eye(n, dtype=np.float32)[choices[..., i]] * n**0.5 for i, n in enumerate(space["sizes"])]
        return np.concatenate(one_hot, axis=-1)

    def _enter(self, x: np.ndarray, told: np.ndarray, known: Tensors | None = None) -> None:
        sigma = self._sigma(len(x))
        known = known or self._run("begin", self.state, told=told)
        left = self._run("evaluate", self.state, known, x=x, sigma=sigma)
        self.state = _next(self._run("enter", self.state, left, told=told, x=x, sigma=sigma), "state")

    def _show(self, x: np.ndarray) -> np.ndarray:
        out = self._run("decode", self.decoder, x=x)
        self.decoder = _next(out, "decoder")
        return out["frames"]

    def _run(self, name: str, *given: Tensors, only: list[str] | None = None, **more: np.ndarray) -> Tensors:
        session, known = self.parts[name], {key: value for one in (*given, more) for key, value in one.items()}
        names = only or [entry.name for entry in session.get_outputs()]
        made = session.run(names, {entry.name: known[entry.name] for entry in session.get_inputs()})
        return dict(zip(names, made, strict=True))

    def _zeros(self, which: str, batch: int) -> Tensors:
        return {one["name"]: np.zeros((batch, *one["shape"]), one["type"]) for one in self.about[which]}

    def _sigma(self, batch: int, sigma: float | None = None) -> np.ndarray:
        return np.full(batch, self.about["context_sigma"] if sigma is None else sigma, np.float32)


def _next(made: Tensors, whose: str) -> Tensors:
    return {name.replace("next", whose, 1): value for name, value in made.items() if name.startswith("next.")}


def noise(seed: int, number: int, count: int) -> np.ndarray:
    """Gaussian noise float64 [count] of latent frame `number` of a rollout; the page draws the same."""
    half = np.arange((count + 1) // 2, dtype=np.uint32)
    key = _mixed(np.uint32(seed % 2**32), np.uint32(seed >> 32), np.uint32(number))
    one, two = (_mixed(key, np.uint32(which), half).astype(np.float64) for which in (1, 2))
    size, turn = np.sqrt(-2 * np.log((one + 1) / 2**32)), 2 * np.pi * two / 2**32
    return np.stack([size * np.cos(turn), size * np.sin(turn)], axis=1).reshape(-1)[:count]


def _mixed(*values: np.ndarray | np.uint32) -> np.ndarray:
    """uint32: each value stirred in after the other, by the last steps of MurmurHash3."""
    h = np.zeros(1, np.uint32)
    for value in values:
        h = h + np.asarray(value, np.uint32) * np.uint32(0x9E3779B9) + np.uint32(0x9E3779B9)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
        h = h ^ (h >> np.uint32(16))
    return h


def main() -> None:
    """Dream on from one of the starts in the folder, holding one action."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="to dream")
    parser.add_argument("--start", type=int, default=0, help="which start of starts.npz")
    parser.add_argument("--action", type=json.loads, help="a number, or a list: held (none: the start's last one)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--steps", type=int, help="of the sampler: fewer are faster")
    parser.add_argument("--out", type=Path, default=Path("dream.npz"), help="frames uint8 [T, H, W, 3]")
    given = parser.parse_args()
    folder = Path(__file__).parent
    dream = Dream(folder, given.steps)
    with np.load(folder / "starts.npz") as file:
        ends, frames, actions = file["ends"], file["frames"], file["actions"]
    first = 0 if given.start == 0 else ends[given.start - 1]
    rows = slice(first, first + 1 + dream.about["context_latents"] * dream.group)
    made = [dream.begin(frames[None, rows], actions[None, rows])[0]]
    held = actions[rows][-1] if given.action is None else np.array(given.action, actions.dtype)
    for _ in range(-(-given.frames // dream.group)):
        made.append(dream.step(np.repeat(held[None, None], dream.group, axis=1), [given.seed])[0])
    np.savez_compressed(given.out, frames=np.concatenate(made))


if __name__ == "__main__":
    main()
