// Dreams in the page itself. It has the methods and events of the engine that asks a server (play/web/page/engine.js), and lives
// as a player does there: what is asked is done one after the other, between two latent frames.

import { told } from "./noise.js";
import { opened } from "./parts.js";
import { recorded } from "./record.js";

const FUTURES = 4;
const HISTORY_BYTES = 256e6; // of frames that can be looked at again

export class Engine {
  constructor(on) {
    this.on = on;
    this.jobs = [];
    this.steps = 0;
    this.running = false;
    this.times = 1;
    this.start = 0;
    this.seed = 1;
    this.press = 0;
    this.again = [];
    this.files = new Map();
    this.note = "";
  }

  async open() {
    try {
      const { page, graphs, runtime, wasm, starts, worker } = await opened();
      Object.assign(this, { page, starts });
      this.period = (1000 * page.hello.group) / page.hello.rate;
      this.worker = new Worker(worker);
      this.waiting = new Map();
      this.asked = 0;
      this.worker.onmessage = ({ data }) => {
        const { done, failed } = this.waiting.get(data.id);
        this.waiting.delete(data.id);
        if (data.error) failed(new Error(data.error));
        else done(data);
      };
      const about = { runtime, wasm, graphs, about: page.about, start: starts[0], gpu: page.gpu, period: this.period };
      const found = await this.#ask("open", about, [wasm.buffer]);
      this.qualities = found.qualities;
      this.value = page.hello.rest;
      const runs = `Computed by ${found.provider === "webgpu" ? "WebGPU" : "WebAssembly"}.`;
      this.on.hello({ ...page.hello, qualities: found.qualities, quality: found.quality, runs });
      await this.#live();
    } catch (error) {
      this.worker?.terminate();
      this.on.lost(`This page cannot ${this.dreamt ? "go on" : "dream"}: ${error.message}.`);
    }
  }

  #ask(what, message = {}, move = []) {
    return new Promise((done, failed) => {
      this.waiting.set(++this.asked, { done, failed });
      this.worker.postMessage({ id: this.asked, what, ...message }, move);
    });
  }

  // What the page asks for.

  act(value, press) { [this.value, this.press, this.again] = [value, press, []]; }
  run(on) { this.#want(() => { this.running = on; }); }
  step() { this.#want(() => { this.running = false; this.steps++; }); }
  speed(times) { this.#want(() => { this.times = times; }); }
  quality(name) { this.#want(() => { this.chosen = name; }); }
  look(at) { this.#want(() => this.#show(at)); }
  futures() { this.#want(async () => { await this.#choose(0); this.branch = ++this.branches; this.again = []; }); }
  choose(row) { this.#want(async () => { await this.#choose(row); this.#show(this.at); }); }
  restart(start, latents) { this.#want(() => this.#restart(start, latents)); }
  rewind(at, again, noise) { this.#want(() => this.#rewind(at, again, noise)); }
  truth() {}
  save() { this.#want(() => this.#save()); }
  recording(name) { return this.files.get(name); }
  cut() { this.worker.terminate(); }

  #want(job) {
    this.jobs.push(job);
    this.wake?.();
  }

  // Its life.

  async #live() {
    let due = performance.now();
    for (;;) {
      const job = this.jobs.shift(), now = performance.now();
      if (job) {
        this.note = "";
        await job();
        this.#tell();
        due = this.running ? Math.max(due, performance.now()) : performance.now();
      } else if (!this.running && !this.steps) {
        await this.#sleep();
        due = performance.now();
      } else if (due > now && !this.steps) {
        await this.#sleep(due - now); // as late as possible: what is pressed until then counts
      } else {
        await this.#dream();
        const period = this.period / this.times;
        due = Math.max(due + period, performance.now() - period); // late by more than one: that time is lost
      }
    }
  }

  #sleep(milliseconds) {
    return new Promise((done) => {
      const timer = milliseconds === undefined ? null : setTimeout(done, milliseconds);
      this.wake = () => { clearTimeout(timer); done(); };
    });
  }

  get at() { return this.dreamt.length; }

  async #restart(start, latents) {
    const from = this.starts[start], { group } = this.page.hello;
    Object.assign(this, { start, latents, running: false, steps: 0, again: [], dreamt: [], first: 0, branch: 0, branches: 0 });
    const { shape } = this.page.about.latent, size = shape.reduce((a, b) => a * b);
    const begun = { latents: from.latents.slice(0, (1 + latents) * size), tolds: from.tolds.slice(0, 1 + latents) };
    this.context = (await this.#ask("begin", begun)).frames;
    this.led = from.actions[latents * group] ?? this.page.hello.rest;
    this.#show(0);
  }

  async #dream() {
    this.steps = Math.max(0, this.steps - 1);
    const isAgain = this.again.length > 0, action = isAgain ? this.again.shift() : this.value, press = isAgain ? 0 : this.press;
    const { about, hello } = this.page, rows = this.branch ? FUTURES : 1;
    const step = {
      tell: told(action, about.actions, about.group), seeds: Array.from({ length: rows }, (_, row) => [this.seed, row]),
      steps: this.qualities[this.chosen].steps, run: this.branch,
    };
    const { frames, ms } = await this.#ask("step", { step });
    this.dreamt.push({ frames, rows, action, run: this.branch });
    this.#forget(frames.length);
    this.on.frames({
      at: this.at, rows, count: hello.group, press, action, ms, seconds: this.period / this.times / 1000, seed: this.seed,
      again: this.again.length, skipped: 0, first: this.first,
    }, frames);
    this.#tell();
  }

  #forget(bytes) {
    const first = Math.max(0, this.at - Math.floor(HISTORY_BYTES / bytes));
    for (; this.first < first; this.first++) this.dreamt[this.first].frames = null;
  }

  async #choose(row) {
    if (!this.branch) return;
    for (const step of this.dreamt)
      if (step.run === this.branch && step.rows > 1 && step.frames) {
        const size = step.frames.length / step.rows;
        [step.frames, step.rows] = [step.frames.slice(row * size, (row + 1) * size), 1];
      }
    await this.#ask("choose", { run: this.branch, row });
    this.branch = 0;
  }

  async #rewind(at, again, noise) {
    await this.#choose(0);
    const to = Math.min(Math.max(at, this.first), this.at), undone = this.dreamt.splice(to);
    if (noise) this.seed++;
    this.again = again ? undone.map(({ action }) => action) : [];
    await this.#ask("rewind", { at: to });
    this.#show(to);
    while ((await this.#ask("catchUp")).more) this.#tell("working its way back to this moment");
  }

  async #save() {
    const { hello } = this.page, size = hello.group * hello.width * hello.height * 3;
    const frames = [this.context, ...this.dreamt.filter((step) => step.frames).map((step) => step.frames.subarray(0, size))];
    this.running = false;
    const name = `dream-${this.files.size + 1}`;
    try {
      const { blob, ending } = await recorded(frames, hello, (left) => this.#tell(`recording, ${left.toFixed(0)} s to go`));
      this.files.set(`${name}.${ending}`, URL.createObjectURL(blob));
      this.on.saved({ files: { videos: `${name}.${ending}` }, commands: {} });
    } catch (error) {
      this.on.saved({ why: error.message });
    }
  }

  // What the page is told.

  #show(at) {
    const to = Math.min(Math.max(at, 0), this.at), step = this.dreamt[Math.max(to - 1, this.first)];
    const header = { at: to, rows: to ? step.rows : 1, count: this.page.hello.group, action: to ? step.action : this.led, true: false };
    this.on.look(header, to ? step.frames : this.context);
  }

  #tell(busy = "") {
    const has = this.dreamt ? { at: this.at, first: this.first, latents: this.latents, rows: this.branch ? FUTURES : 1, again: this.again.length } : {};
    this.on.state({
      running: this.running, times: this.times, quality: this.chosen, note: this.note, busy, start: this.start, seed: this.seed, truth: false, ...has,
    });
  }
}
