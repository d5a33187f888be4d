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

// What became of a job that failed, in plain words.
const FAILURES = {
  FAILED: "An error stopped this job.",
  EXPIRED: "This job did not finish before its deadline.",
  QUARANTINED: "This job crashed its engine and was given up.",
};
export const FAILED = Object.keys(FAILURES);

// What the diagnosis found, by kind, in plain words.
const FINDINGS = {
  nonfinite: "Some values are not numbers.",
  out_of_bounds: "Some values are far out of range.",
  stray_position: "A few Gaussians lie far away from the object.",
  uniform_position: "All Gaussians lie on one point.",
  other_unit: "The object is in another unit, so the judge will see it too transparent or too opaque.",
  zero_quaternion: "Some Gaussians have no rotation.",
  oversized: "Some Gaussians are far too large.",
  uniform_scale: "The sizes are lost: all Gaussians have the same.",
  linear_scale: "The sizes are plain numbers instead of logarithms.",
  uniform_opacity: "The opacities are lost: all Gaussians have the same.",
  linear_opacity: "The opacities are probabilities instead of logits.",
  opacity_255: "The opacities are whole numbers instead of logits.",
  double_logit: "The opacities were converted to logits twice.",
  rgb_255: "The colours are RGB from 0 to 255.",
  rgb_unit: "The colours are RGB from 0 to 1.",
};

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

// Rounded down like the scores in reasons: 0.1999 does not pass a threshold of 0.2.
export function score(value) {
  return value === null || value === undefined ? "–" : (Math.floor(value * 1000) / 1000).toFixed(3);
}

// Why a job failed; "" if it did not.
export function failure(job) {
  return FAILURES[job.state] ?? "";
}

// The finding of a diagnosis; "" for a kind that this page does not know.
export function findingWords({ kind }) {
  return FINDINGS[kind] ?? "";
}

export function count(value) {
  return value.toLocaleString("en");
}

export function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}

export function duration(seconds) {
  if (seconds < 90) return together(`${Math.max(1, Math.round(seconds))} s`);
  return together(seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);
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
  if (failure(job)) return failure(job);
  const { word } = verdict(job);
  const details = [job.score !== null && `score ${score(job.score)}`, ...job.reasons].filter(Boolean);
  return [word[0].toUpperCase() + word.slice(1), ...details].join(", ");
}

export function facts(job) {
  return [
    job.score !== null && `score ${score(job.score)}`,
    job.gaussians !== null && `${count(job.gaussians)} Gaussians`,
    `seed ${job.seed}`,
  ];
}

// Facts in one line, which breaks only between them.
export function listed(parts) {
  return parts.filter(Boolean).map(together).join(" · ");
}

function together(words) {
  return words.replaceAll(" ", "\u00a0");
}

function position(place) {
  if (!place) return "Waiting";
  return place === 1 ? "Next in the queue" : `Number ${place} in the queue`;
}

function expected(job) {
  return job.eta === null || job.eta === undefined ? "" : ` · about ${duration(job.eta)} left`;
}
