// What the page says about jobs.

export const STAGES = { // what a stage is called while it runs, and its step
  picture: ["Drawing the picture", 0],
  splat: ["Building the splat", 0],
  repair: ["Diagnosing and repairing", 1],
  render: ["Rendering the views", 2],
  score: ["Scoring the views", 3],
  files: ["Writing the files", 3],
  turntable: ["Rendering the turntable", -1],
};
export const STEPS = ["Splat", "Repair", "Views", "Score"];

const FILES = {
  "asset.ply": "Splat (PLY)",
  "asset.spz": "Compressed splat (SPZ)",
  "certificate.json": "Certificate",
  "views.png": "Views",
  "picture.png": "Picture",
  "picture.jpg": "Picture",
  "cutout.png": "Cutout",
  "turntable.mp4": "Turntable video",
  "report.json": "Repair report",
  "verdict.json": "Verdict",
  "input.ply": "Original splat (PLY)",
  "input.spz": "Original splat (SPZ)",
};

// What a job without a prompt is called.
const UNNAMED = {
  generate: "(from a picture)",
  repair: "(a repaired splat)",
  validate: "(a validated splat)",
  turntable: "(a turntable video)",
  cutout: "(a cutout)",
};

export function fileWords(name) {
  if (FILES[name]) return FILES[name];
  const [stem, suffix] = [name.slice(0, name.indexOf(".")), name.slice(name.indexOf(".") + 1).toUpperCase()];
  return `${stem === "asset" ? "Splat" : stem} (${suffix})`;
}

export function title(job) {
  return job.prompt || UNNAMED[job.kind];
}

export function score(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3);
}

export function count(value) {
  return value.toLocaleString("en");
}

export function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function ended(job) {
  return !["QUEUED", "RUNNING"].includes(job.state);
}

// What became of a job, as { word, kind }: kind is one of passed, refused, unjudged, failed, cancelled, waiting.
export function verdict(job) {
  if (job.state === "DONE" && job.outcome) {
    return { word: job.outcome, kind: job.outcome === "not validated" ? "unjudged" : job.outcome };
  }
  if (job.state === "DONE") return { word: "done", kind: "unjudged" };
  if (job.state === "CANCELLED") return { word: "cancelled", kind: "cancelled" };
  return { word: job.state.toLowerCase(), kind: ended(job) ? "failed" : "waiting" };
}

// One line on where a job stands.
export function describe(job) {
  if (job.state === "QUEUED") return `${position(job.position)}${expected(job)}`;
  if (job.state === "RUNNING") {
    const attempt = job.attempts > 1 && job.attempt ? `Attempt ${job.attempt} of ${job.attempts}: ` : "";
    const stage = job.kind === "cutout" ? "Cutting out the object" : STAGES[job.stage]?.[0] ?? "Starting";
    return `${attempt}${stage}…${expected(job)}`;
  }
  const { word } = verdict(job);
  const details = [job.score !== null && `score ${score(job.score)}`, ...job.reasons].filter(Boolean);
  return [word[0].toUpperCase() + word.slice(1), ...details].join(", ");
}

export function facts(job) {
  const parts = [
    job.score !== null && `score ${score(job.score)}`,
    job.gaussians !== null && `${count(job.gaussians)} Gaussians`,
    `seed ${job.seed}`,
  ];
  return parts.filter(Boolean).join(" · ");
}

function position(place) {
  if (!place) return "Waiting";
  return place === 1 ? "Next in the queue" : `Number ${place} in the queue`;
}

function expected(job) {
  return job.eta === null || job.eta === undefined ? "" : ` · about ${duration(job.eta)} left`;
}
