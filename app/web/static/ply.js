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
    let sum = 0; // is finite where all are: a sum of fourteen float32 stays within a double
    for (let i = 0; i < at.length; i++) sum += data[row + at[i]];
    if (Number.isFinite(sum)) kept.push(row);
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

// Plain loops: with a few million Gaussians every small array would be felt.
function unpack(data, kept, at) {
  const [axes, dc, sizes, quat] = [at.slice(0, 3), at.slice(3, 6), at.slice(7, 10), at.slice(10)];
  const opacity = at[6];
  const { scale, offset } = placement(data, kept, axes);
  const n = kept.length;
  const read = {
    count: n, means: new Float32Array(3 * n), quats: new Float32Array(4 * n), scales: new Float32Array(3 * n),
    colors: new Uint8ClampedArray(4 * n), // which rounds, and clips to 0 .. 255
  };
  for (let g = 0; g < n; g++) {
    const row = kept[g];
    for (let i = 0; i < 3; i++) {
      read.means[3 * g + i] = scale * data[row + axes[i]] + offset;
      read.scales[3 * g + i] = scale * Math.exp(data[row + sizes[i]]);
      read.colors[4 * g + i] = 255 * (0.5 + SH_C0 * data[row + dc[i]]);
    }
    read.colors[4 * g + 3] = 255 / (1 + Math.exp(-data[row + opacity])) / scale;
    let norm = 0;
    for (let i = 0; i < 4; i++) norm += data[row + quat[i]] ** 2;
    for (let i = 0; i < 4; i++) read.quats[4 * g + i] = data[row + quat[i]] / (Math.sqrt(norm) || 1);
  }
  return { ...read, colors: new Uint8Array(read.colors.buffer) };
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
