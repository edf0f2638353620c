// Finds faces with the nets that ship with edgeface: YuNet proposes, MTCNN's O-Net judges and places five landmarks.
// The steps and the constants are those of edgeface_runtime's detector "yunet"
// (runtime/edgeface_runtime/detection/yunet_onet.py).

import { openNet, openSized, reduced } from "./edgeface.js";

const STRIDES = [8, 16, 32];
const MARGIN = 0.6; // border, in parts of the longer side, with which a photo without a face is looked at again
const SURE = 0.985; // score of the best face below which the photo's quarter turns are looked at
const TURNED = 0.9; // least score of the best face of a turned photo
const DOUBT = [3, 16, 3]; // so many times nearer to 1 than upright must that score be, by one, two and three turns
const COARSE = 640; // pixels of the longer side that are enough for a second look
const SCALE = 29 / 40; // at which YuNet sees a photo: the smallest face that is looked for then has 29 pixels
const WHOLE = [1408, 800]; // pixels of the longer and the shorter side that YuNet sees at once
const TILE = [1024, 800]; // and of the sides of tiles where the photo has more
const SHARED = 160; // of them that neighbouring tiles share
const ENOUGH = 192; // pixels of the longer side in which a large face still has 20
const NEAREST = 1.5; // photos that shrink less lose pixels, others are filtered
const PROPOSAL = 0.15;
const CLEAR = 0.5; // confidence of a face that is large in the photo
const [FAINT, FAINT_MOST, FAINT_SURE] = [0.5, 8, 0.95]; // so many proposals below are looked at, and what O-Net must say
const THRESHOLD = 0.7;
const HOPELESS = -2.2; // the logit of 0.1
const OVERLAP = 0.3;
const [REACH, MIDDLE] = [0.95, [0.5, 0.54]]; // O-Net's square: in longer sides of YuNet's box, and where its middle is
const [CROP, DETAIL] = [48, 64];
const MIRRORED = [1, 0, 2, 4, 3];
const GREY = 128;
const GRID = 16; // landmarks lie on multiples of 1/16 pixel, as in find.py: engines differ by about 1e-4
const ONE = 2 ** 22; // Pillow's fixed point: rounding differs from floats where a pixel lies between two values

/** find(photo): the faces of an image as { box, score, landmarks }, the most confident first. format: onnx or tflite. */
export async function openDetector(folder, format = "onnx") {
  const bytes = async (file) => new Uint8Array(await (await fetch(new URL(file, folder))).arrayBuffer());
  const answers = ([, high, wide]) => STRIDES.map((stride) => [1, (high - 1) / stride, (wide - 1) / stride, 16]);
  const yunet = await openSized(await bytes(`yunet.${format}`), answers);
  const weights = "onet.tflite"; // of which the ONNX file has a part
  const beside = format === "onnx" ? { [weights]: await bytes(weights) } : {};
  const onet = await openNet(await bytes(`onet.${format}`), beside);

  const confirmed = async (photo, proposals) => {
    const kept = suppress(proposals, OVERLAP);
    const faces = [];
    for (const { box, score } of kept.slice(0, kept.filter((one) => one.score >= FAINT).length + FAINT_MOST)) {
      const face = await judged(onet, photo, box);
      if (face?.score > (score < FAINT ? FAINT_SURE : THRESHOLD)) faces.push(face);
    }
    return suppress(faces, OVERLAP);
  };

  const detect = async (photo) => {
    const proposals = [];
    for (const [part, scale] of tiles(photo.width, photo.height))
      proposals.push(...(await look(yunet, photo, part, scale, PROPOSAL)));
    return confirmed(photo, proposals);
  };

  const large = async (photo, margin) => {
    const longest = Math.max(photo.width, photo.height);
    const border = rint(margin * longest);
    const scale = Math.min(1, ENOUGH / (longest + 2 * border));
    return confirmed(photo, await look(yunet, photo, [-border, -border, longest + border, longest + border], scale, CLEAR));
  };

  return async (photo) => {
    let faces = await detect(photo);
    if (!(faces[0]?.score >= SURE)) {
      const block = Math.ceil(Math.max(photo.width, photo.height) / COARSE);
      const small = reduced(photo, block);
      if (!faces.length) faces = (await large(small, MARGIN)).map((face) => enlarged(face, block));
      const sure = faces[0]?.score >= SURE;
      const doubt = 1 - (faces[0]?.score ?? -Infinity);
      let best = TURNED;
      for (let turns = 1; turns < 4 && !sure; turns++) {
        const view = turned(small, turns);
        const found = await (block > 1 ? detect(view) : large(view, 0));
        if (!(found[0]?.score > Math.max(best, 1 - doubt / DOUBT[turns - 1]))) continue;
        best = found[0].score;
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

/** [[left, top, right, bottom], scale] of the parts that YuNet sees: tiles, then all of the photo. */
function tiles(width, height) {
  const [size, found] = [[width, height], []];
  for (let scale = SCALE; ; scale /= 4) {
    const isWhole = Math.max(...size) * scale <= WHOLE[0] && Math.min(...size) * scale <= WHOLE[1];
    const [columns, rows] = size.map((length, axis) => {
      const tile = TILE[width >= height ? axis : 1 - axis];
      const count = isWhole ? 1 : Math.max(1, Math.ceil((length * scale - SHARED) / (tile - SHARED)));
      const side = Math.ceil(Math.min(length, (length + ((count - 1) * SHARED) / scale) / count));
      const step = count > 1 ? (length - side) / (count - 1) : 0;
      return Array.from({ length: count }, (_, i) => [Math.trunc(i * step), Math.trunc(i * step) + side]);
    });
    for (const [top, bottom] of rows) for (const [left, right] of columns) found.push([[left, top, right, bottom], scale]);
    if (Math.max(columns.length, rows.length) === 1) return found;
  }
}

/** What YuNet sees in a part of the photo: { box, score } in pixels of the photo; black beyond its edges. */
async function look(yunet, photo, part, scale, least) {
  const [wide, high] = [0, 1].map((axis) => Math.max(1, rint((part[axis + 2] - part[axis]) * scale)));
  const [left, top] = [Math.max(0, part[0]), Math.max(0, part[1])];
  const [across, down] = [Math.min(part[2], photo.width) - left, Math.min(part[3], photo.height) - top];
  const [x, y] = [rint((left - part[0]) * scale), rint((top - part[1]) * scale)];
  const size = [
    Math.max(1, Math.min(wide - x, rint(across * scale))),
    Math.max(1, Math.min(high - y, rint(down * scale))),
  ];
  const view = shrunk(photo, [left, top], [across, down], size);
  // A row and a column of black come first.
  const [rows, columns] = [high, wide].map((side) => Math.ceil(side / 32) * 32 + 1);
  const canvas = new Int8Array(3 * rows * columns).fill(-128);
  for (let row = 0; row < size[1]; row++) {
    const at = 3 * ((y + 1 + row) * columns + x + 1);
    for (let i = 0; i < 3 * size[0]; i++) canvas[at + i] = view.data[3 * row * size[0] + i] - 128;
  }
  const maps = await yunet(canvas, [1, rows, columns, 3]);
  const back = [across / size[0], down / size[1]];
  const found = [];
  for (const [level, { data }] of maps.sort((a, b) => b.data.length - a.data.length).entries()) {
    const stride = STRIDES[level];
    const cells = (columns - 1) / stride;
    for (let cell = 0; 16 * cell < data.length; cell++) {
      const [kind, face, dx, dy, w, h] = data.subarray(16 * cell, 16 * cell + 6);
      const score = Math.sqrt(sigmoid(kind) * sigmoid(face));
      if (score < least) continue;
      const centre = [((cell % cells) + dx) * stride, (Math.floor(cell / cells) + dy) * stride];
      const half = [(Math.exp(w) * stride) / 2, (Math.exp(h) * stride) / 2];
      const corners = [0, 1, 2, 3].map((k) => centre[k % 2] + (k < 2 ? -half[k] : half[k - 2]));
      found.push({ score, box: corners.map((edge, k) => (edge - (k % 2 ? y : x)) * back[k % 2] + (k % 2 ? top : left)) });
    }
  }
  return found;
}

/** What O-Net makes of a box: the mean of what it says of the crop and of its mirror image; null if no face. */
async function judged(onet, photo, box) {
  const side = Math.max(box[2] - box[0], box[3] - box[1]) * REACH;
  const corner = [0, 1].map((axis) => (box[axis] + box[axis + 2]) / 2 - side * MIDDLE[axis]);
  const shrink = Math.max(1, Math.floor(Math.floor(side) / DETAIL));
  const [start, length] = [corner.map((edge) => edge / shrink), side / shrink];
  const first = start.map((edge) => Math.floor(edge) - 1); // a pixel around, for the filter to see
  const frame = framed(photo, first, Math.ceil(length) + 3, shrink);
  const inside = start.map((edge, axis) => edge - first[axis]);
  const { data } = filtered(frame, inside, inside.map((edge) => edge + length), [CROP, CROP]);
  const looked = async (place) => {
    const input = new Float32Array(3 * CROP * CROP);
    for (let pixel = 0; pixel < CROP * CROP; pixel++) {
      for (let c = 0; c < 3; c++) input[c * CROP * CROP + pixel] = (data[3 * place(pixel) + c] - 127.5) / 128;
    }
    const [answer] = await onet(input, [1, 3, CROP, CROP]);
    return answer.data;
  };
  const one = await looked((pixel) => pixel);
  if (one[0] < HOPELESS) return null;
  const other = await looked((pixel) => pixel - (pixel % CROP) + CROP - 1 - (pixel % CROP));
  const shares = [one[1] - other[3], one[2] + other[2], 2 + one[3] - other[1], 2 + one[4] + other[4]];
  return {
    score: (sigmoid(one[0]) + sigmoid(other[0])) / 2,
    box: shares.map((share, k) => (share / 2) * side + corner[k % 2]),
    landmarks: MIRRORED.map((twin, i) => [
      ((one[5 + i] + 1 - other[5 + twin]) / 2) * side + corner[0],
      ((one[10 + i] + other[10 + twin]) / 2) * side + corner[1],
    ]),
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

/** Greedy non-maximum suppression of { box, score }: the best stay, the best first. */
function suppress(found, threshold) {
  const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
  const overlap = (a, b) => {
    const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
    const shared = width * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    return shared / (area(a) + area(b) - shared);
  };
  const kept = [];
  for (const one of [...found].sort((a, b) => b.score - a.score)) {
    if (kept.every((better) => overlap(better.box, one.box) <= threshold)) kept.push(one);
  }
  return kept;
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

/** A part of an image at the size at which YuNet sees it. */
function shrunk(photo, [left, top], sides, size) {
  const scales = sides.map((side, axis) => side / size[axis]);
  if (Math.max(...scales) > NEAREST) return resized(photo, [left, top], sides, size);
  const places = scales.map((scale, axis) => {
    let at = 0.5 * scale;
    return Array.from({ length: size[axis] }, () => {
      const place = Math.floor(at);
      at += scale; // as Pillow counts
      return place + (axis ? top : left);
    });
  });
  const data = new Uint8Array(3 * size[0] * size[1]);
  for (const [y, row] of places[1].entries()) {
    for (const [x, column] of places[0].entries()) {
      const from = 3 * (row * photo.width + column);
      for (let c = 0; c < 3; c++) data[3 * (y * size[0] + x) + c] = photo.data[from + c];
    }
  }
  return { width: size[0], height: size[1], data };
}

/** A part of an image shrunk by a whole factor on each axis, then by a triangle filter as wide as the rest. */
function resized(image, corner, sides, counts) {
  const factors = sides.map((side, axis) => Math.max(1, Math.floor(side / counts[axis])));
  let [small, start, end] = [image, corner, corner.map((edge, axis) => edge + sides[axis])];
  if (Math.max(...factors) > 1) {
    const reach = sides.map((side, axis) => (0.5 * side) / counts[axis]); // neighbours that the filter will see
    const first = start.map((edge, axis) => Math.max(0, Math.trunc(edge - reach[axis])));
    const last = end.map((edge, axis) => Math.min(axis ? image.height : image.width, Math.ceil(edge + reach[axis])));
    small = reduced(region(image, ...first, last[0] - first[0], last[1] - first[1], 0), ...factors);
    [start, end] = [start, end].map((point) => point.map((edge, axis) => (edge - first[axis]) / factors[axis]));
  }
  return filtered(small, start, end, counts);
}

/** Pillow's triangle filter over the part of an image between two corners. */
function filtered(small, start, end, [wide, high]) {
  const [columns, rows] = [small.width, small.height].map((pixels, axis) =>
    triangle(start[axis], end[axis], pixels, axis ? high : wide),
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

/** To the nearest whole number, halves to the even one, as Python does. */
function rint(value) {
  const whole = Math.floor(value);
  const rest = value - whole;
  return rest > 0.5 || (rest === 0.5 && whole % 2) ? whole + 1 : whole;
}
