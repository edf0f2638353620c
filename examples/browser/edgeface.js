// A model file of `edgeface export` in a browser: its contract, its golden vectors, aligned faces, embeddings.
//
// The same file that a device opens is enough. Everything here follows docs/contract.md; an image is
// { width, height, data }, data being RGB bytes row by row.

const VENDOR = new URL("./vendor/", import.meta.url);
const SCHEMA = 1;
const PROBES = "edgeface-waves-1";
const METADATA_PROPS = 14; // of ModelProto, onnx/onnx.proto
const SUB = 1024; // steps of a pixel, as in align.py

// Where ArcFace's training crops of 112 pixels have the eyes, the nose tip and the mouth's corners.
const TEMPLATE = [
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
];

/** "tflite" or "onnx", told by the first bytes. */
export const fileFormat = (bytes) => (decoded(bytes.subarray(4, 8)) === "TFL3" ? "tflite" : "onnx");

/** The contract inside an ONNX or TFLite file's bytes. Throws an Error of one line where there is none to be understood. */
export function readContract(bytes) {
  const [name, read] = fileFormat(bytes) === "tflite" ? ["TFLite", tfliteText] : ["ONNX", onnxText];
  const text = whole(name, () => read(bytes));
  if (text === null) throw new Error("the file carries no edgeface contract; export it with edgeface");
  const contract = JSON.parse(text);
  if (contract.schema > SCHEMA) throw new Error(`the contract has schema ${contract.schema}: update this page`);
  return contract;
}

function whole(name, work) {
  try {
    return work();
  } catch (error) {
    throw new Error(`not a whole ${name} model: ${error.message}`);
  }
}

function onnxText(bytes) {
  let text = null;
  for (const [number, payload] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const entry = new Map(fields(payload));
    if (decoded(entry.get(1)) === "edgeface") text = decoded(entry.get(2));
  }
  return text;
}

/** Reads a FlatBuffer: tables and vectors by their field's number in tensorflow/lite/schema/schema.fbs. */
function flatbuffer(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const number = (at) => view.getUint32(at, true);
  const place = (table, field) => {
    const vtable = table - view.getInt32(table, true);
    const entry = 4 + 2 * field;
    const offset = entry < view.getUint16(vtable, true) ? view.getUint16(vtable + entry, true) : 0;
    return offset && table + offset;
  };
  const vector = (table, field) => {
    const at = place(table, field);
    if (!at) return [0, 0];
    const start = at + number(at);
    return [start + 4, number(start)];
  };
  const part = (at, length) => {
    if (at + length > bytes.length) throw new Error("cut short");
    return bytes.subarray(at, at + length);
  };
  const child = (table, field, index) => {
    const [start, count] = vector(table, field);
    if (index >= count) throw new Error("a table that is not there");
    return start + 4 * index + number(start + 4 * index);
  };
  return { view, number, place, vector, part, child };
}

/** Model.metadata (6) names one of Model.buffers (4), which holds the text, or says where behind the FlatBuffer it is. */
function tfliteText(bytes) {
  const { view, number, place, vector, part, child } = flatbuffer(bytes);
  const model = number(0);
  let text = null;
  for (let i = 0; i < vector(model, 6)[1]; i++) {
    const entry = child(model, 6, i);
    if (decoded(part(...vector(entry, 0))) !== "edgeface") continue;
    const which = place(entry, 1);
    const buffer = child(model, 4, which ? number(which) : 0);
    const [behind, size] = [1, 2].map((field) => {
      const at = place(buffer, field);
      return at ? Number(view.getBigUint64(at, true)) : 0;
    });
    text = decoded(behind > 1 ? part(behind, size) : part(...vector(buffer, 0)));
  }
  return text;
}

/** Of a TFLite file its copy, how to read it, and the tensors of its inputs and of its outputs. */
function copied(bytes) {
  const copy = bytes.slice();
  const reader = flatbuffer(copy);
  const { number, vector, child } = reader;
  const graph = child(number(0), 2, 0); // of Model.subgraphs
  const ends = [1, 2].map((field) => {
    const [start, count] = vector(graph, field); // SubGraph.inputs and .outputs, numbers of .tensors
    return Array.from({ length: count }, (_, i) => child(graph, 0, number(start + 4 * i)));
  });
  return { copy, ends, ...reader };
}

/** The file for one image at a time: LiteRT.js runs the shapes that a file states, and has no way to ask for others. */
function batchOfOne(bytes) {
  const { copy, ends, view, number, vector } = copied(bytes);
  const batches = new Set();
  for (const tensor of ends[0]) {
    const [[shape, sides], [signature, known]] = [vector(tensor, 0), vector(tensor, 7)];
    if (!sides || !known || view.getInt32(signature, true) >= 0) continue; // -1 where any size will do
    batches.add(number(shape));
    view.setInt32(shape, 1, true);
  }
  for (const [shape] of ends[1].map((tensor) => vector(tensor, 0))) {
    if (shape && batches.has(number(shape))) view.setInt32(shape, 1, true);
  }
  return copy;
}

/** The file with an input and outputs of these shapes. */
function ofShapes(bytes, input, outputs) {
  const { copy, ends, view, vector } = copied(bytes);
  [[input], outputs].forEach((shapes, end) =>
    shapes.forEach((sides, i) => sides.forEach((side, axis) => view.setInt32(vector(ends[end][i], 0)[0] + 4 * axis, side, true))),
  );
  return copy;
}

/** [field number, payload] of each length-delimited field of a protobuf message. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; scale < 2 ** 63; scale *= 128) {
      if (at >= bytes.length) throw new Error("cut short");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Error("a varint of more than nine bytes");
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag % 8;
    if (tag < 8 || ![0, 1, 2, 5].includes(wire)) throw new Error("no protobuf message");
    if (wire === 0) {
      varint();
      continue;
    }
    const length = { 1: 8, 5: 4 }[wire] ?? varint();
    if (at + length > bytes.length) throw new Error("cut short");
    if (wire === 2) yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
    at += length;
  }
}

const decoded = (bytes) => new TextDecoder().decode(bytes);

const once = (start) => {
  let started = null;
  return () => (started ??= start());
};

const onnxruntime = once(async () => {
  const ort = await import("./vendor/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1; // threads need headers that a plain static server does not send
  ort.env.wasm.wasmPaths = VENDOR.href;
  return ort;
});

const litert = once(async () => {
  const module = await import("./vendor/litert/index.js");
  await module.loadLiteRt(new URL("litert/", VENDOR).href);
  return module;
});

/**
 * An ONNX or TFLite net ready to run: run(floats or bytes, shape) gives its outputs, each with data and dims.
 * beside: { name: bytes } of the files that an ONNX file keeps weights in.
 */
export const openNet = (bytes, beside = {}) =>
  fileFormat(bytes) === "tflite" ? openTflite(bytes) : openOnnx(bytes, beside);

async function openOnnx(bytes, beside = {}) {
  const ort = await onnxruntime();
  const externalData = Object.entries(beside).map(([path, data]) => ({ path, data }));
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], externalData });
  return async (data, shape) => {
    const type = { Uint8Array: "uint8", Int8Array: "int8" }[data.constructor.name] ?? "float32";
    const outputs = await session.run({ [session.inputNames[0]]: new ort.Tensor(type, data, shape) });
    return session.outputNames.map((name) => outputs[name]);
  };
}

/** The same for a net of one input whose sides may be any; outputShapes(shape) says what it then gives. */
export async function openSized(bytes, outputShapes) {
  if (fileFormat(bytes) !== "tflite") return openOnnx(bytes);
  let [last, net, before] = ["", null, Promise.resolve()];
  const run = async (data, shape) => {
    if (`${shape}` !== last) {
      net?.close();
      [last, net] = ["", null];
      net = await compiled(whole("TFLite", () => ofShapes(bytes, shape, outputShapes(shape))));
      last = `${shape}`;
    }
    return net.run(data, shape);
  };
  return (data, shape) => {
    const answer = before.then(() => run(data, shape)); // one after another: the net is closed where the shape changes
    before = answer.catch(() => {});
    return answer;
  };
}

/** A TFLite file of stated shapes: run(data, shape), and close(), for WebAssembly's memory has no garbage collector. */
async function compiled(bytes) {
  const { Tensor, loadAndCompile } = await litert();
  const model = await loadAndCompile(bytes, { accelerator: "wasm" });
  const run = async (data, shape) => {
    const taken = new Tensor(data, shape);
    const given = await model.run([taken]);
    const outputs = [];
    for (const tensor of given) outputs.push({ data: (await tensor.data()).slice(), dims: [...tensor.type.layout.dimensions] });
    for (const tensor of [taken, ...given]) tensor.delete();
    return outputs;
  };
  return { run, close: () => model.delete() };
}

async function openTflite(bytes) {
  const { run: one } = await compiled(whole("TFLite", () => batchOfOne(bytes)));
  return async (data, [count, ...sides]) => {
    const each = data.length / count;
    const answers = [];
    for (let k = 0; k < count; k++) answers.push(await one(data.slice(k * each, (k + 1) * each), [1, ...sides]));
    return answers[0].map(({ data: first, dims }, output) => {
      const joined = new Float32Array(count * first.length);
      answers.forEach((answer, k) => joined.set(answer[output].data, k * first.length));
      return { data: joined, dims: [count, ...dims.slice(1)] };
    });
  };
}

/** A model file's bytes as { contract, embed, golden }; embed takes one aligned face and gives a unit vector. */
export async function openModel(bytes) {
  const contract = readContract(bytes);
  const run = await openNet(bytes);
  const embed = async (face) => {
    const [data, shape] = asInput(face, contract.input);
    const [output] = await run(data, shape);
    if (output.data.length !== contract.embedding.length)
      throw new Error("the graph gives another length than its contract says");
    return unit(output.data);
  };
  return { contract, embed, golden: () => goldenCosine(contract, embed) };
}

/** One aligned face as the array that the graph takes, and its shape. */
export function asInput(face, { size, layout, dtype, colour, mean, std }) {
  if (face.width !== size || face.height !== size) throw new Error(`a face is ${size} x ${size} pixels`);
  const planar = layout === "NCHW";
  const data = new (dtype === "uint8" ? Uint8Array : Float32Array)(3 * size * size);
  for (let pixel = 0; pixel < size * size; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = face.data[3 * pixel + (colour === "BGR" ? 2 - channel : channel)];
      const at = planar ? channel * size * size + pixel : 3 * pixel + channel;
      data[at] = dtype === "uint8" ? value : (value - mean[channel]) / std[channel];
    }
  }
  return [data, planar ? [1, 3, size, size] : [1, size, size, 3]];
}

/** The least cosine between the file's golden embeddings and what this browser computes; null without any. */
async function goldenCosine(contract, embed) {
  if (!contract.golden) return null;
  if (contract.golden.probes !== PROBES) throw new Error(`golden probes ${contract.golden.probes}: update this page`);
  let least = 1;
  for (const [k, expected] of contract.golden.embeddings.entries()) {
    least = Math.min(least, cosine(unit(expected), await embed(probeImage(k, contract.input.size))));
  }
  return least;
}

/** Probe image k of the rule edgeface-waves-1. */
export function probeImage(k, size) {
  const triangle = (t) => 255 - Math.abs(255 - (t % 511));
  const data = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    const v = Math.floor((y * (k + 1) * 256) / size) + 32 * k;
    for (let x = 0; x < size; x++) {
      const u = Math.floor((x * (k + 2) * 256) / size);
      for (let c = 0; c < 3; c++) data[3 * (y * size + x) + c] = Math.floor((triangle(u + 64 * c) + triangle(v)) / 2);
    }
  }
  return { width: size, height: size, data };
}

export const cosine = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

function unit(values) {
  const length = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0)) || 1;
  return Array.from(values, (value) => value / length);
}

/** [a, b, x, c, d, y] with crop = (a, b; c, d) photo + (x, y): landmarks nearest to the template (Umeyama 1991). */
export function similarity(landmarks, size) {
  const target = TEMPLATE.map((point) => point.map((value) => (value * size) / 112));
  const mean = (points, axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [x, y, u, v] = [mean(landmarks, 0), mean(landmarks, 1), mean(target, 0), mean(target, 1)];
  let spread = 0,
    along = 0,
    across = 0;
  for (const [i, [px, py]] of landmarks.entries()) {
    const [a, b, c, d] = [px - x, py - y, target[i][0] - u, target[i][1] - v];
    spread += a * a + b * b;
    along += a * c + b * d;
    across += a * d - b * c;
  }
  if (!(spread > 1e-6)) throw new Error("the landmarks lie on one spot; the face cannot be aligned");
  const [cos, sin] = [along / spread, across / spread];
  return [cos, -sin, u - (cos * x - sin * y), sin, cos, v - (sin * x + cos * y)];
}

/** The face turned upright, size × size; what lies outside the photo is black. The same arithmetic as align.py. */
export function align(photo, landmarks, size) {
  const [a, b, shiftX, c, d, shiftY] = similarity(landmarks, size);
  const determinant = a * d - b * c;
  const block = Math.max(1, Math.floor(1 / Math.sqrt(determinant) + 0.5));
  const middle = (block - 1) / 2;
  const source = block > 1 ? reduced(photo, block) : photo;
  const data = new Uint8Array(3 * size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const [right, down] = [column - shiftX, row - shiftY];
      const x = (right * d - down * b) / determinant;
      const y = (down * a - right * c) / determinant;
      blend(source, (x - middle) / block, (y - middle) / block, data, 3 * (row * size + column));
    }
  }
  return { width: size, height: size, data };
}

/** Bilinear in whole numbers, black outside. */
function blend({ width, height, data }, x, y, out, at) {
  const steps = (value, limit) => Math.min(Math.max(Math.floor(value * SUB + 0.5), -SUB), limit * SUB);
  const [stepsX, stepsY] = [steps(x, width), steps(y, height)];
  const [left, top] = [Math.floor(stepsX / SUB), Math.floor(stepsY / SUB)];
  const [right, under] = [stepsX - left * SUB, stepsY - top * SUB];
  const pixel = (px, py, channel) =>
    px < 0 || py < 0 || px >= width || py >= height ? 0 : data[3 * (py * width + px) + channel];
  for (let channel = 0; channel < 3; channel++) {
    const upper = pixel(left, top, channel) * (SUB - right) + pixel(left + 1, top, channel) * right;
    const lower = pixel(left, top + 1, channel) * (SUB - right) + pixel(left + 1, top + 1, channel) * right;
    out[at + channel] = Math.floor((upper * (SUB - under) + lower * under + (SUB * SUB) / 2) / (SUB * SUB));
  }
}

/** The image with across × down pixels made one, the mean of each block; a block at the edge may be smaller. */
export function reduced({ width, height, data }, across, down = across) {
  const [wide, high] = [Math.ceil(width / across), Math.ceil(height / down)];
  const out = new Uint8Array(3 * wide * high);
  for (let row = 0; row < high; row++) {
    for (let column = 0; column < wide; column++) {
      const [right, bottom] = [Math.min((column + 1) * across, width), Math.min((row + 1) * down, height)];
      const sums = [0, 0, 0];
      for (let y = row * down; y < bottom; y++) {
        for (let x = column * across; x < right; x++) {
          for (let c = 0; c < 3; c++) sums[c] += data[3 * (y * width + x) + c];
        }
      }
      const count = (right - column * across) * (bottom - row * down);
      // As Pillow divides: it rounds down where the mean lies exactly between two values.
      const part = Math.floor(2 ** 24 / count);
      for (let c = 0; c < 3; c++) {
        out[3 * (row * wide + column) + c] = Math.floor(((sums[c] + Math.floor(count / 2)) * part) / 2 ** 24);
      }
    }
  }
  return { width: wide, height: high, data: out };
}
