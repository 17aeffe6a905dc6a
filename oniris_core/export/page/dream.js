// The model, stepped: what driver.py does, and the moments that are kept so that a dream can be gone on from again.

import { noise } from "./noise.js";

const MOMENT_BYTES = 96e6; // of all the moments that are kept
const RECENT = 4; // the last ones are all kept: most rewinds are short

export class Model {
  // make(type, data, dims): a tensor of the runtime; sessions: the graphs by name; about: model.json.
  constructor(make, sessions, about) {
    Object.assign(this, { make, sessions, about });
  }

  async #run(name, given, only) {
    const session = this.sessions[name];
    return session.run(Object.fromEntries(session.inputNames.map((input) => [input, given[input]])), only ?? session.outputNames);
  }

  #renamed(made, whose) {
    return Object.fromEntries(Object.entries(made).filter(([name]) => name.startsWith("next.")).map(([name, value]) => [whose + name.slice(4), value]));
  }

  #sigma(rows, sigma) {
    return this.make("float32", new Float32Array(rows).fill(sigma), [rows]);
  }

  #zeros(parts) {
    const arrays = { bool: Uint8Array, float32: Float32Array, int64: BigInt64Array };
    return Object.fromEntries(parts.map(({ name, type, shape }) => [name, this.make(type, new arrays[type](shape.reduce((a, b) => a * b, 1)), [1, ...shape])]));
  }

  // The moment after true latents [T, C, h, w], and what was told of the actions that led to each; and its last frames.
  async begin(latents, tolds) {
    const { shape } = this.about.latent, size = shape.reduce((a, b) => a * b), sigma = this.#sigma(1, this.about.context_sigma);
    let moment = null, frames = null;
    for (let t = 0; t * size < latents.length; t++) {
      const x = this.make("float32", latents.slice(t * size, (t + 1) * size), [1, ...shape]);
      moment ??= { state: this.#renamed(await this.#run("start", { x, sigma }), "state"), decoder: this.#zeros(this.about.decoder) };
      const told = this.make("float32", tolds[t], [1, tolds[t].length]);
      ({ moment, frames } = await this.#entered(moment, x, told, await this.#run("begin", { ...moment.state, told }), 1));
    }
    return { moment, frames };
  }

  // One latent frame on: `tell`, what is told of its actions; seeds [seed, row] of each row; rows of the sampler's table.
  async step(moment, tell, seeds, table) {
    const rows = seeds.length, { shape } = this.about.latent, size = shape.reduce((a, b) => a * b);
    const told = this.make("float32", Float32Array.from({ length: rows * tell.length }, (_, i) => tell[i % tell.length]), [rows, tell.length]);
    const ahead = await this.#run("begin", { ...moment.state, told });
    const center = ahead["ahead.center"].data, spread = ahead["ahead.spread"].data, position = Number(moment.state["state.position"].data[0]);
    let values = Float32Array.from(center), before = new Float32Array(values.length);
    seeds.forEach(([seed, row], r) => noise(seed, row, position, size).forEach((eps, i) => (values[r * size + i] += Math.hypot(spread[r * size + i], table[0].sigma) * eps)));
    for (const { sigma, a, b, c } of table) {
      const x = this.make("float32", values, [rows, ...shape]);
      const { denoised } = await this.#run("evaluate", { ...moment.state, ...ahead, x, sigma: this.#sigma(rows, sigma) }, ["denoised"]);
      const next = new Float32Array(values.length), said = denoised.data;
      for (let i = 0; i < next.length; i++) next[i] = a * values[i] + b * said[i] + c * before[i];
      [values, before] = [next, said];
    }
    if (!values.every(Number.isFinite)) throw new Error("the model has made numbers that are not finite");
    return this.#entered(moment, this.make("float32", values, [rows, ...shape]), told, ahead, rows);
  }

  async #entered(moment, x, told, ahead, rows) {
    const sigma = this.#sigma(rows, this.about.context_sigma);
    const left = await this.#run("evaluate", { ...moment.state, ...ahead, x, sigma });
    const state = this.#renamed(await this.#run("enter", { ...moment.state, ...left, told, x, sigma }), "state");
    const shown = await this.#run("decode", { ...moment.decoder, x });
    return { moment: { state, decoder: this.#renamed(shown, "decoder") }, frames: shown.frames.data };
  }

  // The rollouts `rows` of a moment, any of them once, often or never.
  select(moment, rows) {
    const of = (tensors) => Object.fromEntries(Object.entries(tensors).map(([name, { type, data, dims }]) => {
      const size = data.length / dims[0], made = new data.constructor(rows.length * size);
      rows.forEach((row, i) => made.set(data.subarray(row * size, (row + 1) * size), i * size));
      return [name, this.make(type, made, [rows.length, ...dims.slice(1)])];
    }));
    return { state: of(moment.state), decoder: of(moment.decoder) };
  }
}

export class Dream {
  // One dream from a start. `dreamt`: { tell, seeds, table, run, row } of every latent frame; futures that go on from each
  // other have the same `run`, 0 stands for a single dream; `row`: the one that was chosen.
  constructor(model) {
    this.model = model;
    this.dreamt = [];
    this.done = 0; // steps that the moment has behind it
  }

  async begin(latents, tolds) {
    const { moment, frames } = await this.model.begin(latents, tolds);
    this.moment = moment;
    this.moments = new Map([[0, moment]]);
    const bytes = Object.values(moment.state).reduce((sum, { data }) => sum + data.byteLength, 0);
    this.most = Math.max(2 * RECENT, Math.min(64, Math.floor(MOMENT_BYTES / bytes)));
    this.stride = 1;
    return frames;
  }

  async step(next) {
    this.dreamt.push({ ...next, row: 0 });
    const frames = await this.#advance();
    this.#keep();
    return frames;
  }

  // Back to when `at` latent frames had been dreamt; catchUp then brings the model there.
  rewind(at) {
    this.dreamt.length = at;
    for (const number of this.moments.keys()) if (number > at) this.moments.delete(number);
    this.stride = 1;
    if (this.done > at) {
      this.done = Math.max(...this.moments.keys());
      this.moment = this.moments.get(this.done);
    }
  }

  // One step nearer to the present, as it was; whether there are more.
  async catchUp() {
    if (this.done < this.dreamt.length) await this.#advance();
    if (this.done === this.dreamt.length) this.#keep();
    return this.done < this.dreamt.length;
  }

  choose(run, row) {
    for (const step of this.dreamt) if (step.run === run) step.row = row;
  }

  async #advance() {
    const step = this.dreamt[this.done], before = this.dreamt[this.done - 1], rows = step.seeds.length;
    let from = this.moment;
    const isNew = !before || before.run !== step.run;
    if (isNew && before?.seeds.length > 1) from = this.model.select(from, [before.row]);
    if (isNew && rows > 1) from = this.model.select(from, Array(rows).fill(0));
    const { moment, frames } = await this.model.step(from, step.tell, step.seeds, step.table);
    this.moment = moment;
    this.done++;
    return frames;
  }

  #keep() {
    this.moments.set(this.done, this.moment);
    while (this.moments.size > this.most) {
      for (const number of this.moments.keys())
        if (number && number % this.stride && number <= this.done - RECENT) this.moments.delete(number);
      if (this.moments.size > this.most) this.stride *= 2;
    }
  }
}
