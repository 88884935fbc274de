// Beside the page, so that it stays quick: loads the model, then answers each picture with a row.

import { decoded, thumbnail } from "./decode.js";
import { metadataOf } from "./model-facts.js";
import { parsePolicy, shrunk, sizeUnder, withoutAlpha } from "./pixels.js";

const LARGEST_DIFFERENCE = 1e-4; // of the score's range, between WebGPU and WebAssembly on the picture that is tried
let ort, session, facts;

addEventListener("message", async ({ data: { model, on, id, file } }) => {
  if (model) {
    try {
      postMessage({ kind: "ready", ...(await load(model, on)) });
    } catch (problem) {
      postMessage({ kind: "failed", reason: problem.message });
    }
  } else postMessage({ kind: "row", id, ...(await row(file)) });
});

/** `on` is what it runs on: "wasm", "webgpu", or nothing for what is there. */
async function load(model, on) {
  const bytes = await fetched(model);
  try {
    facts = metadataOf(bytes);
  } catch {
    throw new Error(`${model} is no ONNX file, or a part of one. Run vendor.py again.`);
  }
  if (facts["input.name"] !== "image" || !facts["input.size"].startsWith("any")) {
    throw new Error(`${model} is not for pictures of any size. Export one that is: `
      + "musiq-export --size any, without --inputs.");
  }
  const policy = parsePolicy(facts["input.resize"]);
  const adapter = on === "wasm" ? null : await navigator.gpu?.requestAdapter().catch(() => null);
  const emulated = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter; // by the CPU, many times as slow
  const webgpu = adapter && (on === "webgpu" || !emulated);
  ort = await import(`./vendor/ort.${webgpu ? "webgpu" : "wasm"}.bundle.min.mjs`).catch(() => {
    throw new Error("ONNX Runtime is not in the folder vendor. Run vendor.py beside this page, and load it again.");
  });
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.logLevel = "error";
  session = await opened(bytes, "wasm");
  if (webgpu) postMessage({ kind: "trying" });
  const faster = webgpu && await agreeing(bytes);
  if (faster) session = faster;
  const [low, high] = (facts["output.range"] ?? "").split("..").map(Number);
  return {
    on: faster ? "WebGPU" : "WebAssembly", threads: ort.env.wasm.numThreads, refused: Boolean(webgpu && !faster),
    policy: policy.name, target: facts["output.target"], range: low < high ? [low, high] : null,
  };
}

const opened = (bytes, ...executionProviders) =>
  ort.InferenceSession.create(bytes, { executionProviders, logSeverityLevel: 3 });

async function fetched(address) {
  const response = await fetch(address).catch(() => null);
  if (!response?.ok) throw new Error(`${address} is not there. Run vendor.py beside this page, and load it again.`);
  const total = Number(response.headers.get("Content-Length")), parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    postMessage({ kind: "loading", loaded, total });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** A session on WebGPU, if it scores a picture as the one on WebAssembly does; else null. */
async function agreeing(bytes) {
  try {
    const found = await opened(bytes, "webgpu", "wasm");
    const pixels = new Uint8Array(96 * 128 * 3).map((_, index) => (index * index) % 251);
    const [one, other] = [await scoreOf(session, pixels, 128, 96), await scoreOf(found, pixels, 128, 96)];
    const [low, high] = (facts["output.range"] ?? "").split("..").map(Number);
    return Math.abs(one - other) <= LARGEST_DIFFERENCE * (high - low || 1) ? found : null;
  } catch {
    return null;
  }
}

async function scoreOf(session, pixels, width, height) {
  const { score } = await session.run({ image: new ort.Tensor("uint8", pixels, [1, height, width, 3]) });
  return score.data[0];
}

async function row(file) {
  const start = performance.now(), found = { score: null, size: "", fitted: "", error: "", ms: null, small: null };
  let bitmap;
  try {
    const picture = await decoded(file);
    ({ bitmap } = picture);
    found.small = await thumbnail(bitmap);
    const [width, height] = sizeUnder(parsePolicy(facts["input.resize"]), bitmap.width, bitmap.height);
    const whole = width === bitmap.width && height === bitmap.height;
    const rgba = picture.rgba();
    const pixels = whole ? withoutAlpha(rgba) : shrunk(rgba, bitmap.width, bitmap.height, width, height);
    found.size = `${width}x${height}`;
    const ratio = Math.max(width, height) / Math.max(bitmap.width, bitmap.height);
    if (!whole) found.fitted = `resized ${+ratio.toPrecision(3)}x`;
    found.score = await scoreOf(session, pixels, width, height).catch((problem) => {
      found.broken = true; // after memory ran out, the runtime answers nothing any more
      throw new Error(`The model failed on this picture: ${problem.message}`);
    });
    if (!Number.isFinite(found.score)) throw new Error(`The model says ${found.score}, which is no score.`);
    found.ms = performance.now() - start;
  } catch (problem) {
    found.score = null;
    found.error = problem.message;
  }
  bitmap?.close();
  return found;
}
