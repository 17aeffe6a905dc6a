// Where frames come from: here a server, over a websocket. The page knows only these methods and events; the engine that
// dreams in the page itself (export/page/engine.js) has the same.
//
// Events: hello, state, frames, look, truth, no_truth, saved, full, lost(text), closed(text, canReturn).
// `frames`, `look` and `truth` come as (header, [Uint8Array of RGB frames, one behind the other]).

const AGAIN_MS = [300, 600, 1200, 2500, 5000];

export class Engine {
  constructor(on) {
    this.on = on;
    this.tries = 0;
    this.received = 0;
  }

  open() {
    const url = new URL("socket", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const known = sessionStorage.getItem("oniris-session");
    if (known) url.searchParams.set("session", known);
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.received = 0;
    socket.onmessage = (event) => {
      if (this.socket !== socket) return;
      if (typeof event.data === "string") this.#text(JSON.parse(event.data));
      else this.#frames(event.data);
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.socket = null;
      if (event.code === 1008 || event.code === 1001 && event.reason) {
        this.on.closed(event.reason, event.code === 1001);
        return;
      }
      const wait = event.code === 1013 ? 5000 : AGAIN_MS[Math.min(this.tries++, AGAIN_MS.length - 1)];
      if (event.code !== 1013) this.on.lost("The connection is lost. Trying again; the dream waits.");
      setTimeout(() => this.open(), wait);
    };
  }

  #text(message) {
    if (message.t === "hello") {
      this.tries = 0;
      sessionStorage.setItem("oniris-session", message.session);
    }
    this.on[message.t]?.(message);
  }

  #frames(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    if (header.t === "frames") this.#say({ t: "got", number: ++this.received });
    this.on[header.t]?.(header, new Uint8Array(buffer, 4 + length));
  }

  #say(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  cut() { this.socket?.close(); }
  act(value, press) { this.#say({ t: "act", value, press }); }
  run(on) { this.#say({ t: "run", on }); }
  step() { this.#say({ t: "step" }); }
  speed(times) { this.#say({ t: "speed", times }); }
  restart(start, latents) { this.#say({ t: "restart", start, latents }); }
  look(at) { this.#say({ t: "look", at }); }
  rewind(at, again, noise) { this.#say({ t: "rewind", at, again, noise }); }
  futures() { this.#say({ t: "futures" }); }
  choose(row) { this.#say({ t: "choose", row }); }
  truth(on) { this.#say({ t: "truth", on }); }
  quality(name) { this.#say({ t: "quality", name }); }
  save() { this.#say({ t: "save" }); }
  recording(name) { return new URL(`recordings/${name}`, location.href).href; }
}
