// A file to upright pixels, by the browser's own decoders.

const THUMBNAIL = [192, 144];
const KINDS = [
  [/^\xff\xd8\xff/, "JPEG"], [/^\x89PNG\r\n/, "PNG"], [/^GIF8/, "GIF"], [/^RIFF.{4}WEBP/s, "WebP"], [/^BM/, "BMP"],
  [/^.{4}ftypavi[fs]/s, "AVIF"], [/^.{4}ftyp(hei|mif1|msf1)/s, "HEIC"], [/^(II\*\0|MM\0\*)/, "TIFF"],
  [/^(\xff\x0a|\0\0\0\x0cJXL )/, "JPEG XL"],
];

/** The picture in a file as an upright `bitmap`, and its pixels by `rgba()`; throws what is wrong, in one line. */
export async function decoded(file) {
  const head = String.fromCharCode(...await bytesOf(file.slice(0, 32)));
  const kind = KINDS.find(([magic]) => magic.test(head))?.[1];
  if (file.size === 0) throw new Error("The file is empty. Copy or download it again.");
  if (!kind) throw new Error("This is no picture of a known kind. Expected JPEG, PNG, WebP, GIF, BMP or AVIF.");
  // Some browsers show what there is of a photo that was cut short; its score would not be the photo's.
  if (kind === "JPEG" && !hasEnd(await bytesOf(file))) throw new Error(cutShort(kind));
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch {
    throw new Error(["JPEG", "PNG", "GIF", "WebP", "BMP"].includes(kind)
      ? `The ${kind} file is damaged, cut short or too large for this browser. Copy it again, or make it smaller.`
      : `This browser cannot decode this ${kind} file. Save it as JPEG or PNG.`);
  }
  const { width, height } = bitmap;
  return { bitmap, rgba: () => drawn(bitmap, width, height).getImageData(0, 0, width, height).data };
}

const cutShort = (kind) => `The ${kind} file is damaged or cut short. Copy or download it again.`;
const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

/** Whether a JPEG's end marker is there: after the header, which may hold a small JPEG of its own. */
function hasEnd(bytes) {
  let at = 2;
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    at += bytes[at + 1] === 0xff ? 1 : 2 + bytes[at + 2] * 256 + bytes[at + 3];
  }
  for (; at < bytes.length - 1; at++) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  return false;
}

/** Over white, as transparency is laid for scoring. */
function drawn(bitmap, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error(`The browser has no room for ${width}x${height} pixels. Make the picture smaller.`);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context;
}

export async function thumbnail(bitmap) {
  const part = Math.min(1, THUMBNAIL[0] / bitmap.width, THUMBNAIL[1] / bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * part)));
  return drawn(bitmap, width, height).canvas.convertToBlob({ type: "image/webp", quality: 0.8 });
}
