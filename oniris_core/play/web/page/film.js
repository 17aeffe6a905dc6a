// Shows frames when they are due: those of a latent frame arrive together and are shown one after the other.

export class Film {
  // `drawn(header, first)` is called after each frame; `first`: it is the first one of its latent frame.
  constructor(width, height, drawn) {
    this.width = width;
    this.height = height;
    this.drawn = drawn;
    this.clear();
    this.times = [];
  }

  clear() {
    this.waiting = [];
    this.next = 0;
  }

  // header: count frames of rows pictures, which last `seconds`; bytes: [rows, count, H, W, 3].
  put(header, bytes, canvases) {
    const now = performance.now(), lasts = 1000 * header.seconds;
    // A little ahead of time is waited for and slowly taken back, so that an uneven network does not show.
    const from = Math.max(now, Math.min(this.next - 0.05 * lasts, now + lasts));
    this.next = from + lasts;
    for (let i = 0; i < header.count; i++)
      this.waiting.push({ due: from + (i * lasts) / header.count, header, bytes, i, canvases });
  }

  // At once, the last frame of them.
  still(header, bytes, canvases) {
    this.clear();
    this.draw({ header, bytes, i: header.count - 1, canvases });
  }

  tick(now) {
    let due = null, firsts = [];
    while (this.waiting.length && this.waiting[0].due <= now + 4) {
      due = this.waiting.shift();
      this.times.push(now);
      if (due.i === 0) firsts.push(due.header);
    }
    while (this.times.length && this.times[0] < now - 2000) this.times.shift();
    if (!due) return;
    this.draw(due);
    for (const header of firsts) this.drawn(header, true);
    this.drawn(due.header, false, due.i);
  }

  draw({ header, bytes, i, canvases }) {
    const size = this.width * this.height * 3;
    for (let row = 0; row < header.rows; row++)
      paint(canvases[row], bytes.subarray((row * header.count + i) * size, (row * header.count + i + 1) * size), this.width, this.height);
  }

  get rate() {
    return this.times.length / 2;
  }
}

export function paint(canvas, rgb, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let p = 0, q = 0; q < image.data.length; p += 3, q += 4) {
    image.data[q] = rgb[p];
    image.data[q + 1] = rgb[p + 1];
    image.data[q + 2] = rgb[p + 2];
    image.data[q + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// How far the dream is off, over the moments of the scrubber below it. `errors[k]`: after latent frame k; null: not known.
export function curve(canvas, errors, moments, at) {
  const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  [canvas.width, canvas.height] = [Math.max(1, box.width * ratio), Math.max(1, box.height * ratio)];
  const g = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const known = errors.filter((e) => e !== null && e !== undefined);
  const top = Math.max(20, ...known), inset = 8 * ratio, wide = canvas.width - 2 * inset, high = canvas.height - 4 * ratio;
  const x = (k) => inset + (moments ? (k / moments) * wide : 0), y = (e) => 2 * ratio + high * (1 - e / top);
  g.strokeStyle = style.getPropertyValue("--line");
  g.lineWidth = ratio;
  g.beginPath();
  g.moveTo(inset, y(0));
  g.lineTo(inset + wide, y(0));
  g.stroke();
  const colour = style.getPropertyValue("--truth");
  g.strokeStyle = g.fillStyle = colour;
  g.lineWidth = 2 * ratio;
  g.lineJoin = "round";
  let open = false;
  g.beginPath();
  errors.forEach((e, k) => {
    if (e === null || e === undefined) open = false;
    else if (open) g.lineTo(x(k + 1), y(e));
    else { g.moveTo(x(k + 1), y(e)); open = true; }
  });
  g.stroke();
  g.fillStyle = style.getPropertyValue("--warm");
  if (at < moments) g.fillRect(x(at) - ratio, 0, 2 * ratio, canvas.height);
  return known.length ? top : null;
}
