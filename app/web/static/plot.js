// The plots of the judges' report, as SVG. They are drawn for the width of their element, so that text keeps its size.

import { element } from "./dom.js";
import { count, percent } from "./words.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM, HEIGHT] = [48, 12, 10, 46, 280];
const ROW = 44; // of one judge
const MOST_JUDGES = 12;
const SHARES = [0, 0.25, 0.5, 0.75, 1];
const CURVES = [
  { key: (point) => point.acceptance.share, kind: "accepted", words: "accepted, of what is delivered" },
  { key: (point) => point.refusal, kind: "refused", words: "refused, of all jobs" },
  { key: (point) => point.lost, kind: "lost", words: "refused, of the accepted" },
];

// report: of /v1/feedback/report. The figures, which redraw themselves when their width changes.
export function plots(report) {
  const { judges, judges_left_out: leftOut, by_score: buckets, curve } = report;
  const hidden = Math.max(0, judges.length - MOST_JUDGES) + leftOut;
  const more = hidden ? ` (${count(hidden)} more not shown)` : "";
  return [
    judges.length > 0 && figure(`Accepted, by judge${more}`, (width) => drawJudges(judges.slice(0, MOST_JUDGES), width)),
    buckets.length > 0 && figure("Accepted, by our CLIP score", (width) => drawBuckets(buckets, width)),
    curve.length > 0 && figure("What a threshold would mean", (width) => drawCurve(report, width), legend(report)),
  ].filter(Boolean);
}

function figure(words, draw, ...more) {
  const place = element("div");
  new ResizeObserver(([{ contentRect: { width } }]) => width && place.replaceChildren(draw(Math.round(width)))).observe(place);
  return element("figure", {}, element("figcaption", {}, words), place, ...more);
}

// ---- the three plots --------------------------------------------------------------------------------------------------

function drawJudges(judges, width) {
  const height = judges.length * ROW + BOTTOM;
  const x = scale(0, 1, 20, width - RIGHT - 16);
  const ticks = SHARES.map((share) => xTick(x(share), height - BOTTOM, percent(share)));
  const rows = judges.flatMap((judge, index) => {
    const y = index * ROW + 30;
    const { share, low, high } = judge.acceptance;
    const line = share !== null && [bar(x(low), y, x(high), y), dot(x(share), y)];
    return [svg("text", { x: 8, y: y - 13 }, judgeWords(judge)), line];
  });
  const said = judges.map((judge) => `${judgeWords(judge)}, ${shareWords(judge.acceptance)}`);
  const words = axisWords(width, height, "share accepted, with 95 % interval");
  return drawing(width, height, `Share accepted by each judge. ${said.join(". ")}.`, ticks, words, rows);
}

function drawBuckets(buckets, width) {
  const [low, high] = [buckets[0].low, buckets.at(-1).high];
  const x = scale(low, high, LEFT, width - RIGHT);
  const columns = buckets.flatMap(({ low: from, high: to, acceptance }) => {
    if (acceptance.share === null) return [];
    const at = x((from + to) / 2);
    return [bar(at, yOf(acceptance.low), at, yOf(acceptance.high)), dot(at, yOf(acceptance.share))];
  });
  const said = buckets.map((bucket) => `${bucket.low.toFixed(2)} to ${bucket.high.toFixed(2)}: ${shareWords(bucket.acceptance)}`);
  const frame = axes(width, x, [low, high], "CLIP score of the job");
  return drawing(width, HEIGHT, `Share accepted by score. ${said.join(". ")}.`, frame, columns);
}

function drawCurve({ curve, threshold }, width) {
  const shown = [...curve.map((point) => point.threshold), ...settings(threshold).map(({ value }) => value)];
  const [low, high] = [Math.min(...shown), Math.max(...shown, Math.min(...shown) + 0.001)];
  const x = scale(low, high, LEFT, width - RIGHT);
  const place = (value) => (point) => `${x(point.threshold).toFixed(1)},${yOf(value(point) ?? 0).toFixed(1)}`;
  const [bottom, top] = ["low", "high"].map((end) => curve.map(place((point) => point.acceptance[end])));
  const interval = svg("polygon", { points: [...bottom, ...top.reverse()].join(" "), class: "interval" });
  const lines = CURVES.map(({ key, kind }) => svg("polyline", { points: curve.map(place(key)).join(" "), class: kind }));
  const upright = settings(threshold).map(({ value, kind }) =>
    svg("line", { x1: x(value), x2: x(value), y1: TOP, y2: HEIGHT - BOTTOM, class: kind }),
  );
  const ends = [curve[0], curve.at(-1)].map((point) => {
    const parts = CURVES.map(({ key, words }) => `${percent(key(point) ?? 0)} ${words}`);
    return `at ${point.threshold.toFixed(3)} ${parts.join("; ")}`;
  });
  const frame = axes(width, x, [low, high], "validate.threshold");
  return drawing(width, HEIGHT, `What a threshold would mean: ${ends.join(". ")}.`, frame, interval, upright, lines);
}

function legend({ threshold }) {
  const marks = settings(threshold).map(({ value, kind, words }) => ({ kind, words: `${words}: ${value}` }));
  const entries = [...CURVES, ...marks].map(({ kind, words }) => {
    const line = svg("line", { x1: 0, x2: 30, y1: 6, y2: 6, class: kind });
    const sample = svg("svg", { width: 30, height: 12, "aria-hidden": "true" }, line);
    return element("li", {}, sample, " ", words);
  });
  return element("ul", { class: "legend" }, entries);
}

function settings({ present, answer, value }) {
  const now = { value: present, kind: "present", words: "now" };
  return answer === "change" && value !== null ? [now, { value, kind: "advised", words: "advised" }] : [now];
}

// ---- parts ------------------------------------------------------------------------------------------------------------

function drawing(width, height, label, ...parts) {
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  return svg("svg", { ...size, role: "img", "aria-label": label, class: "plot" }, ...parts);
}

function axes(width, x, [low, high], words) {
  const levels = SHARES.flatMap((share) => [
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: yOf(share), y2: yOf(share), class: "grid" }),
    svg("text", { x: LEFT - 6, y: yOf(share) + 4, "text-anchor": "end" }, percent(share)),
  ]);
  const ticks = round(low, high).map((value) => xTick(x(value), HEIGHT - BOTTOM, String(value)));
  return [levels, ticks, axisWords(width, HEIGHT, words)];
}

function xTick(x, bottom, words) {
  return [
    svg("line", { x1: x, x2: x, y1: TOP, y2: bottom, class: "grid" }),
    svg("text", { x, y: bottom + 18, "text-anchor": "middle" }, words),
  ];
}

function axisWords(width, height, words) {
  return svg("text", { x: width / 2, y: height - 8, "text-anchor": "middle" }, words);
}

function bar(x1, y1, x2, y2) {
  return svg("line", { x1, y1, x2, y2, class: "accepted" });
}

function dot(cx, cy) {
  return svg("circle", { cx, cy, r: 5, class: "accepted fill" });
}

function yOf(share) {
  return scale(0, 1, HEIGHT - BOTTOM, TOP)(share);
}

function scale(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

// Three to seven round values between two.
function round(low, high) {
  const step = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((each) => (high - low) / each <= 6) ?? 1;
  const values = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9; index++) {
    values.push(Number((index * step).toFixed(4)));
  }
  return values;
}

function judgeWords({ uid, acceptance, silent }) {
  return `Judge ${uid.slice(0, 12)}, ${silent ? "observes nothing" : `${count(acceptance.total)} verdicts`}`;
}

function shareWords({ share, total, low, high }) {
  return share === null ? "no verdict" : `${percent(share)} of ${count(total)}, ${percent(low)} to ${percent(high)}`;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.flat(Infinity).filter(Boolean));
  return made;
}
