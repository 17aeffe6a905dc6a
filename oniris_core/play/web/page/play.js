// The page: what shows and what is pressed. Where frames come from is engine.js.

import { Controls } from "./controls.js";
import { Engine } from "./engine.js";
import { Film, curve, paint } from "./film.js";

const $ = (id) => document.getElementById(id);
const SPEEDS = [[0.25, "¼"], [0.5, "½"], [1, "1×"], [2, "2×"], [4, "4×"]];
const KEYS = [["Space", "play or pause"], ["N", "one step"], ["R", "restart"], ["F", "four futures"], ["1 … 4", "choose one of them"],
  ["[  ]", "look back and forth"], ["G", "go on from here"], ["T", "the truth, or not"], ["V", "record"], ["?", "this list"]];

const page = {
  hello: null, state: {}, controls: null, film: null,
  at: 0, // latent frames dreamt, as far as is known
  shown: 0, // the moment that is looked at
  looking: false, // back into the past
  errors: [], truths: new Map(), latencies: [], presses: new Map(), press: 0, milliseconds: [],
};
window.oniris = page; // for tests, and for the curious

const engine = new Engine({
  hello(hello) {
    const knew = page.hello !== null;
    page.hello = hello;
    if (!knew) build(hello);
    say("");
    if (hello.again) {
      page.isBack = true;
      engine.act(page.controls.value, 0);
      return;
    }
    if (knew) say("The dream was not kept so long. Here is a new one.");
    engine.quality(hello.quality);
    restart();
  },
  state(state) {
    page.state = state;
    if (state.at !== undefined && !page.looking) page.at = state.at;
    if (page.isBack && state.latents) { // a page that was opened anew shows what its dream began from
      page.isBack = false;
      $("start").value = state.start;
      starts();
      $("latents").value = state.latents;
      starts();
    }
    show();
    if (state.busy) say(`One moment: ${state.busy}.`);
    else if (state.note) say(state.note);
  },
  frames(header, bytes) {
    page.at = header.at;
    page.milliseconds = [...page.milliseconds.slice(-19), header.ms];
    if (page.looking) return;
    rows(header.rows);
    page.film.put(header, bytes, canvases);
  },
  look(header, bytes) {
    if (!page.film) return;
    rows(header.rows);
    const size = header.rows * header.count * page.hello.height * page.hello.width * 3;
    page.film.still(header, bytes, canvases);
    page.shown = header.at;
    if (!page.looking) page.at = header.at;
    if (header.at === 0 || !page.looking) { page.errors.length = Math.min(page.errors.length, page.at); page.truths.clear(); }
    if (header.true) truth(bytes.subarray(size), header.count - 1);
    applied(header.action, 0);
    dreamt(header);
    scrubber();
  },
  truth(header, bytes) {
    page.truths.set(header.at, { header, bytes });
    for (const at of page.truths.keys()) if (at < header.at - 4) page.truths.delete(at);
    while (page.errors.length < header.from) page.errors.push(null);
    page.errors.splice(header.from, Infinity, ...header.errors);
    if (!page.looking && page.shown === header.at) truth(bytes, page.frame ?? header.count - 1);
    reward(header);
    scrubber();
  },
  no_truth({ why }) { noTruth(why); },
  saved(saved) { recorded(saved); },
  full({ players }) {
    say(`${players === 1 ? "Somebody plays" : `${players} pages play`} here already, and all share one machine. This page waits for a free seat.`);
  },
  lost(text) { say(text); },
  closed(text, canReturn) { say(`This page was disconnected: ${text}.`, canReturn ? "Play here" : "Reload", () => (canReturn ? engine.open() : location.reload())); },
});

page.engine = engine;
const canvases = [$("dream")];

function build(hello) {
  document.title = `${hello.env ?? "A world"} in Oniris`;
  $("env").textContent = hello.env ?? "";
  for (const view of document.querySelectorAll(".view")) view.style.aspectRatio = `${hello.width} / ${hello.height}`;
  page.film = new Film(hello.width, hello.height, drawn);
  page.controls = new Controls($("keys"), hello, acted);
  paint($("true"), new Uint8Array(hello.width * hello.height * 3), hello.width, hello.height);
  for (const [times, text] of SPEEDS) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick: () => engine.speed(times) });
    button.dataset.times = times;
    $("speed").append(button);
  }
  $("start").replaceChildren(...hello.starts.map((start, i) => new Option(String(start.episode), i)));
  starts();
  $("latents").value = hello.context;
  starts();
  for (const button of $("quality").children) {
    const quality = hello.qualities[button.dataset.quality];
    button.title = `${quality.steps} solver steps, ${quality.milliseconds.toFixed(0)} ms a latent frame when measured`;
    button.onclick = () => engine.quality(button.dataset.quality);
  }
  const seconds = hello.group / hello.rate, steps = hello.skip ? ` = ${hello.group * hello.skip} steps of the environment` : "";
  $("lasts").textContent = `An action lasts ${hello.group} frames${steps} (${seconds.toFixed(2)} s). ${hello.runs ?? ""}`;
  $("keys-table").innerHTML = KEYS.filter(([key]) => key !== "T" || !hello.why).map(([key, what]) => `<tr><td><kbd>${key}</kbd></td><td>${what}</td></tr>`).join("");
  if (hello.why) noTruth(hello.why);
}

// What is shown.

function rows(count) {
  if (Number($("screens").dataset.rows) === count) return;
  $("screens").dataset.rows = count;
  while (canvases.length < count) canvases.push(document.createElement("canvas"));
  if (count === 1) return $("views").replaceChildren(canvases[0]);
  $("views").replaceChildren(...canvases.slice(0, count).map((canvas, row) => {
    const one = Object.assign(document.createElement("button"), { type: "button", className: "one", title: `go on with this one (${row + 1})` });
    one.append(canvas, Object.assign(document.createElement("b"), { textContent: row + 1 }));
    one.onclick = () => choose(row);
    return one;
  }));
}

function drawn(header, first, i) {
  page.shown = header.at;
  if (first) {
    applied(header.action, header.again);
    dreamt(header);
    const pressed = page.presses.get(header.press);
    if (pressed !== undefined) {
      page.latencies = [...page.latencies.slice(-99), performance.now() - pressed];
      for (const press of page.presses.keys()) if (press <= header.press) page.presses.delete(press);
    }
    scrubber();
    return;
  }
  page.frame = i;
  const known = page.truths.get(header.at);
  if (known) truth(known.bytes, i);
}

function truth(bytes, i) {
  const size = page.hello.width * page.hello.height * 3;
  paint($("true"), bytes.subarray(i * size, (i + 1) * size), page.hello.width, page.hello.height);
}

// What the model says of its own dream, where it has learned that.
function dreamt(of) {
  $("dream-reward").textContent = of.reward === undefined ? "" : `reward ${of.reward.toFixed(0)}${of.ended ? ", ended" : ""}`;
  $("dream-reward").title = "since the context, as the model predicts it";
}

function reward(of) {
  $("reward").textContent = of.reward === null || of.reward === undefined ? "" : `reward ${of.reward.toFixed(0)}`;
  $("ended").hidden = !of.ended;
  $("ended").textContent = of.terminated ? "the episode has ended here" : "the time of the episode is up";
}

function noTruth(why) {
  $("screens").classList.add("alone");
  $("truth").disabled = true;
  $("truth").textContent = "not here";
  $("truth").title = why;
  $("curve-label").textContent = `no truth: ${why}`;
}

function applied(action, again) {
  $("applied").textContent = page.controls.words(action);
  $("applied").classList.toggle("again", again > 0);
  $("applied").title = again ? "as it was done before" : "the action that is being applied";
  page.controls.mark(action);
}

function show() {
  const state = page.state;
  $("run").innerHTML = state.running ? "<i>❚❚</i> Pause" : "<i>▶</i> Play";
  $("run").setAttribute("aria-pressed", String(Boolean(state.running)));
  $("futures").setAttribute("aria-pressed", String(state.rows > 1));
  for (const button of $("speed").children) button.setAttribute("aria-pressed", String(Number(button.dataset.times) === state.times));
  for (const button of $("quality").children) button.setAttribute("aria-pressed", String(button.dataset.quality === state.quality));
  $("noise").textContent = state.seed === undefined ? "" : `noise ${state.seed}`;
  if (!page.hello.why && !state.truth_why) {
    $("truth").setAttribute("aria-pressed", String(state.truth));
    $("truth").textContent = state.truth ? "hide" : "show";
    $("screens").classList.toggle("alone", !state.truth);
  }
  if (state.truth_reward !== undefined) reward({ reward: state.truth_reward, ended: state.truth_ended, terminated: state.truth_terminated });
  if (state.rows > 1) say("Four futures under your actions. Choose one: click it, or press 1 to 4.");
  else if (state.at === 0 && !state.running) say("Press a key of the game to begin.");
  else if (!state.note && !state.busy) say("");
  scrubber();
}

function scrubber() {
  const { hello } = page, scrub = $("scrub");
  scrub.max = page.at;
  scrub.min = page.state.first ?? 0;
  if (!page.looking) scrub.value = page.at;
  const seconds = (at) => ((at * hello.group) / hello.rate).toFixed(2);
  $("clock").textContent = page.looking ? `${seconds(page.shown)} of ${seconds(page.at)} s` : `${seconds(page.at)} s`;
  scrub.setAttribute("aria-valuetext", $("clock").textContent);
  $("past").hidden = !page.looking;
  $("screens").classList.toggle("past", page.looking);
  page.curveDue = true;
}

function figures() {
  const of = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))];
  $("fps").textContent = page.film && page.state.running ? page.film.rate.toFixed(0) : "–";
  $("latency").innerHTML = page.latencies.length ? `${of(page.latencies, 0.5).toFixed(0)} <small>ms</small>` : "–";
  $("latency").title = page.latencies.length ? `median of ${page.latencies.length}; 95 %: ${of(page.latencies, 0.95).toFixed(0)} ms` : "";
  $("ms").innerHTML = page.milliseconds.length ? `${of(page.milliseconds, 0.5).toFixed(0)} <small>of ${((1000 * page.hello.group) / page.hello.rate).toFixed(0)} ms</small>` : "–";
  $("count").textContent = page.hello ? (page.at * page.hello.group).toLocaleString("en") : "0";
}

let curveDrawn = 0;
function tick(now) {
  requestAnimationFrame(tick);
  page.film?.tick(now);
  page.controls?.gamepad(now);
  if (page.curveDue && page.hello && now - curveDrawn > 100) {
    page.curveDue = false;
    curveDrawn = now;
    const top = curve($("curve"), page.errors, page.at, page.looking ? page.shown : page.at);
    const last = page.errors.findLast((e) => e !== null && e !== undefined);
    if (!page.hello.why) $("curve-label").textContent = top === null ? "" : `position off by ${last.toFixed(0)} px of the screen (up to ${top.toFixed(0)})`;
  }
}

function say(text, button, done) {
  $("message").hidden = !text;
  $("message").textContent = text;
  if (button) $("message").append(Object.assign(document.createElement("button"), { type: "button", className: "strong", textContent: button, onclick: done }));
}

function recorded(saved) {
  if (saved.why) return say(`Not recorded: ${saved.why}.`);
  $("video").src = engine.recording(saved.files.videos);
  $("saved-links").replaceChildren(...Object.entries({ videos: "the video", dream: "the dream as an episode", simulator: "the truth as an episode" })
    .filter(([kind]) => saved.files[kind]).flatMap(([kind, text]) => {
      const link = Object.assign(document.createElement("a"), { href: engine.recording(saved.files[kind]), download: saved.files[kind], textContent: text });
      return [link, document.createTextNode("  ")];
    }));
  $("saved-command").textContent = Object.values(saved.commands).join("\n");
  $("trained").hidden = $("saved-command").hidden = !$("saved-command").textContent;
  $("saved").showModal();
  $("video").play().catch(() => {});
}

// What is pressed.

function acted(value, when, isNew, isLetGo) {
  if (isNew) {
    page.presses.set(++page.press, when);
    engine.act(value, page.press);
  }
  if (isLetGo) return; // who pauses with a key held down wants no more than that
  if (page.looking) goOn(false);
  else if (!page.state.running) engine.run(true);
}

function restart() {
  page.looking = false;
  page.errors = [];
  page.truths.clear();
  page.presses.clear();
  page.frame = undefined;
  engine.restart(Number($("start").value), Number($("latents").value));
}

function starts() {
  const start = page.hello.starts[$("start").value];
  $("latents").max = start.latents;
  $("latents-text").value = $("latents").value * page.hello.group;
}

function look(at) {
  at = Math.min(Math.max(at, Number($("scrub").min)), page.at);
  if (page.state.running) engine.run(false);
  if (at === page.at) return present();
  page.looking = true;
  $("scrub").value = at;
  engine.look(at);
  scrubber();
}

function present() {
  page.looking = false;
  engine.look(page.at);
  scrubber();
}

function goOn(again) {
  const at = page.shown;
  page.looking = false;
  page.presses.clear();
  page.errors.length = Math.min(page.errors.length, at);
  engine.rewind(at, again, again);
  engine.run(true);
}

function futures() {
  if (page.state.rows > 1) return choose(0);
  if (page.looking) {
    const at = page.shown;
    page.looking = false;
    engine.rewind(at, false, false);
  }
  engine.futures();
}

function choose(row) { engine.choose(row); }

$("run").onclick = () => (page.looking ? goOn(false) : engine.run(!page.state.running));
$("step").onclick = () => { page.looking = false; engine.step(); };
$("restart").onclick = restart;
$("futures").onclick = futures;
$("save").onclick = () => { if (page.at) { say("Recording …"); engine.save(); } };
$("go-on").onclick = () => goOn(false);
$("again").onclick = () => goOn(true);
$("present").onclick = present;
$("truth").onclick = () => engine.truth(!page.state.truth);
$("help").onclick = () => $("keys-help").showModal();
$("scrub").oninput = () => look(Number($("scrub").value));
$("start").onchange = () => { starts(); restart(); };
$("latents").oninput = starts;
$("latents").onchange = restart;
$("saved").onclose = () => { $("video").pause(); say(""); show(); };
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  localStorage.setItem("oniris-theme", (document.documentElement.dataset.theme = dark ? "light" : "dark"));
  page.curveDue = true;
};
document.documentElement.dataset.theme = localStorage.getItem("oniris-theme") ?? "";

const SHORT = {
  Space: () => $("run").click(), KeyN: () => $("step").click(), KeyR: restart, KeyF: futures, KeyT: () => $("truth").click(), KeyV: () => $("save").click(),
  KeyG: () => page.looking && goOn(false), BracketLeft: () => look((page.looking ? page.shown : page.at) - 1),
  BracketRight: () => page.looking && look(page.shown + 1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !page.controls || document.querySelector("dialog[open]")) return;
  const on = document.activeElement, writes = on && ["INPUT", "SELECT"].includes(on.tagName);
  if (event.key === "?") return $("help").click();
  if (writes && (event.code.startsWith("Arrow") || event.code === "Space" || event.code === "Enter")) return;
  if (event.code === "Space" && on?.tagName === "BUTTON" && on.matches(":focus-visible")) return;
  const digit = /^Digit([1-4])$/.exec(event.code);
  if (digit && page.state.rows > 1) choose(Number(digit[1]) - 1);
  else if (page.controls.key(event, true)) { /* of the game */ }
  else if (SHORT[event.code] && !(event.repeat && !event.code.startsWith("Bracket"))) SHORT[event.code]();
  else return;
  event.preventDefault();
});
document.addEventListener("keyup", (event) => page.controls?.key(event, false));
document.addEventListener("pointerup", () => document.activeElement?.tagName === "BUTTON" && document.activeElement.blur());
for (const select of [$("start"), $("latents"), $("scrub")]) select.addEventListener("change", () => select.blur());
window.addEventListener("blur", () => page.controls?.release());
document.addEventListener("visibilitychange", () => {
  page.controls?.release();
  if (document.hidden && page.state.running) engine.run(false);
});
window.addEventListener("resize", () => (page.curveDue = true));
setInterval(figures, 250);
requestAnimationFrame(tick);
engine.open();
