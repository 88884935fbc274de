// What an ONNX file says of itself (docs/onnx-files.md). onnxruntime-web does not tell, so it is read from the file's bytes.

const METADATA = 14; // the field of ModelProto that holds its pairs of key and value

/** The metadata of an ONNX file, by key. */
export function metadataOf(bytes) {
  const text = new TextDecoder();
  const pairs = fields(bytes).filter(([number]) => number === METADATA).map(([, pair]) => {
    const parts = Object.fromEntries(fields(pair));
    return [1, 2].map((number) => text.decode(parts[number] ?? new Uint8Array()));
  });
  return Object.fromEntries(pairs);
}

/** [number, content] of each field of a protobuf message that has a length; others are stepped over. */
function fields(bytes) {
  const found = [];
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      if (at >= bytes.length) throw new Error("It ends early.");
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("It ends early.");
      found.push([Math.floor(tag / 8), bytes.subarray(at, at + length)]);
      at += length;
    } else throw new Error("It is of another kind.");
  }
  return found;
}
