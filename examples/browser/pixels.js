// What becomes of a picture's pixels before the model sees them: the resize policy, to the same bytes as musiq-score.

/** A policy such as "longer=1024" with the words that may follow it in a file's metadata; throws for one unknown here. */
export function parsePolicy(text) {
  const found = /^(native|(longer|shorter)=([1-9]\d{0,4}))(?=:|$)/.exec(text ?? "native");
  if (!found) throw new Error(`The model wants its pictures resized as "${text}", which this page does not do. `
    + "Export one for any size: musiq-export --resize native, longer=N or shorter=N.");
  return { name: found[1], kind: found[2] ?? "native", length: Number(found[3] ?? 0) };
}

/** [width, height] that a picture gets, aspect kept. */
export function sizeUnder(policy, width, height) {
  const side = policy.kind === "longer" ? Math.max(width, height) : Math.min(width, height);
  if (policy.kind === "native" || side <= policy.length) return [width, height];
  return [width, height].map((each) => Math.max(1, halfToEven(each * policy.length / side)));
}

function halfToEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/** The RGB of RGBA. */
export function withoutAlpha(rgba) {
  const rgb = new Uint8Array(rgba.length / 4 * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

/** RGBA shrunk to RGB, each new pixel the mean of the area that it covers, rounded as OpenCV's INTER_AREA does it. */
export function shrunk(rgba, width, height, newWidth, newHeight) {
  const across = width / newWidth, down = height / newHeight;
  if (Number.isInteger(across) && Number.isInteger(down)) {
    return shrunkByWholes(rgba, width, across, down, newWidth, newHeight);
  }
  const columns = shares(width, newWidth), rows = shares(height, newHeight);
  const result = new Uint8ClampedArray(newWidth * newHeight * 3); // which rounds halves to even
  const line = new Float32Array(newWidth * 3), sums = new Float32Array(newWidth * 3);
  for (let row = 0; row < newHeight; row++) {
    sums.fill(0);
    for (let source = rows.starts[row]; source < rows.starts[row + 1]; source++) {
      averageLine(rgba, rows.places[source] * width * 4, columns, line);
      const share = rows.shares[source];
      for (let index = 0; index < sums.length; index++) sums[index] += Math.fround(share * line[index]);
    }
    result.set(sums, row * sums.length);
  }
  return new Uint8Array(result.buffer);
}

function averageLine(rgba, start, { starts, places, shares }, line) {
  for (let column = 0, to = 0; to < line.length; column++, to += 3) {
    let red = 0, green = 0, blue = 0;
    for (let index = starts[column]; index < starts[column + 1]; index++) {
      const from = start + places[index] * 4, share = shares[index];
      red = Math.fround(red + Math.fround(rgba[from] * share));
      green = Math.fround(green + Math.fround(rgba[from + 1] * share));
      blue = Math.fround(blue + Math.fround(rgba[from + 2] * share));
    }
    line[to] = red;
    line[to + 1] = green;
    line[to + 2] = blue;
  }
}

/** Which pixels of a side each new one covers, and by what share; those of `n` are from `starts[n]` to `starts[n + 1]`. */
function shares(side, newSide) {
  const scale = 1 / (newSide / side), starts = [0], places = [], found = [];
  const add = (place, share) => { places.push(place); found.push(share); };
  for (let index = 0; index < newSide; index++) {
    const from = index * scale, to = from + scale, covered = Math.min(scale, side - from);
    const end = Math.min(Math.floor(to), side - 1), begin = Math.min(Math.ceil(from), end);
    if (begin - from > 1e-3) add(begin - 1, (begin - from) / covered);
    for (let place = begin; place < end; place++) add(place, 1 / covered);
    if (to - end > 1e-3) add(end, Math.min(to - end, 1, covered) / covered);
    starts.push(places.length);
  }
  return { starts: Int32Array.from(starts), places: Int32Array.from(places), shares: Float32Array.from(found) };
}

function shrunkByWholes(rgba, width, across, down, newWidth, newHeight) {
  const result = new Uint8ClampedArray(newWidth * newHeight * 3), area = Math.fround(1 / (across * down));
  const halfUp = across === 2 && down === 2; // OpenCV has a way of its own for it
  for (let row = 0, to = 0; row < newHeight; row++) {
    for (let column = 0; column < newWidth; column++) {
      for (let colour = 0; colour < 3; colour++, to++) {
        let sum = 0;
        for (let y = row * down; y < (row + 1) * down; y++) {
          for (let x = column * across; x < (column + 1) * across; x++) sum += rgba[(y * width + x) * 4 + colour];
        }
        result[to] = halfUp ? (sum + 2) >> 2 : Math.fround(sum * area);
      }
    }
  }
  return new Uint8Array(result.buffer);
}
