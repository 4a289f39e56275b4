// The network in parts.js maps (x, t, label) to the noise in x, for images (B, 1, 28, 28) in [-1, 1]. The sampler is
// `ddim_trajectory` of ddpm_helpers with eta = 0; `parts.signal` and `parts.sigma` are tables of the net's schedule.
"use strict";

const SIDE = 28, PIXELS = SIDE * SIDE, COUNT = 4, NO_LABEL = 10;
const at = (id) => document.getElementById(id);

// ---- the sampler ---------------------------------------------------------------------------------------------------

/** Standard normal numbers for one image, whose own random stream is made from (seed, image): PCG (O'Neill 2014, the
 * 32-bit RXS-M-XS), then the transform of Box and Muller. */
function noise(seed, image) {
  let state = Math.imul(seed, 1_000_003) + image;
  const uniform = () => { // in (0, 1)
    state = (Math.imul(state, 747_796_405) + 2_891_336_453) | 0;
    const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277_803_737);
    return (((word ^ (word >>> 22)) >>> 0) + 0.5) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: PIXELS }, normal);
}

/** What the network predicts as noise in x, a batch of images at step t, for one label. */
async function run(session, x, t, labels) {
  const count = x.length / PIXELS;
  const whole = (value) => new ort.Tensor("int64", BigInt64Array.from({ length: count }, value), [count]);
  const { eps } = await session.run({
    x: new ort.Tensor("float32", x, [count, 1, SIDE, SIDE]),
    t: whole(() => BigInt(t)),
    label: whole((_, i) => BigInt(labels[i])),
  });
  return eps.data;
}

/** The guided prediction, as `guide` makes it; asked without and with the digit, in one pass, where both count. */
async function predict(session, x, t, digit, scale) {
  const all = (label) => Array(x.length / PIXELS).fill(label);
  if (scale === 0 || digit === NO_LABEL) return run(session, x, t, all(NO_LABEL));
  if (scale === 1) return run(session, x, t, all(digit));
  const twice = new Float32Array(2 * x.length);
  twice.set(x);
  twice.set(x, x.length);
  const eps = await run(session, twice, t, [...all(NO_LABEL), ...all(digit)]);
  return x.map((_, i) => eps[i] + scale * (eps[i + x.length] - eps[i]));
}

/** DDIM from noise x at t = T to images at t = 0; yields {t, x, clean} of each step, with the predicted clean images. */
async function* trajectory(session, x, { digit, scale, steps }) {
  const { signal, sigma } = parts, T = signal.length - 1;
  for (let k = steps; k > 0; k--) {
    const t = Math.floor((T * k) / steps), s = Math.floor((T * (k - 1)) / steps);
    const eps = await predict(session, x, t, digit, scale);
    const clean = x.map((value, i) => Math.max(-1, Math.min(1, (value - sigma[t] * eps[i]) / signal[t])));
    x = x.map((value, i) => signal[s] * clean[i] + (sigma[s] * (value - signal[t] * clean[i])) / sigma[t]);
    yield { t: s, x, clean };
  }
}

/** The bytes of a part: compressed, and as text, so that a page opened from a folder can read it, too. */
async function unpacked(name) {
  const packed = Uint8Array.from(atob(parts[name]), (letter) => letter.charCodeAt(0));
  delete parts[name];
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that simple servers do not send
  ort.env.wasm.wasmBinary = await unpacked("wasm");
  const script = new Blob([await unpacked("script")], { type: "text/javascript" });
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(script) };
  return ort.InferenceSession.create(await unpacked("net"));
}

// ---- the page ------------------------------------------------------------------------------------------------------

let session, drawing = false, frames = [];

function wish() {
  const digit = Number(document.querySelector("#digits input:checked").value);
  return { digit, scale: Number(at("scale").value), steps: Number(at("steps").value), seed: Number(at("seed").value) };
}

/** Show a frame: 0 is the noise, then one for each step. */
function show(place) {
  const { t, x, clean } = frames[place];
  const paint = (row, images) =>
    [...row.children].forEach((canvas, image) => {
      const pixels = new ImageData(SIDE, SIDE);
      for (let i = 0; i < PIXELS; i++) {
        const grey = (images[image * PIXELS + i] + 1) * 127.5; // rounded and clipped by the browser
        pixels.data.set([grey, grey, grey, 255], 4 * i);
      }
      canvas.getContext("2d").putImageData(pixels, 0, 0);
    });
  paint(at("noisy"), x);
  paint(at("clean"), clean);
  at("step").value = place;
  at("place").textContent = `${place} of ${at("step").max}, t = ${t}`;
  at("step").setAttribute("aria-valuetext", at("place").textContent);
}

async function draw() {
  const asked = wish(), start = performance.now();
  const x = new Float32Array(COUNT * PIXELS);
  for (let image = 0; image < COUNT; image++) x.set(noise(asked.seed, image), image * PIXELS);
  drawing = true;
  at("draw").textContent = "Stop";
  at("status").textContent = "Drawing ...";
  at("step").disabled = true;
  at("step").max = asked.steps;
  frames = [{ t: parts.sigma.length - 1, x, clean: new Float32Array(x.length) }];
  show(0);
  const shown = () => new Promise((then) => setTimeout(then)); // lets the browser paint, and hear a click
  await shown();
  for await (const step of trajectory(session, x, asked)) {
    frames.push(step);
    show(frames.length - 1);
    await shown();
    if (!drawing) break;
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const what = asked.digit === NO_LABEL ? "digits of any kind" : `times the digit ${asked.digit}`;
  const stopped = `Stopped after step ${frames.length - 1} of ${asked.steps}.`;
  at("status").textContent = drawing ? `Four ${what}, drawn in ${seconds} seconds.` : stopped;
  at("step").max = frames.length - 1;
  show(frames.length - 1);
  at("step").disabled = drawing = false;
  at("draw").textContent = "Draw";
}

function tell() {
  const { digit, scale, steps } = wish();
  at("scale-says").textContent = digit === NO_LABEL ? "(needs a digit)" : scale;
  at("scale").disabled = digit === NO_LABEL;
  at("steps-says").textContent = steps;
}

async function start() {
  for (const row of [at("noisy"), at("clean")]) {
    for (let image = 0; image < COUNT; image++) {
      row.append(Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE }));
    }
  }
  at("wish").addEventListener("input", tell);
  at("step").addEventListener("input", () => show(Number(at("step").value)));
  at("wish").addEventListener("submit", (event) => {
    event.preventDefault();
    if (drawing) drawing = false; // the loop in `draw` sees it
    else draw();
    at("pictures").scrollIntoView({ block: "nearest" });
  });
  at("another").addEventListener("click", () => {
    if (drawing) return;
    at("seed").value = Math.floor(Math.random() * 1_000_000);
    at("wish").requestSubmit();
  });
  tell();
  session = await load();
  at("draw").disabled = at("another").disabled = false;
  await draw();
}

start().catch((error) => {
  console.warn(error);
  document.documentElement.className = "";
});
