// The page: a model and two photos in, faces, embeddings and "the same person?" out.

import { align, cosine, fileFormat, openModel } from "./edgeface.js";
import { mostCentral, openDetector } from "./faces.js";

const FAR = "0.001"; // FMR: share of impostor pairs that may be accepted
const PHOTOS = ["a", "b"];
const element = (id) => document.getElementById(id);
const detectors = {}; // by format, so that one engine is loaded and not both
const embeddings = {};
let model = null;
let format = "onnx";

/** What a handler says goes to an element; an error in red. */
async function telling(target, work) {
  try {
    target.textContent = "…";
    target.classList.remove("bad");
    target.textContent = await work();
  } catch (error) {
    target.textContent = error.message;
    target.classList.add("bad");
  }
}

async function openFile(file) {
  model = null;
  for (const name of PHOTOS) {
    element(`photo-${name}`).disabled = true;
    delete embeddings[name]; // another model's cannot be compared
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  const opened = await openModel(bytes);
  format = fileFormat(bytes);
  const { contract } = opened;
  const rows = [
    ["name", `${contract.name}, ${contract.precision}`],
    [
      "input",
      `${contract.input.size} × ${contract.input.size}, ${contract.input.colour}, ${contract.input.layout}, ${contract.input.dtype}`,
    ],
    ["embedding", `${contract.embedding.length} numbers`],
    ["licence", contract.licence],
  ];
  element("contract").replaceChildren(...rows.map(row));
  const least = await opened.golden();
  if (least !== null && least < contract.golden.min_cosine)
    throw new Error(`golden vectors: cosine ${least.toFixed(5)}; this browser computes something else`);
  model = opened;
  PHOTOS.forEach((name) => (element(`photo-${name}`).disabled = false));
  return least === null ? "The file has no golden vectors." : `Golden vectors agree: cosine ${least.toFixed(6)}.`;
}

function row([head, text]) {
  const [line, ...cells] = ["tr", "th", "td"].map((tag) => document.createElement(tag));
  [head, text].forEach((value, i) => (cells[i].textContent = value));
  line.append(...cells);
  return line;
}

async function openPhoto(name, file) {
  delete embeddings[name];
  element(`embedding-${name}`).textContent = "";
  element(`crop-${name}`).width = 0;
  const canvas = element(`canvas-${name}`);
  const photo = await pixels(file, canvas);
  detectors[format] ??= openDetector(new URL("./vendor/", import.meta.url), format);
  const faces = await (await detectors[format])(photo);
  if (!faces.length) throw new Error("no face found");
  const face = mostCentral(faces, photo);
  const crop = align(photo, face.landmarks, model.contract.input.size);
  embeddings[name] = await model.embed(crop);
  element(`embedding-${name}`).textContent = JSON.stringify(embeddings[name]);
  draw(canvas, faces, face);
  show(element(`crop-${name}`), crop);
  return faces.length === 1 ? "1 face" : `${faces.length} faces; the one with points is compared`;
}

/** RGB pixels of an image file, upright, no colour changed; drawn on the canvas. */
async function pixels(file, canvas) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error("not an image that this browser can read");
  });
  const { width, height } = bitmap;
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // shows through transparent pixels
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) data[3 * i + c] = rgba[4 * i + c];
  return { width, height, data };
}

function draw(canvas, faces, chosen) {
  const context = canvas.getContext("2d");
  context.lineWidth = Math.max(1, canvas.width / 200);
  context.strokeStyle = context.fillStyle = "#00c853";
  for (const {
    box: [x0, y0, x1, y1],
  } of faces)
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  for (const [x, y] of chosen.landmarks) {
    context.beginPath();
    context.arc(x, y, 1.5 * context.lineWidth, 0, 2 * Math.PI);
    context.fill();
  }
}

function show(canvas, { width, height, data }) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0; i < 4 * width * height; i++) image.data[i] = i % 4 < 3 ? data[3 * Math.floor(i / 4) + (i % 4)] : 255;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function compare() {
  if (!PHOTOS.every((name) => embeddings[name])) return "";
  const score = cosine(embeddings.a, embeddings.b);
  const limit = model.contract.thresholds[FAR]?.value;
  if (limit === undefined) return `Cosine ${score.toFixed(3)}. The model's contract has no threshold.`;
  return `Cosine ${score.toFixed(3)}: ${score >= limit ? "the same person" : "two people"} (threshold ${limit.toFixed(3)}).`;
}

element("model").addEventListener("change", async ({ target }) => {
  if (target.files.length) await telling(element("status"), () => openFile(target.files[0]));
});
for (const name of PHOTOS) {
  element(`photo-${name}`).addEventListener("change", async ({ target }) => {
    if (!target.files.length) return;
    await telling(element(`caption-${name}`), () => openPhoto(name, target.files[0]));
    await telling(element("verdict"), compare);
  });
}
