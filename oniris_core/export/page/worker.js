// Computes away from the page, so that it never freezes. Each message { id, what, ... } has one answer { id, ... }.

import { Dream, Model } from "./dream.js";

const MEASURED_MS = 1000; // how long the model is measured before the first dream
const SHARE = 0.8; // of the time that a latent frame lasts the model may need this much
const ALIKE = 4; // grey levels by which the first frames of two providers may differ
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
let model = null, dream = null;

const does = {
  // The runtime, its WebAssembly and the graphs; then the faster of the providers, by measurement.
  async open({ runtime, wasm, graphs, about, start, gpu, period }) {
    // Of a page from the disk the worker may import only what it has made itself.
    const ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.proxy = false;
    ort.env.logLevel = "error";
    const providers = ["wasm", ...(gpu && (await self.navigator.gpu?.requestAdapter().catch(() => null)) ? ["webgpu"] : [])];
    const found = [];
    for (const provider of providers) {
      try {
        const sessions = {};
        for (const [name, bytes] of Object.entries(graphs))
          sessions[name] = await ort.InferenceSession.create(bytes, { executionProviders: [provider], graphOptimizationLevel: "all", logSeverityLevel: 3 });
        const made = new Model((type, data, dims) => new ort.Tensor(type, data, dims), sessions, about);
        found.push({ provider, made, ...(await measured(made, start, period, MEASURED_MS / providers.length)) });
      } catch (error) {
        if (provider === "wasm") throw error; // the other is only sought, never needed
      }
    }
    // A driver of a card may be wrong: it must dream what WebAssembly dreams.
    const right = found.filter(({ frames }) => frames.every((value, i) => Math.abs(value - found[0].frames[i]) <= ALIKE));
    const best = right.reduce((a, b) => (b.fine.milliseconds < a.fine.milliseconds ? b : a));
    model = best.made;
    const { provider, fine, fast, quality } = best;
    return { provider, qualities: { fast, fine }, quality };
  },

  async begin({ latents, tolds }) {
    dream = new Dream(model);
    return { frames: await dream.begin(latents, tolds) };
  },

  async step({ step }) {
    const before = performance.now();
    const frames = await dream.step({ ...step, table: table(model.about, step.steps) });
    return { frames, ms: performance.now() - before };
  },

  rewind({ at }) { dream.rewind(at); return {}; },
  async catchUp() { return { more: await dream.catchUp() }; },
  choose({ run, row }) { dream.choose(run, row); return {}; },
};

function table(about, steps) {
  return about.samplers.find((one) => one.steps === steps).rows;
}

async function measured(model, start, period, lasts) {
  const { about } = model, all = about.samplers.map((one) => one.steps), fine = all.at(-1), until = performance.now() + lasts;
  const { moment } = await model.begin(start.latents, start.tolds);
  let frames = null;
  const took = async (steps, until) => {
    const times = [];
    while (times.length < 2 || (performance.now() < until && times.length < 32)) {
      const before = performance.now(), made = await model.step(moment, start.tolds[0], [[0, 0]], table(about, steps));
      frames ??= made.frames;
      times.push(performance.now() - before);
    }
    return { steps, milliseconds: median(times.slice(1)) }; // the first warms up
  };
  const slow = await took(fine, until - 0.4 * lasts), fits = slow.milliseconds <= SHARE * period;
  // Time grows with the evaluations, and with the one by which a frame enters the past.
  const cost = (steps) => (slow.milliseconds * (table(about, steps).length + 1)) / (table(about, fine).length + 1);
  const wanted = fits ? Math.max(1, Math.floor((fine + 1) / 3)) : all.filter((n) => cost(n) <= SHARE * period).at(-1) ?? 1;
  const fast = await took(all.filter((n) => n <= wanted).at(-1), until);
  return { fine: slow, fast, quality: fits ? "fine" : "fast", frames };
}

self.onmessage = async ({ data }) => {
  try {
    const answer = await does[data.what](data);
    self.postMessage({ id: data.id, ...answer });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
};
