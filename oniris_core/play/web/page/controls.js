// What is pressed: keys, buttons under fingers, sliders and a gamepad, made into one action of the environment.

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const CELLS = { left: "2 / 1", up: "1 / 2", right: "2 / 3", down: "2 / 2" };

export class Controls {
  // controls: as the server describes them; changed(value, when, isNew, isLetGo): what is pressed, or let go of.
  constructor(root, hello, changed) {
    this.parts = hello.controls;
    this.single = hello.spec === "discrete";
    this.changed = changed;
    this.held = this.parts.map(() => []); // what holds a choice or an end of a slider, the last one last
    this.values = this.parts.map((part) => (part.kind === "switch" ? 0 : part.rest));
    this.byKey = new Map();
    root.replaceChildren(...this.parts.map((part, k) => this.#element(part, k)));
    this.said = JSON.stringify(this.value);
    this.pad = new Set();
  }

  get value() {
    return this.single ? this.values[0] : this.values;
  }

  // Words for an action that was applied.
  words(action) {
    const values = this.single ? [action] : action;
    return values.map((value, k) => {
      const part = this.parts[k];
      if (part.kind === "choices") return part.choices.find((c) => c.value === value)?.label ?? String(value);
      if (part.kind === "switch") return value ? `${part.label} on` : `${part.label} off`;
      return `${part.label} ${value.toFixed(2)}`;
    }).join(", ");
  }

  // Mark what is applied, which may be another than is wanted: an action is fixed for a whole latent frame.
  mark(action) {
    const values = this.single ? [action] : action;
    this.parts.forEach((part, k) => {
      if (part.kind === "choices")
        for (const button of part.buttons) button.classList.toggle("applied", Number(button.dataset.value) === values[k]);
      if (part.kind === "switch") part.button.classList.toggle("applied", values[k] === 1);
    });
  }

  // Whether the key means something here.
  key(event, down) {
    const meaning = this.byKey.get(event.code);
    if (!meaning) return false;
    if (!event.repeat) meaning(event.code, down, event.timeStamp);
    return true;
  }

  release() {
    this.held.forEach((_, k) => { this.held[k] = []; this.#settle(k, performance.now(), true); });
  }

  gamepad(now) {
    const gamepad = [...(navigator.getGamepads?.() ?? [])].find((g) => g);
    if (!gamepad) return;
    const [x, y] = gamepad.axes, pressed = (i) => gamepad.buttons[i]?.pressed;
    const there = new Set();
    if (pressed(14) || x < -0.5) there.add("left");
    if (pressed(15) || x > 0.5) there.add("right");
    if (pressed(12) || y < -0.5) there.add("up");
    if (pressed(13) || y > 0.5) there.add("down");
    ["a", "b", "x", "y"].forEach((name, i) => pressed(i) && there.add(name));
    if (there.has("a") && !this.parts.some((part) => part.choices?.some((c) => c.place === "a"))) there.add("up");
    for (const place of new Set([...there, ...this.pad]))
      if (there.has(place) !== this.pad.has(place)) this.#place(place, there.has(place), now);
    this.pad = there;
  }

  #place(place, down, now) {
    this.parts.forEach((part, k) => {
      if (part.kind === "choices")
        part.choices.filter((c) => c.place === place).forEach((c) => this.#hold(k, `pad ${place}`, c.value, down, now));
      if (part.kind === "slider")
        part.places.forEach((name, end) => name === place && this.#hold(k, `pad ${place}`, end ? part.high : part.low, down, now));
    });
  }

  #hold(k, who, value, down, now) {
    this.held[k] = this.held[k].filter((held) => held.who !== who);
    if (down) this.held[k].push({ who, value });
    this.#settle(k, now, !down);
  }

  #settle(k, now, isLetGo) {
    const part = this.parts[k], last = this.held[k].at(-1);
    if (part.kind === "switch") return;
    if (last) this.values[k] = last.value;
    else if (part.kind === "slider") this.values[k] = part.by_hand ?? part.rest;
    else if (!part.stays) this.values[k] = part.rest;
    this.#said(k, now, isLetGo);
  }

  #said(k, now, isLetGo = false) {
    const part = this.parts[k];
    if (part.kind === "slider") {
      part.input.value = this.values[k];
      part.output.value = this.values[k].toFixed(2);
    } else if (part.kind === "choices") {
      for (const button of part.buttons) button.classList.toggle("wanted", Number(button.dataset.value) === this.values[k]);
    }
    const text = JSON.stringify(this.value);
    if (text !== this.said || this.held[k].length) this.changed(this.value, now, text !== this.said, isLetGo);
    this.said = text;
  }

  #element(part, k) {
    if (part.kind === "slider") return this.#slider(part, k);
    if (part.kind === "switch") return this.#switch(part, k);
    const group = document.createElement("div");
    const placed = part.choices.some((c) => c.place in CELLS);
    // What does nothing lies in the middle, where there is room.
    const idle = placed && !part.choices.some((c) => c.place === "down") ? part.choices.find((c) => c.value === part.rest && !part.stays) : null;
    group.className = placed ? "pad" : "flat";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", part.label);
    part.buttons = part.choices.map((choice) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.value = choice.value;
      const sign = choice.keys.map((code) => SIGNS[code] ?? code.replace(/^(Key|Digit)/, ""))[0] ?? "";
      button.innerHTML = "<kbd></kbd><span></span>";
      button.firstChild.textContent = sign;
      button.lastChild.textContent = choice.label;
      if (placed && choice.place in CELLS) button.style.gridArea = CELLS[choice.place];
      else if (idle === choice) button.style.gridArea = CELLS.down;
      const hold = (who, down, now) => this.#hold(k, who, choice.value, down, now);
      button.onpointerdown = (event) => {
        button.setPointerCapture(event.pointerId);
        hold(`pointer ${event.pointerId}`, true, event.timeStamp);
      };
      button.onpointerup = button.onpointercancel = (event) => hold(`pointer ${event.pointerId}`, false, event.timeStamp);
      button.oncontextmenu = (event) => event.preventDefault();
      for (const down of [true, false]) // without a mouse: Enter on a button that has the focus
        button.addEventListener(down ? "keydown" : "keyup", (event) => {
          if (event.key === "Enter" && !event.repeat) hold("enter", down, event.timeStamp);
        });
      choice.keys.forEach((code) => this.byKey.set(code, hold));
      return button;
    });
    group.append(...part.buttons);
    return group;
  }

  #slider(part, k) {
    const label = document.createElement("label");
    label.className = "slider";
    const input = (part.input = document.createElement("input"));
    Object.assign(input, { type: "range", min: part.low, max: part.high, step: "any", value: part.rest });
    part.output = document.createElement("output");
    part.output.value = part.rest.toFixed(2);
    input.oninput = (event) => {
      part.by_hand = this.values[k] = Number(input.value);
      this.#said(k, event.timeStamp);
    };
    input.ondblclick = () => { part.by_hand = undefined; this.#settle(k, performance.now(), true); };
    label.append(part.label, input, part.output);
    if (part.falls) this.byKey.set(part.falls, (who, down, now) => this.#hold(k, who, part.low, down, now));
    if (part.rises) this.byKey.set(part.rises, (who, down, now) => this.#hold(k, who, part.high, down, now));
    return label;
  }

  #switch(part, k) {
    const button = (part.button = document.createElement("button"));
    button.type = "button";
    button.textContent = part.label;
    button.setAttribute("aria-pressed", "false");
    const turn = (now) => {
      this.values[k] = 1 - this.values[k];
      button.setAttribute("aria-pressed", String(this.values[k] === 1));
      this.#said(k, now);
    };
    button.onclick = (event) => turn(event.timeStamp);
    part.keys.forEach((code) => this.byKey.set(code, (_, down, now) => down && turn(now)));
    return button;
  }
}
