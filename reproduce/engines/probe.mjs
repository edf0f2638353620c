// probes.py in JavaScript: node probe.mjs PACKAGE_FOLDER MODEL IMAGES.npy ANSWER.json

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, model, images, output] = process.argv.slice(2);

/** A numpy file of bytes or floats as [typed array, shape]. */
function numpy(path) {
  const bytes = readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, start);
  const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((side) => side.trim()).map(Number);
  const body = bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length);
  return [header.includes("u1") ? new Uint8Array(body) : new Float32Array(body), shape];
}

let answer;
try {
  const entry = createRequire(pathToFileURL(`${folder}/x.js`)).resolve("onnxruntime-web");
  const module = await import(pathToFileURL(entry));
  const ort = module.default ?? module;
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
  const [data, shape] = numpy(images);
  const each = data.length / shape[0];
  const outputs = [];
  for (let k = 0; k < shape[0]; k++) {
    const type = data instanceof Uint8Array ? "uint8" : "float32";
    const tensor = new ort.Tensor(type, data.slice(k * each, (k + 1) * each), [1, ...shape.slice(1)]);
    const found = await session.run({ [session.inputNames[0]]: tensor });
    outputs.push(Array.from(found[session.outputNames[0]].data));
  }
  answer = { outputs };
} catch (error) {
  answer = { error: String(error.message ?? error).split("\n")[0] };
}
writeFileSync(output, JSON.stringify(answer));
process.exit(0);
