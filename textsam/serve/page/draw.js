// Masks over an image: decoding, painting, and which colour is whose.

// Okabe and Ito's colours, told apart by people with any colour vision
// (jfly.uni-koeln.de/color); without black, which radiographs have enough of.
export const COLOURS = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [204, 121, 167],
  [213, 94, 0],
  [0, 114, 178],
];

// Contours are about this share of the longer side, so that they show at any size.
const CONTOUR_SHARE = 1 / 500;
// Below this, pixels are shown as squares and not smoothed.
const SMALL_PX = 384;

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

export async function bitmapOf(blob) {
  return createImageBitmap(blob, { colorSpaceConversion: "none" });
}

// Takes the bitmap: it is closed afterwards.
export function drawPicture(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.classList.toggle("small", Math.max(bitmap.width, bitmap.height) < SMALL_PX);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

// A mask's PNG as one byte a pixel, 0 or 1.
export async function maskOf(png) {
  const bitmap = await bitmapOf(new Blob([png], { type: "image/png" }));
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const inside = new Uint8Array(width * height);
  for (let i = 0; i < inside.length; i += 1) inside[i] = data[4 * i] > 127 ? 1 : 0;
  return { width, height, inside, contour: contourOf(inside, width, height) };
}

function contourOf(inside, width, height) {
  const reach = Math.max(1, Math.round(Math.max(width, height) * CONTOUR_SHARE));
  const contour = new Uint8Array(inside.length);
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : inside[y * width + x]);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (!inside[y * width + x]) continue;
      if (!at(x - reach, y) || !at(x + reach, y) || !at(x, y - reach) || !at(x, y + reach)) {
        contour[y * width + x] = 1;
      }
    }
  }
  return contour;
}

// Layers: [{mask, colour, shown}]; later ones lie above earlier ones. Opacity is from 0 to 1.
export function paintMasks(canvas, layers, opacity) {
  const [first] = layers;
  if (!first) {
    canvas.width = 0;
    return;
  }
  const { width, height } = first.mask;
  canvas.width = width;
  canvas.height = height;
  canvas.classList.toggle("small", Math.max(width, height) < SMALL_PX);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const { data } = picture;
  const edge = opacity === 0 ? 0 : 1;
  for (const { mask, colour, shown } of layers) {
    if (!shown) continue;
    for (let i = 0; i < mask.inside.length; i += 1) {
      if (!mask.inside[i]) continue;
      const alpha = mask.contour[i] ? edge : opacity;
      const under = data[4 * i + 3] / 255;
      const sum = alpha + under * (1 - alpha);
      if (sum === 0) continue;
      for (let c = 0; c < 3; c += 1) {
        const mixed = colour[c] * alpha + data[4 * i + c] * under * (1 - alpha);
        data[4 * i + c] = Math.round(mixed / sum);
      }
      data[4 * i + 3] = Math.round(255 * sum);
    }
  }
  context.putImageData(picture, 0, 0);
}
