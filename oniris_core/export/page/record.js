// A video of what was dreamt, by the browser's own recorder: it takes as long as the video lasts.

import { paint } from "./film.js";

const KINDS = [["video/mp4;codecs=avc1.42E01E", "mp4"], ["video/webm;codecs=vp9", "webm"], ["video/webm", "webm"]];
const LONGEST_S = 120; // the last seconds are recorded
const LEAST_PIXELS = 384; // of the shorter side: recorders blur what is smaller

// frames: [Uint8Array of `group` frames RGB]; hello: height, width, group, rate; left(seconds) is told what is to come.
export async function recorded(frames, { height, width, group, rate }, left) {
  const [kind, ending] = KINDS.find(([type]) => globalThis.MediaRecorder?.isTypeSupported(type)) ?? [];
  if (!kind) throw new Error("this browser cannot record");
  const kept = frames.slice(-Math.ceil((LONGEST_S * rate) / group)), count = kept.length * group, size = height * width * 3;
  const small = document.createElement("canvas"), large = document.createElement("canvas");
  const times = Math.ceil(LEAST_PIXELS / Math.min(height, width));
  [large.width, large.height] = [times * width, times * height];
  const drawing = large.getContext("2d");
  drawing.imageSmoothingEnabled = false;
  const draw = (i) => {
    const k = i % group;
    paint(small, kept[Math.floor(i / group)].subarray(k * size, (k + 1) * size), width, height);
    drawing.drawImage(small, 0, 0, large.width, large.height);
  };
  draw(0);
  const recorder = new MediaRecorder(large.captureStream(rate), { mimeType: kind, videoBitsPerSecond: 6e6 }), chunks = [];
  recorder.ondataavailable = ({ data }) => chunks.push(data);
  const stopped = new Promise((done, failed) => { recorder.onstop = done; recorder.onerror = ({ error }) => failed(error ?? new Error("the recorder failed")); });
  recorder.start();
  const begun = performance.now();
  let said = 0;
  for (let i = 0; i < count; ) {
    draw(i);
    const now = performance.now();
    if (now - said > 500) { left((count - i) / rate); said = now; }
    await new Promise((done) => setTimeout(done, Math.max(0, begun + (1000 * (i + 1)) / rate - now)));
    i = Math.max(i + 1, Math.floor(((performance.now() - begun) * rate) / 1000)); // what is late is left out
  }
  recorder.stop();
  await stopped;
  for (const track of recorder.stream.getTracks()) track.stop();
  return { blob: new Blob(chunks, { type: kind }), ending };
}
