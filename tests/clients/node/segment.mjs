// A model of wsi-seg on one tile, outside Python: pixels in, label map out.
//
//   node segment.mjs MODEL.onnx TILE.rgb WIDTH HEIGHT LABELS.raw
//
// TILE.rgb: WIDTH * HEIGHT * 3 bytes, red, green, blue per pixel, row by row, at the resolution of the card (mpp).
// LABELS.raw: WIDTH * HEIGHT bytes, the index of each pixel's class. Sides are multiples of the card's output_stride.
// The card is read from the program (metadata key wsi_seg.card), else from MODEL.onnx.card.json or card.json beside it.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import ort from 'onnxruntime-node';

const CARD_KEY = 'wsi_seg.card';
const DEFAULTS = { channels: 'RGB', layout: 'NCHW', mean: [0, 0, 0], std: [1, 1, 1], activation: 'probabilities', threshold: 0.5 };

/** Fields of a protobuf message: pairs of field number and bytes (or number). */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) yield [Math.floor(tag / 8), varint()];
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const size = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + size)];
      at += size;
    } else throw new Error('not an ONNX file');
  }
}

/** The card inside an ONNX file: onnxruntime-node does not hand out custom metadata, so field 14 of ModelProto is read. */
function cardInside(path) {
  for (const [field, entry] of fields(readFileSync(path))) {
    if (field !== 14) continue;
    const pair = new Map(fields(entry));
    if (Buffer.from(pair.get(1)).toString() === CARD_KEY) return Buffer.from(pair.get(2)).toString();
  }
  return undefined;
}

function readCard(path) {
  const beside = [`${path}.card.json`, join(dirname(path), 'card.json')].find((file) => existsSync(file));
  const text = cardInside(path) ?? (beside && readFileSync(beside, 'utf8'));
  if (!text) throw new Error(`${path} carries no card, and none lies beside it`);
  return { ...DEFAULTS, ...JSON.parse(text) };
}

/** (pixel / 255 - mean) / std in float32, as one product and one sum per value: the arithmetic of wsi-seg. */
function normalised(pixels, width, height, card) {
  const scale = card.std.map((std) => Math.fround(1 / (255 * std)));
  const shift = card.mean.map((mean, channel) => Math.fround(-mean / card.std[channel]));
  const planar = card.layout === 'NCHW';
  const n = width * height;
  const out = new Float32Array(3 * n);
  for (let channel = 0; channel < 3; channel++) {
    const source = card.channels === 'BGR' ? 2 - channel : channel;
    for (let pixel = 0; pixel < n; pixel++) {
      const value = Math.fround(Math.fround(pixels[3 * pixel + source] * scale[channel]) + shift[channel]);
      out[planar ? channel * n + pixel : 3 * pixel + channel] = value;
    }
  }
  return new ort.Tensor('float32', out, planar ? [1, 3, height, width] : [1, height, width, 3]);
}

/** Softmax or sigmoid of one pixel's values, where the program leaves that open. */
function activated(values, activation) {
  if (activation === 'sigmoid') return values.map((value) => Math.fround(1 / (1 + Math.exp(-value))));
  if (activation !== 'softmax') return values;
  const powers = values.map((value) => Math.exp(value - Math.max(...values)));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => Math.fround(power / sum));
}

/** The class of a pixel: by the threshold for one channel, else the largest, the first of equals. */
function label(values, card) {
  if (values.length === 1) return values[0] >= card.threshold ? 1 : 0;
  const best = values.indexOf(Math.max(...values));
  if (values.length === card.classes.length) return best;
  // Independent classes: class 0 is none of them. Its constant lies one step of 1/65535 below the threshold.
  return values[best] > Math.fround((rounded(card.threshold * 65535) - 1) / 65535) ? best + 1 : 0;
}

/** To the nearest whole number, halves to the even one. */
function rounded(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

function labels(output, card) {
  const { dims, data } = output;
  if (output.type !== 'float32') return Uint8Array.from(data, Number); // class indices
  const possible = [1, card.classes.length, card.classes.length - 1];
  const planar = possible.includes(dims[3]) === possible.includes(dims[1]) ? card.layout === 'NCHW' : possible.includes(dims[1]);
  const channels = dims[planar ? 1 : 3];
  const n = data.length / channels;
  const result = new Uint8Array(n);
  for (let pixel = 0; pixel < n; pixel++) {
    const values = Array.from({ length: channels }, (_, c) => data[planar ? c * n + pixel : pixel * channels + c]);
    result[pixel] = label(activated(values, card.activation), card);
  }
  return result;
}

const [model, tile, width, height, out] = process.argv.slice(2);
if (!out) throw new Error('usage: node segment.mjs MODEL.onnx TILE.rgb WIDTH HEIGHT LABELS.raw');
const card = readCard(model);
const pixels = readFileSync(tile);
if (pixels.length !== width * height * 3) throw new Error(`${tile} has ${pixels.length} bytes, not ${width} * ${height} * 3`);
const session = await ort.InferenceSession.create(model, { executionProviders: ['cpu'], intraOpNumThreads: 1 });
const results = await session.run({ [session.inputNames[0]]: normalised(pixels, Number(width), Number(height), card) });
writeFileSync(out, labels(results[card.output || session.outputNames[0]], card));
console.log(JSON.stringify({ model: card.name, classes: card.classes.map((entry) => entry.name), runtime: ort.env.versions.node ?? '' }));
