// Reads the PLY that this server writes, and places it before the cameras exactly as the judging views do
// (app/splat/cameras.py: judge_placement). Knows nothing of WebGL.

const SH_C0 = 0.28209479177387814;
const NEEDED = [
  "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
  "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
];

// ArrayBuffer of a binary little-endian PLY of floats -> { count, means (3n), quats (4n, wxyz), scales (3n),
// colors (4n bytes, RGBA) }. Gaussians with a value that is not finite are left out, as the judging views do.
// Throws an Error for any other file.
export function readPly(buffer) {
  const { rows, stride, columns, start } = readHeader(buffer);
  const data = new Float32Array(buffer.slice(start, start + rows * stride * 4));
  if (data.length < rows * stride) throw new Error("the splat file is cut off");
  const at = NEEDED.map((name) => columns.get(name));
  const kept = [];
  for (let row = 0; row < data.length; row += stride) {
    if (at.every((column) => Number.isFinite(data[row + column]))) kept.push(row);
  }
  return unpack(data, kept, at);
}

function readHeader(buffer) {
  const text = new TextDecoder("latin1").decode(new Uint8Array(buffer, 0, Math.min(buffer.byteLength, 65536)));
  const end = text.indexOf("end_header\n");
  const lines = text.slice(0, Math.max(end, 0)).split("\n");
  if (lines[0] !== "ply" || !lines.includes("format binary_little_endian 1.0")) {
    throw new Error("the file is not a binary little-endian PLY");
  }
  const rows = Number(/^element vertex (\d+)$/m.exec(text)?.[1] ?? NaN);
  const properties = lines.filter((line) => line.startsWith("property ")).map((line) => line.split(" "));
  const columns = new Map(properties.map(([, , name], index) => [name, index]));
  if (!Number.isSafeInteger(rows) || properties.some(([, type]) => type !== "float")) {
    throw new Error("the PLY has properties other than floats");
  }
  const missing = NEEDED.filter((name) => !columns.has(name));
  if (missing.length) throw new Error(`the PLY lacks ${missing.join(", ")}`);
  return { rows, stride: properties.length, columns, start: end + "end_header\n".length };
}

function unpack(data, kept, [x, y, z, red, green, blue, opacity, s0, s1, s2, w, i, j, k]) {
  const n = kept.length;
  const place = placement(data, kept, [x, y, z]);
  const means = new Float32Array(3 * n);
  const quats = new Float32Array(4 * n);
  const scales = new Float32Array(3 * n);
  const colors = new Uint8Array(4 * n);
  kept.forEach((row, g) => {
    means.set([x, y, z].map((column) => place.scale * data[row + column] + place.offset), 3 * g);
    scales.set([s0, s1, s2].map((column) => place.scale * Math.exp(data[row + column])), 3 * g);
    const norm = Math.hypot(data[row + w], data[row + i], data[row + j], data[row + k]) || 1;
    quats.set([w, i, j, k].map((column) => data[row + column] / norm), 4 * g);
    const alpha = Math.min(1, 1 / (1 + Math.exp(-data[row + opacity])) / place.scale);
    const rgb = [red, green, blue].map((column) => byte(0.5 + SH_C0 * data[row + column]));
    colors.set([...rgb, byte(alpha)], 4 * g);
  });
  return { count: n, means, quats, scales, colors };
}

function byte(share) {
  return Math.round(255 * Math.min(1, Math.max(0, share)));
}

// The longest side of the box of all centres becomes 1.5; ONE offset for all axes, the mean over all coordinates.
function placement(data, kept, axes) {
  let sum = 0;
  let longest = 0;
  for (const axis of axes) {
    let low = Infinity;
    let high = -Infinity;
    for (const row of kept) {
      const value = data[row + axis];
      sum += value;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    longest = Math.max(longest, high - low);
  }
  const scale = longest > 1e-12 ? 1.5 / longest : 1;
  return { scale, offset: kept.length ? (-scale * sum) / (3 * kept.length) : 0 };
}
