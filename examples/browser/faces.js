// Finds faces with the nets that edgeface ships: BlazeFace proposes, MTCNN's O-Net places five landmarks.
// The steps and the constants are those of edgeface_runtime's detector "blazeface"
// (runtime/edgeface_runtime/detection/blazeface.py).

import { openNet, reduced } from "./edgeface.js";

const WIDE = { file: "blazeface_full_range", size: 192, grid: [[4, 1]] }; // grid: stride, anchors a cell
const NEAR = {
  file: "blazeface_short_range",
  size: 128,
  grid: [
    [8, 2],
    [16, 6],
  ],
};
const MARGIN = 0.6; // border, in parts of the longer side, with which a photo without a face is looked at again
const SURE = 0.97; // score of the best face below which the photo's quarter turns are looked at
const TURNED = 0.9; // least score of the best face of a turned photo
const DOUBT = 2; // so many times nearer to 1 than upright must that score be
const COARSE = 640; // pixels of the longer side that are enough for a second look
const MIN_FACE = 40;
const REACH = 16; // a tile's side, in smallest faces
const SEEN = 2; // smallest faces that neighbouring tiles share
const PROPOSAL = 0.2;
const PROPOSAL_NEAR = 0.5; // of the short-range net, which gives every upright face more
const THRESHOLD = 0.7;
const HOPELESS = 0.1;
const AROUND = 0.85; // half the square in which a face is looked at, in sides of its proposal
const DETAIL = 64;
const GREY = 128;
const GRID = 16; // landmarks lie on multiples of 1/16 pixel, as in find.py: engines differ by about 1e-4
const ONE = 2 ** 22; // Pillow's fixed point: rounding differs from floats where a pixel lies between two values
const [GROW, RAISE] = [1.05, 0.05]; // BlazeFace's boxes against those that O-Net learnt from
const LOOKS = [
  [0.94, 0.05, 0.05],
  [0.94, -0.05, 0.05],
  [1.06, 0.05, -0.05],
  [1.06, -0.05, -0.05],
]; // scale, shift

/** find(photo): the faces of an image as { box, score, landmarks }, the most confident first. format: onnx or tflite. */
export async function openDetector(folder, format = "onnx") {
  const open = async (file) =>
    openNet(new Uint8Array(await (await fetch(new URL(`${file}.${format}`, folder))).arrayBuffer()));
  const [wide, near, onet] = [await open(WIDE.file), await open(NEAR.file), await open("onet")];

  const confirmed = async (photo, proposals) => {
    const faces = [];
    for (const { box } of suppress(proposals, 0.3)) {
      const face = await settle(onet, photo, box);
      if (face) faces.push(face);
    }
    return suppress(faces, 0.5, true);
  };

  const detect = async (photo) => {
    const covering = tiles(photo.width, photo.height);
    const proposals = [];
    for (const tile of covering) proposals.push(...(await look(wide, WIDE, photo, tile)));
    const faces = covering.length === 1 ? await confirmed(photo, proposals) : [];
    return faces.length ? faces : confirmed(photo, [...proposals, ...(await look(near, NEAR, photo, covering[0], PROPOSAL_NEAR))]);
  };

  const large = async (photo, margin) => {
    const border = Math.round(margin * Math.max(photo.width, photo.height));
    const framed = [-border, -border, Math.max(photo.width, photo.height) + 2 * border];
    return confirmed(photo, await look(near, NEAR, photo, framed, PROPOSAL_NEAR));
  };

  return async (photo) => {
    let faces = await detect(photo);
    if (!(faces[0]?.score >= SURE)) {
      const block = Math.ceil(Math.max(photo.width, photo.height) / COARSE);
      const small = reduced(photo, block);
      if (!faces.length) faces = (await large(small, MARGIN)).map((face) => enlarged(face, block));
      const sure = faces[0]?.score >= SURE;
      let least = Math.max(TURNED, faces.length ? 1 - (1 - faces[0].score) / DOUBT : 0);
      for (let turns = 1; turns < 4 && !sure; turns++) {
        const view = turned(small, turns);
        const found = await (block > 1 ? detect(view) : large(view, 0));
        if (!(found[0]?.score > least)) continue;
        least = found[0].score;
        faces = found.map((face) => enlarged(turnedBack(face, turns, small), block));
      }
    }
    const onGrid = (point) => point.map((value) => Math.floor(value * GRID + 0.5) / GRID);
    return faces.map(({ box, score, landmarks }) => ({ score, box, landmarks: landmarks.map(onGrid) }));
  };
}

/** An image turned to the left by so many right angles. */
function turned(image, turns) {
  for (; turns > 0; turns--) {
    const { width, height, data } = image;
    const out = new Uint8Array(data.length);
    for (let y = 0; y < width; y++) {
      for (let x = 0; x < height; x++) {
        const from = 3 * (x * width + width - 1 - y);
        out.set(data.subarray(from, from + 3), 3 * (y * height + x));
      }
    }
    image = { width: height, height: width, data: out };
  }
  return image;
}

/** A face of turned(image, turns) in the coordinates of the image. */
function turnedBack({ box, score, landmarks }, turns, { width, height }) {
  for (let turn = turns; turn > 0; turn--) {
    const side = turn % 2 ? width : height; // what was the right edge became the upper one
    box = [side - box[3], box[0], side - box[1], box[2]];
    landmarks = landmarks.map(([x, y]) => [side - 1 - y, x]);
  }
  return { box, score, landmarks };
}

/** A face of a photo shrunk by a whole factor, in the photo. */
function enlarged({ box, score, landmarks }, block) {
  const points = landmarks.map((point) => point.map((value) => value * block + (block - 1) / 2));
  return { box: box.map((edge) => edge * block), score, landmarks: points };
}

/** The largest face, less twice its squared distance from the photo's centre: whom the photo is about. */
export function mostCentral(faces, { width, height }) {
  const rank = ({ box: [x0, y0, x1, y1] }) =>
    (x1 - x0) * (y1 - y0) - 2 * (((x0 + x1 - width) / 2) ** 2 + ((y0 + y1 - height) / 2) ** 2);
  return faces.reduce((best, face) => (rank(face) > rank(best) ? face : best));
}

/** Squares [left, top, side] that cover the photo: one for all of it, then smaller ones. */
function tiles(width, height) {
  const [longest, smallest] = [Math.max(width, height), REACH * MIN_FACE];
  const levels = Math.max(0, Math.ceil(Math.log2(longest / smallest)));
  const found = [];
  for (let level = 0; level <= levels; level++) {
    const side = level ? Math.round(longest * (smallest / longest) ** (level / levels)) : longest;
    const step = side - Math.floor((SEEN * side) / REACH);
    const starts = (length) => {
      const count = 1 + Math.max(0, Math.ceil((length - side) / step));
      const last = Math.max(0, length - side);
      return Array.from({ length: count }, (_, i) => Math.floor(count > 1 ? (i * last) / (count - 1) : 0));
    };
    for (const top of starts(height)) for (const left of starts(width)) found.push([left, top, side]);
  }
  return found;
}

/** What BlazeFace sees in one tile: { box, score } in pixels of the photo; black beyond the photo's edges. */
async function look(net, { size, grid }, photo, [startX, startY, side], threshold = PROPOSAL) {
  const [left, top] = [Math.max(0, startX), Math.max(0, startY)];
  const [across, down] = [Math.min(startX + side, photo.width) - left, Math.min(startY + side, photo.height) - top];
  const [wide, high] = [across, down].map((length) => Math.max(1, Math.round((length * size) / side)));
  const view = resized(photo, [left, top], [across, down], [wide, high]);
  const [x, y] = [Math.floor((size - wide) / 2), Math.floor((size - high) / 2)];
  const input = new Float32Array(3 * size * size).fill(-1);
  for (let row = 0; row < high; row++) {
    for (let i = 0; i < 3 * wide; i++)
      input[3 * ((y + row) * size + x) + i] = view.data[3 * row * wide + i] / 127.5 - 1;
  }
  const [regressed, logits] = (await net(input, [1, size, size, 3])).sort((a, b) => b.dims.at(-1) - a.dims.at(-1));
  const [scaleX, scaleY] = [across / wide, down / high];
  const found = [];
  for (const [i, [centreX, centreY]] of anchors(size, grid).entries()) {
    const score = sigmoid(logits.data[i]);
    if (score <= threshold) continue;
    const [dx, dy, w, h] = regressed.data.subarray(16 * i, 16 * i + 4);
    const [cx, cy] = [centreX + dx - x, centreY + dy - y];
    const corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];
    found.push({ score, box: corners.map((edge, k) => (k % 2 ? edge * scaleY + top : edge * scaleX + left)) });
  }
  return found;
}

function anchors(size, grid) {
  const found = [];
  for (const [stride, count] of grid) {
    for (let y = stride / 2; y < size; y += stride) {
      for (let x = stride / 2; x < size; x += stride) for (let k = 0; k < count; k++) found.push([x, y]);
    }
  }
  return found;
}

/** One proposal looked at by O-Net, first as it is, then four times through the moved box; null if no face. */
async function settle(onet, photo, box) {
  const side = Math.max(box[2] - box[0], box[3] - box[1]);
  const shrink = Math.max(1, Math.floor(Math.floor(side) / DETAIL));
  const corner = [0, 1].map((axis) => Math.floor(((box[axis] + box[axis + 2]) / 2 - AROUND * side) / shrink));
  const reach = Math.ceil((2 * AROUND * side) / shrink) + 1;
  const frame = framed(photo, corner, reach, shrink);
  const local = (square) => square.map((edge, k) => edge / shrink - corner[k % 2]);
  const start = squared(local(box));
  const height = start[2] - start[0];
  const lifted = start.map((edge, k) => (k % 2 ? edge - RAISE * height : edge));
  const [first] = await looks(onet, frame, [varied(lifted, [GROW, 0, 0])]);
  if (first.score < HOPELESS) return null;
  const answers = await looks(
    onet,
    frame,
    LOOKS.map((change) => varied(squared(first.box), change)),
  );
  const mean = (read) => answers.reduce((sum, answer) => sum + read(answer), 0) / answers.length;
  const score = mean((answer) => answer.score);
  if (score <= THRESHOLD) return null;
  const middle = (shrink - 1) / 2;
  return {
    score,
    box: [0, 1, 2, 3].map((k) => (mean((answer) => answer.box[k]) + corner[k % 2]) * shrink),
    landmarks: [0, 1, 2, 3, 4].map((i) =>
      [0, 1].map((axis) => (mean((answer) => answer.landmarks[i][axis]) + corner[axis]) * shrink + middle),
    ),
  };
}

/** A square of the photo with shrink × shrink pixels made one, grey beyond its edge; corner counts such blocks. */
function framed(photo, corner, reach, shrink) {
  const [left, top] = corner.map((start, axis) =>
    Math.min(Math.max(start * shrink, 0), axis ? photo.height : photo.width),
  );
  const right = Math.min((corner[0] + reach) * shrink, photo.width);
  const bottom = Math.min((corner[1] + reach) * shrink, photo.height);
  const grey = { width: 0, height: 0, data: [] };
  const empty = right <= left || bottom <= top;
  const part = empty ? grey : reduced(region(photo, left, top, right - left, bottom - top, GREY), shrink);
  return region(part, Math.min(0, corner[0]), Math.min(0, corner[1]), reach, reach, GREY);
}

/** O-Net's answer to squares of a frame: { score, box, landmarks } in pixels of the frame. */
async function looks(onet, frame, squares) {
  const input = new Float32Array(squares.length * 3 * 48 * 48);
  for (const [n, square] of squares.entries()) areaCrop(frame, square, input.subarray(n * 3 * 48 * 48));
  const [{ data }] = await onet(input, [squares.length, 3, 48, 48]);
  return squares.map((square, n) => {
    const answer = data.subarray(15 * n, 15 * n + 15);
    const sides = [square[2] - square[0] + 1, square[3] - square[1] + 1];
    return {
      score: sigmoid(answer[0]),
      box: square.map((edge, k) => edge + answer[1 + k] * sides[k % 2]),
      landmarks: [0, 1, 2, 3, 4].map((i) =>
        [0, 1].map((axis) => answer[5 + 5 * axis + i] * sides[axis] + square[axis] - 1),
      ),
    };
  });
}

/** 48 × 48 cells of a square, each the mean of its pixels, scaled for O-Net, planes one after another. */
function areaCrop({ width: reach, data }, square, out) {
  const whole = square.map((edge, k) => Math.min(Math.max(Math.round(edge) - (k < 2 ? 1 : 0), 0), reach));
  const [right, bottom] = [Math.max(whole[2], 1), Math.max(whole[3], 1)];
  const [left, top] = [Math.min(whole[0], right - 1), Math.min(whole[1], bottom - 1)];
  const edges = (start, length, cell) => [
    start + Math.floor((cell * length) / 48),
    start + Math.ceil(((cell + 1) * length) / 48),
  ];
  for (let row = 0; row < 48; row++) {
    const [y0, y1] = edges(top, bottom - top, row);
    for (let column = 0; column < 48; column++) {
      const [x0, x1] = edges(left, right - left, column);
      const sums = [0, 0, 0];
      for (let y = y0; y < y1; y++) {
        for (let x = x0; x < x1; x++) for (let c = 0; c < 3; c++) sums[c] += data[3 * (y * reach + x) + c];
      }
      const count = (y1 - y0) * (x1 - x0);
      for (let c = 0; c < 3; c++) out[(c * 48 + row) * 48 + column] = (sums[c] / count - 127.5) / 128;
    }
  }
}

/** Greedy non-maximum suppression of { box, score }: the best stay, the best first. */
function suppress(found, threshold, smaller = false) {
  const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
  const overlap = (a, b) => {
    const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
    const shared = width * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    return shared / (smaller ? Math.min(area(a), area(b)) : area(a) + area(b) - shared);
  };
  const kept = [];
  for (const one of [...found].sort((a, b) => b.score - a.score)) {
    if (kept.every((better) => overlap(better.box, one.box) <= threshold)) kept.push(one);
  }
  return kept;
}

/** A box grown to a square of its longer side about its centre. */
function squared([x0, y0, x1, y1]) {
  const longer = Math.max(x1 - x0, y1 - y0);
  const [left, top] = [(x0 + x1 - longer) / 2, (y0 + y1 - longer) / 2];
  return [left, top, left + longer, top + longer];
}

/** A square scaled about its centre and shifted, in parts of its side. */
function varied([x0, y0, x1, y1], [scale, shiftX, shiftY]) {
  const side = x1 - x0;
  const [x, y, half] = [(x0 + x1) / 2 + shiftX * side, (y0 + y1) / 2 + shiftY * side, (scale * side) / 2];
  return [x - half, y - half, x + half, y + half];
}

/** A rectangle of an image, filled where it reaches outside. */
function region({ width, height, data }, left, top, wide, high, fill) {
  const out = new Uint8Array(3 * wide * high).fill(fill);
  const [from, to] = [Math.max(0, left), Math.min(width, left + wide)];
  for (let row = Math.max(0, top); row < Math.min(height, top + high) && to > from; row++) {
    out.set(data.subarray(3 * (row * width + from), 3 * (row * width + to)), 3 * ((row - top) * wide + from - left));
  }
  return { width: wide, height: high, data: out };
}

/** A part of an image shrunk by a whole factor on each axis, then by a triangle filter as wide as the rest. */
function resized(image, corner, sides, [wide, high]) {
  const counts = [wide, high];
  const factors = sides.map((side, axis) => Math.max(1, Math.floor(side / counts[axis])));
  let [small, start, end] = [image, corner, corner.map((edge, axis) => edge + sides[axis])];
  if (Math.max(...factors) > 1) {
    const reach = sides.map((side, axis) => (0.5 * side) / counts[axis]); // neighbours that the filter will see
    const first = start.map((edge, axis) => Math.max(0, Math.trunc(edge - reach[axis])));
    const last = end.map((edge, axis) => Math.min(axis ? image.height : image.width, Math.ceil(edge + reach[axis])));
    small = reduced(region(image, ...first, last[0] - first[0], last[1] - first[1], 0), ...factors);
    [start, end] = [start, end].map((point) => point.map((edge, axis) => (edge - first[axis]) / factors[axis]));
  }
  const [columns, rows] = [small.width, small.height].map((pixels, axis) =>
    triangle(start[axis], end[axis], pixels, counts[axis]),
  );
  const middle = new Uint8Array(3 * wide * small.height);
  for (let y = 0; y < small.height; y++) {
    for (const [x, [first, weights]] of columns.entries()) {
      for (let c = 0; c < 3; c++) {
        const sum = weights.reduce(
          (sum, weight, i) => sum + weight * small.data[3 * (y * small.width + first + i) + c],
          ONE / 2,
        );
        middle[3 * (y * wide + x) + c] = Math.floor(sum / ONE);
      }
    }
  }
  const data = new Uint8Array(3 * wide * high);
  for (const [y, [first, weights]] of rows.entries()) {
    for (let i = 0; i < 3 * wide; i++) {
      const sum = weights.reduce((sum, weight, k) => sum + weight * middle[3 * (first + k) * wide + i], ONE / 2);
      data[3 * y * wide + i] = Math.floor(sum / ONE);
    }
  }
  return { width: wide, height: high, data };
}

/** For each of the new pixels along an axis: the first old one that counts, and the weights from there on, in parts of ONE. */
function triangle(start, end, pixels, count) {
  const [from, to] = [Math.fround(start), Math.fround(end)]; // Pillow keeps a box in 32 bits
  const scale = (to - from) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(pixels, Math.floor(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs(first + k + 0.5 - centre) / support),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return [first, weights.map((weight) => Math.floor((weight / total) * ONE + 0.5))];
  });
}

const sigmoid = (value) => 1 / (1 + Math.exp(-value));
