// The parts of the page: gzip in base64, each with the SHA-256 it must have.

// (func (result v128) (i8x16.splat (i32.const 0))): what WebAssembly makes of it tells whether it knows SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];
const BROWSERS = "a Chrome, Edge or Firefox of 2023 or later, or Safari 16.4";

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

async function part(name) {
  const element = document.getElementById(`part-${name}`);
  try {
    const packed = bytesOf(element.textContent);
    if (globalThis.crypto?.subtle) { // else there is gzip's own checksum
      const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", packed));
      if ([...sum].map((byte) => byte.toString(16).padStart(2, "0")).join("") !== element.dataset.sha256) throw new Error("another checksum");
    }
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    element.remove();
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch (error) {
    throw new Error(`this file is damaged, its part "${name}" is not what it was: get it again`);
  }
}

// Everything that is needed to dream. Throws an Error that says what is wrong with the browser or the file.
export async function opened() {
  if (!globalThis.WebAssembly?.validate(new Uint8Array(SIMD)) || !globalThis.DecompressionStream)
    throw new Error(`this browser is too old: the dream needs WebAssembly with SIMD. Use ${BROWSERS}`);
  const page = JSON.parse(new TextDecoder().decode(await part("page.json")));
  const names = page.about.parts.filter((name) => name !== "encode");
  const graphs = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await part(`${name}.onnx`)])));
  const values = new Float32Array((await part("latents")).buffer), size = page.about.latent.shape.reduce((a, b) => a * b);
  let first = 0;
  const starts = page.starts.map(({ actions, tolds }) => {
    const latents = values.slice(first, (first += tolds.length * size));
    return { actions, tolds, latents };
  });
  const [runtime, wasm, worker] = await Promise.all(["runtime.mjs", "runtime.wasm", "worker.js"].map(part));
  return { page, graphs, starts, wasm, runtime, worker: URL.createObjectURL(new Blob([worker], { type: "text/javascript" })) };
}
