"use strict";
// The page: takes photos, hands them to the worker one by one, lists what comes back. No module, so that it also runs, and
// says what to do, where the page was opened as a file.

const byId = (id) => document.getElementById(id);
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const time = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

const asked = new URLSearchParams(location.search);
const MODEL = asked.get("model") ?? "model.onnx";
const rows = [];
let worker = null, facts = null, waiting = [], current = null;

function say(problem) {
  byId("problem").textContent = problem;
  byId("problem").hidden = !problem;
}

// The model.

async function start() {
  if (location.protocol === "file:") {
    say("Browsers let no page that was opened as a file run a model. In the folder of this page, run "
      + "“python -m http.server 8000”, and open http://localhost:8000 instead.");
    byId("files").disabled = true;
    return;
  }
  if (!self.OffscreenCanvas || !self.WebAssembly) {
    say("This browser is too old for this page. Expected Chrome or Edge 110, Firefox 114, Safari 17, or newer.");
    return;
  }
  if (await reloads()) return;
  load();
}

/** Wait for the service worker, through which all is kept for the next time; true if the page loads anew for threads. */
async function reloads() {
  const { serviceWorker } = navigator;
  if (!serviceWorker) return false; // no https and not this machine: no second time without a network
  const soon = new Promise((done) => {
    serviceWorker.addEventListener("controllerchange", done);
    setTimeout(done, 5000);
  });
  await serviceWorker.register("service-worker.js").then(() => serviceWorker.controller ?? soon, () => {});
  if (!serviceWorker.controller || crossOriginIsolated || rows.length || sessionStorage.getItem("reloaded")) return false;
  sessionStorage.setItem("reloaded", "once"); // where it does not help, one thread does
  location.reload();
  return true;
}

function load(on = asked.get("on")) {
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", ({ data }) => heard[data.kind](data));
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    const reason = `The browser gave up on it: ${event.message || "no memory"}`;
    if (current) heard.row({ id: current.id, score: null, broken: true, error: reason });
    else heard.failed({ reason: event.message || "A script of this page did not load. Load the page again." });
  });
  worker.postMessage({ model: new URL(MODEL, location).href, on });
}

const heard = {
  loading({ loaded, total }) {
    const mega = (bytes) => (bytes / 1e6).toFixed(1);
    byId("state").textContent = `Loading the model: ${mega(loaded)}${total ? ` of ${mega(total)}` : ""} MB`;
    progress(loaded, total);
  },
  ready(said) {
    facts = said;
    const [low, high] = facts.range ?? [];
    byId("facts").replaceChildren(...Object.entries({
      Score: facts.target === "unknown" ? "of an unknown target" : facts.target,
      Range: facts.range ? `${low} (worst) to ${high} (best)` : "unknown",
      "Size seen": facts.policy,
      "Runs on": facts.on === "WebGPU" ? "WebGPU (untested; ?on=wasm does without)"
        : `WebAssembly, ${count(facts.threads, "thread")}${facts.refused ? "; WebGPU scores otherwise here" : ""}`,
      Offline: navigator.serviceWorker?.controller ? "works" : "no: needs https or localhost",
    }).map(([name, value]) => made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: value }))));
    next();
  },
  failed({ reason }) {
    worker.terminate();
    worker = null;
    byId("state").textContent = "";
    progress();
    say(reason);
  },
  row({ id, broken, ...result }) {
    const row = current;
    current = null;
    if (row?.id === id) {
      Object.assign(row, result, { done: true });
      show(row);
    }
    if (broken) {
      worker.terminate();
      facts = null;
      load();
    } else next();
  },
  trying() {
    byId("state").textContent = "Trying WebGPU …";
    progress();
    // A driver may never answer, and then nothing else does in that worker.
    const patience = setTimeout(() => {
      worker.terminate();
      load("wasm");
    }, asked.get("on") === "webgpu" ? 600_000 : 30_000);
    worker.addEventListener("message", () => clearTimeout(patience));
  },
};

// The photos.

let ids = 0;
function add(files) {
  for (const { file, path } of files) {
    const row = { id: ids++, file, path, score: null, size: "", fitted: "", error: "", ms: null, done: false };
    row.element = made("li", {}, made("div", { className: "picture" }),
      made("div", { className: "words" }, made("bdi", { textContent: path, title: path }),
        made("span", { textContent: "waits" })),
      made("div", { className: "score" }));
    rows.push(row);
    waiting.push(row);
  }
  arrange();
  next();
}

function next() {
  tell();
  if (!facts || current || !waiting.length) return;
  current = waiting.shift();
  current.element.querySelector(".words span").textContent = "is scored …";
  worker.postMessage({ id: current.id, file: current.file });
}

function tell() {
  byId("controls").hidden = !rows.length;
  if (!facts) return;
  const done = rows.filter((row) => row.done), scored = done.filter((row) => row.score !== null);
  const mean = scored.reduce((sum, row) => sum + row.ms, 0) / scored.length;
  const words = [(rows.length > done.length ? `${done.length} of ` : "") + count(rows.length, "photo")];
  if (scored.length) words.push(`${time(mean)} a photo`);
  if (done.length > scored.length) words.push(`${done.length - scored.length} without a score`);
  byId("state").textContent = rows.length ? words.join(", ") : "Ready.";
  progress(done.length, rows.length > done.length ? rows.length : 0);
}

function progress(value = 0, most = 0) {
  byId("progress").hidden = !most;
  byId("progress").max = most || 1;
  byId("progress").value = value;
}

function show(row) {
  const { element, score, error, small } = row;
  if (small) {
    row.url = URL.createObjectURL(small);
    element.querySelector(".picture").append(made("img", { alt: "", src: row.url, decoding: "async" }));
  }
  element.classList.toggle("failed", score === null);
  element.querySelector(".words span").textContent = error
    || [row.size, row.fitted, time(row.ms)].filter(Boolean).join(", ");
  if (score !== null) {
    const [low, high] = facts.range ?? [0, 0], spread = high - low || 1;
    const digits = Math.max(0, Math.min(8, 3 - Math.floor(Math.log10(spread))));
    element.querySelector(".score").append(score.toFixed(digits),
      ...(facts.range ? [made("meter", { min: low, max: high, value: score, ariaLabel: "of the range" })] : []));
  } else element.querySelector(".score").textContent = "–";
  delete row.file;
  if (byId("order").value !== "given") arrange();
}

let arranged = 0;
/** Lay the rows out in the order that is asked for, once for all that came within a moment. */
function arrange() {
  arranged ||= setTimeout(() => {
    arranged = 0;
    const order = byId("order").value, sign = order === "best" ? -1 : 1;
    const known = (row) => (row.score === null ? Infinity : sign * row.score);
    const better = (one, other) => (known(one) === known(other) ? 0 : known(one) - known(other)); // of Infinity, NaN
    const wanted = order === "given" ? rows : rows.toSorted(better);
    byId("list").replaceChildren(...wanted.map((row) => row.element));
  }, 50);
}

byId("order").addEventListener("change", arrange);
byId("clear").addEventListener("click", () => {
  for (const row of rows) if (row.url) URL.revokeObjectURL(row.url);
  rows.length = waiting.length = 0;
  arrange();
  tell();
  byId("files").focus();
});
byId("files").addEventListener("change", ({ target }) => {
  add([...target.files].map((file) => ({ file, path: file.name })));
  target.value = ""; // so that the same can be chosen again
});

// Dropped anywhere, also folders with all that is inside.

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
addEventListener("drop", async ({ dataTransfer }) => {
  const dropped = [...dataTransfer.items].filter((item) => item.kind === "file") // all at once: they are gone afterwards
    .map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  for (const { entry, file } of dropped) {
    add(entry?.isDirectory ? await inside(entry) : [{ file, path: file.name }]);
  }
});

async function inside(folder) {
  const reader = folder.createReader(), found = [];
  const read = () => new Promise((done) => reader.readEntries(done, () => done([])));
  for (let entries = await read(); entries.length; entries = await read()) { // 100 at a time
    for (const entry of entries.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }))) {
      if (entry.isDirectory) found.push(...await inside(entry));
      else {
        const file = await new Promise((done) => entry.file(done, () => done(null)));
        if (file?.type.startsWith("image/")) found.push({ file, path: entry.fullPath.slice(1) });
      }
    }
  }
  return found;
}

// The CSV: the columns of musiq-score, and the time.

function csv() {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = rows.filter((row) => row.done).map(({ path, score, size, fitted, error, ms }) => [
    path, score === null ? "" : shortest(score), size, fitted, error, ms === null ? "" : ms.toFixed(0),
  ].map(cell).join(","));
  return ["path,score,size,fitted,error,ms", ...lines, ""].join("\n");
}

/** The fewest digits that tell a float32 from all others. */
function shortest(score) {
  for (let digits = 1; digits < 9; digits++) {
    const text = String(Number(score.toPrecision(digits)));
    if (Math.fround(text) === score) return text;
  }
  return String(Number(score.toPrecision(9)));
}

byId("save").addEventListener("click", () => {
  const link = made("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "scores.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});

start();
