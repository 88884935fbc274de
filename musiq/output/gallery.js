"use strict";
const byId = (id) => document.getElementById(id);
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const count = (number) => number.toLocaleString("en");
const clamp = (value, least, most) => Math.max(least, Math.min(most, value));

const seconds = (time) => `${time.toLocaleString("en", { maximumFractionDigits: 2 })} s`;

const data = JSON.parse(byId("data").textContent);
// The best first; `index` is an image's place in that order, and of its thumbnail.
const images = data.images.map(([path, score, size, fitted, error, model, place, link, shares, video], index) => ({
  index, path, score, size, fitted, error, model, place, link, shares, video, found: path.toLowerCase(),
  name: (path.replace(/[\\/]+$/, "").split(/[\\/]/).pop() || path) + ("time_s" in video ? ` at ${seconds(video.time_s)}` : ""),
}));
const scored = images.filter((image) => image.score !== null);
const failed = images.length - scored.length;
const best = scored.length ? scored[0].score : 0, worst = scored.length ? scored[scored.length - 1].score : 0;
const spread = best - worst || Math.abs(best) || 1;
const decimals = clamp(2 - Math.floor(Math.log10(spread)), 0, 8);
const digits = (score, more = 0) => score.toLocaleString("en", {
  minimumFractionDigits: Math.min(decimals + more, 8), maximumFractionDigits: Math.min(decimals + more, 8),
});

// What it is of.

const fact = (name, ...value) => made("div", {}, made("dt", { textContent: name }), made("dd", {}, ...value));
document.title = `${count(images.length)} scored images`;
byId("title").textContent = `${count(images.length)} image${images.length === 1 ? "" : "s"}`
  + (failed ? `, ${count(failed)} of them without a score` : "");
byId("facts").append(
  fact(data.models.length > 1 ? "Models" : "Model", data.models.join(", ")),
  fact("Score", data.target === "unknown" ? "of an unknown target" : data.target),
  ...(data.range ? [fact("Range", `${data.range[0]} (worst) to ${data.range[1]} (best)`)] : []),
  ...Object.entries(data.settings).map(([name, value]) => fact(name, value)),
  fact("Made", data.created.replace("T", " ").replace("+00:00", " UTC")),
);
function quantile(part) {
  const place = (1 - part) * (scored.length - 1), one = scored[Math.floor(place)], next = scored[Math.ceil(place)];
  return one.score + (next.score - one.score) * (place % 1);
}
if (scored.length) {
  byId("quartiles").textContent = `From ${digits(worst)} to ${digits(best)}, median ${digits(quantile(0.5))}; `
    + `half of the images lie between ${digits(quantile(0.25))} and ${digits(quantile(0.75))}.`;
} else byId("distribution").hidden = true;

// Which images are shown, in what order. `closed`: whether `to` itself is among them.

const everything = () => ({ order: "best", from: -Infinity, to: Infinity, closed: true, name: "", failed: false });
let wanted = everything(), shown = [];
const collator = new Intl.Collator("en", { numeric: true });
let byName = null; // sorted when it is first asked for

function inRange(score) {
  return score >= wanted.from && (score < wanted.to || (wanted.closed && score === wanted.to));
}

function ordered() {
  if (wanted.order === "worst") return [...scored].reverse().concat(images.slice(scored.length));
  if (wanted.order === "place") return [...images].sort((one, other) => one.place - other.place);
  if (wanted.order === "best") return images;
  return byName ??= [...images].sort((one, other) => collator.compare(one.path, other.path));
}

function select(changes) {
  Object.assign(wanted, changes);
  const ranged = wanted.from !== -Infinity || wanted.to !== Infinity, name = wanted.name.toLowerCase();
  shown = ordered().filter((image) => (wanted.failed ? image.score === null : !ranged
    || (image.score !== null && inRange(image.score))) && image.found.includes(name));
  byId("count").textContent = shown.length === images.length ? `All ${count(images.length)}`
    : `${count(shown.length)} of ${count(images.length)}`;
  byId("nothing").hidden = shown.length > 0;
  byId("reset").hidden = !ranged && !wanted.failed && !name;
  byId("failed").setAttribute("aria-pressed", wanted.failed);
  for (const bar of bars) bar.button.classList.toggle("in", !wanted.failed && bar.last >= wanted.from && bar.from < wanted.to);
  active = 0;
  clear();
  layOut();
  const top = grid.getBoundingClientRect().top;
  if (top < 0) scrollBy(0, top - covered());
}

byId("from").placeholder = scored.length ? digits(worst) : "";
byId("to").placeholder = scored.length ? digits(best) : "";
const typed = (id, otherwise) => (byId(id).value === "" || isNaN(byId(id).valueAsNumber) ? otherwise : byId(id).valueAsNumber);
for (const id of ["from", "to"]) {
  byId(id).addEventListener("input", () => select({
    from: typed("from", -Infinity), to: typed("to", Infinity), closed: true, failed: false,
  }));
}
byId("name").addEventListener("input", () => select({ name: byId("name").value }));
byId("order").addEventListener("change", (event) => select({ order: event.target.value }));
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("failed").hidden = failed === 0;
byId("failed").textContent = `${count(failed)} without a score`;
byId("failed").addEventListener("click", () => {
  byId("from").value = byId("to").value = "";
  select({ from: -Infinity, to: Infinity, failed: !wanted.failed });
});
for (const button of [byId("reset"), byId("nothing").querySelector("button")]) {
  button.addEventListener("click", () => {
    for (const id of ["from", "to", "name"]) byId(id).value = "";
    select({ ...everything(), order: wanted.order });
  });
}

// The histogram: bars of a round width, each a button.

const bars = [];
function drawBars() {
  const raw = spread / 24, power = 10 ** Math.floor(Math.log10(raw));
  const width = [1, 2, 5, 10].find((times) => times * power >= raw * 0.999) * power;
  const first = Math.floor(worst / width), last = Math.max(first + 1, Math.ceil(best / width));
  for (let step = first; step < last; step++) {
    // Rounded, as 3 * 0.1 is more than 0.3.
    bars.push({ from: +(step * width).toPrecision(12), to: +((step + 1) * width).toPrecision(12), count: 0 });
  }
  const edges = bars.map((bar) => bar.from);
  for (const { score } of scored) {
    let index = clamp(Math.floor(score / width) - first, 0, bars.length - 1);
    if (index > 0 && score < edges[index]) index--;
    if (index < bars.length - 1 && score >= edges[index + 1]) index++;
    bars[index].count++;
  }
  const most = Math.max(...bars.map((bar) => bar.count));
  bars.forEach((bar, index) => {
    const ends = index === bars.length - 1;
    bar.last = ends ? bar.to : bar.to - width * 1e-9;
    const words = `${digits(bar.from)} to ${digits(bar.to)}: ${count(bar.count)} image${bar.count === 1 ? "" : "s"}`;
    const column = made("span");
    column.style.height = bar.count ? `max(3px, ${100 * bar.count / most}%)` : "0";
    bar.button = made("button", { type: "button", title: words, tabIndex: index ? -1 : 0 }, column);
    bar.button.setAttribute("aria-label", words);
    byId("bars").append(bar.button);
  });
  labelBars();
}

function labelBars() {
  if (!bars.length) return;
  const room = Math.max(2, Math.floor(byId("bars").clientWidth / 80)), every = Math.max(1, Math.ceil(bars.length / room));
  byId("axis").replaceChildren();
  for (let edge = 0; edge <= bars.length; edge += every) {
    const label = made("span", { textContent: +(edge < bars.length ? bars[edge].from : bars[edge - 1].to).toPrecision(6) });
    label.style.left = `${100 * edge / bars.length}%`;
    if (edge === 0) label.style.transform = "none";
    if (edge === bars.length) label.style.transform = "translateX(-100%)";
    byId("axis").append(label);
  }
}

function pick(one, other) {
  const from = bars[Math.min(one, other)].from, to = bars[Math.max(one, other)].to;
  byId("from").value = from;
  byId("to").value = to;
  select({ from, to, closed: Math.max(one, other) === bars.length - 1, failed: false });
}

let dragged = null;
const barAt = (event) => {
  const box = byId("bars").getBoundingClientRect();
  return clamp(Math.floor((event.clientX - box.left) / box.width * bars.length), 0, bars.length - 1);
};
byId("bars").addEventListener("pointerdown", (event) => {
  dragged = barAt(event);
  byId("bars").setPointerCapture(event.pointerId);
  pick(dragged, dragged);
});
byId("bars").addEventListener("pointermove", (event) => dragged !== null && pick(dragged, barAt(event)));
for (const kind of ["pointerup", "pointercancel"]) byId("bars").addEventListener(kind, () => { dragged = null; });
byId("bars").addEventListener("click", (event) => {
  const index = bars.findIndex((bar) => bar.button.contains(event.target));
  if (event.detail === 0 && index >= 0) pick(index, index); // by keyboard; a pointer has picked it already
});
byId("bars").addEventListener("keydown", (event) => {
  const index = bars.findIndex((bar) => bar.button === event.target);
  const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: bars.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const button = bars[clamp(next, 0, bars.length - 1)].button;
  bars[index].button.tabIndex = -1;
  button.tabIndex = 0;
  button.focus();
});

// The grid has a tile for what is in view and a little more, and room for the rest.

const grid = byId("grid"), tiles = new Map(), GAP = 10;
let columns = 1, width = 0, height = 0, active = 0;
const covered = () => {
  const style = getComputedStyle(byId("controls"));
  return style.position === "sticky" ? byId("controls").offsetHeight + GAP : GAP;
};

function layOut() {
  const room = grid.clientWidth, em = parseFloat(getComputedStyle(document.body).fontSize);
  columns = Math.max(1, Math.floor((room + GAP) / (10.5 * em + GAP)));
  width = (room - GAP * (columns - 1)) / columns;
  height = width * 0.75 + 3.35 * em;
  const rows = Math.ceil(shown.length / columns);
  grid.style.height = rows ? `${rows * (height + GAP) - GAP}px` : "0";
  for (const [place, tile] of tiles) put(tile, place);
  render();
}

function put(tile, place) {
  tile.style.width = `${width}px`;
  tile.style.height = `${height}px`;
  tile.style.transform = `translate(${place % columns * (width + GAP)}px, ${Math.floor(place / columns) * (height + GAP)}px)`;
}

function clear() {
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
}

function render() {
  const top = -grid.getBoundingClientRect().top, step = height + GAP;
  const first = Math.max(0, Math.floor((top - innerHeight / 2) / step) * columns);
  const end = Math.min(shown.length, Math.ceil((top + innerHeight * 1.5) / step) * columns);
  const focused = [...tiles].find(([, tile]) => tile.contains(document.activeElement))?.[0];
  for (const [place, tile] of tiles) {
    if ((place < first || place >= end) && place !== focused) {
      tile.remove();
      tiles.delete(place);
    }
  }
  // In the order of the images, which is that in which a screen reader tells them.
  let after = null;
  for (let place = end - 1; place >= first; place--) {
    let tile = tiles.get(place);
    if (!tile) tiles.set(place, tile = madeTile(place));
    if (tile.nextSibling !== after || tile.parentNode !== grid) grid.insertBefore(tile, after);
    after = tile;
  }
}

function madeTile(place) {
  const image = shown[place];
  const words = image.score === null ? "No score" : digits(image.score);
  const button = made("button", { type: "button", title: image.path, tabIndex: place === active ? 0 : -1 }, picture(image),
    made("div", { className: "caption" }, made("b", { textContent: words }), made("bdi", { textContent: image.name })));
  button.setAttribute("aria-label", `${image.name}: ${image.score === null ? image.error : words}`);
  button.addEventListener("click", () => open(place));
  const tile = made("div", { className: image.score === null ? "tile failed" : "tile" }, button);
  tile.setAttribute("role", "listitem");
  tile.setAttribute("aria-setsize", shown.length);
  tile.setAttribute("aria-posinset", place + 1);
  put(tile, place);
  return tile;
}

const thumbnails = () => byId("thumbnails")?.content.children ?? [];
let kept = null; // once all are there, as an array, of which each is found at once

function picture(image) {
  const small = (kept ?? thumbnails())[image.index]?.textContent;
  const box = made("div", { className: "picture" });
  if (small) {
    box.append(made("img", { alt: image.name, decoding: "async", src: `data:image/webp;base64,${small}` }));
  }
  if (image.error) box.append(made("span", { className: small ? "why over" : "why", textContent: image.error }));
  else if (!small) box.append(made("span", { className: "soft", textContent: "No thumbnail" }));
  if (image.score !== null) {
    const mark = made("i");
    mark.style.width = `${100 * (image.score - worst) / spread}%`;
    box.append(mark);
  }
  return box;
}

function focusOn(place) {
  const before = tiles.get(active)?.firstChild;
  if (before) before.tabIndex = -1;
  active = clamp(place, 0, shown.length - 1);
  const top = grid.getBoundingClientRect().top + Math.floor(active / columns) * (height + GAP);
  if (top < covered()) scrollBy(0, top - covered());
  else if (top + height > innerHeight) scrollBy(0, top + height + GAP - innerHeight);
  render();
  const button = tiles.get(active).firstChild;
  button.tabIndex = 0;
  button.focus({ preventScroll: true });
}

grid.addEventListener("keydown", (event) => {
  const page = columns * Math.max(1, Math.floor(innerHeight / (height + GAP)) - 1);
  const next = {
    ArrowRight: active + 1, ArrowLeft: active - 1, ArrowDown: active + columns, ArrowUp: active - columns,
    PageDown: active + page, PageUp: active - page, Home: 0, End: shown.length - 1,
  }[event.key];
  if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  focusOn(next);
});
grid.addEventListener("focusin", (event) => {
  for (const [place, tile] of tiles) if (tile.contains(event.target)) active = place;
});

let drawn = false;
addEventListener("scroll", () => {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    render();
  });
}, { passive: true });
addEventListener("resize", () => {
  labelBars();
  layOut();
});
document.addEventListener("DOMContentLoaded", () => {
  kept = [...thumbnails()];
  clear(); // some tiles may have been made before their thumbnails were there
  render();
});

// One image, with all that its row says.

const detail = byId("detail");
let opened = 0;

function open(place) {
  opened = place;
  const image = shown[place], facts = [];
  const say = (name, ...value) => facts.push(fact(name, ...value));
  if (image.score !== null) {
    const below = scored.length - 1 - scored.findLastIndex((other) => other.score === image.score);
    say("Score", digits(image.score, 3));
    if (scored.length > 1) say("Better than", `${count(below)} of the other ${count(scored.length - 1)}`);
  }
  if (image.error) say("No score because", image.error);
  const { video } = image;
  if (video.frames) {
    say("Frames", `${count(video.frames)}, from ${digits(video.min)} to ${digits(video.max)}, median ${digits(video.median)}`);
  }
  if ("frame" in video) say("Frame", `${count(video.frame)}, at ${seconds(video.time_s)}`);
  if (image.size) say("Scored at", image.size);
  if (image.fitted) say("Fitted", image.fitted);
  if (image.shares.length) say("Ratings", sharesOf(image.shares));
  if (data.models.length > 1 && image.model >= 0) say("Model", data.models[image.model]);
  say("Place", `${count(image.place + 1)} of ${count(images.length)} given`);
  detail.querySelector(".picture").replaceWith(picture(image));
  detail.querySelector("h2 bdi").textContent = image.path;
  detail.querySelector("dl").replaceChildren(...facts);
  const link = detail.querySelector("a");
  link.parentNode.hidden = !image.link;
  if (image.link) link.href = image.link;
  const [previous, next] = detail.querySelectorAll("nav button");
  previous.disabled = place === 0;
  next.disabled = place === shown.length - 1;
  if (!detail.open) detail.showModal();
}

function sharesOf(shares) {
  const chart = made("div", { className: "shares", role: "img" });
  const words = shares.map((share, index) => `${index + 1}: ${Math.round(share * 100)}%`);
  chart.setAttribute("aria-label", words.join(", "));
  chart.append(...shares.map((share, index) => {
    const column = made("span", { title: words[index] });
    column.style.height = `${100 * share / Math.max(...shares)}%`;
    return column;
  }));
  return chart;
}

const turn = (by) => shown[opened + by] && open(opened + by);
detail.addEventListener("click", (event) => {
  if (event.target === detail || event.target.value === "close") detail.close();
  if (event.target.value === "previous") turn(-1);
  if (event.target.value === "next") turn(1);
});
detail.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
detail.addEventListener("close", () => focusOn(opened));

if (scored.length) drawBars();
select({});
