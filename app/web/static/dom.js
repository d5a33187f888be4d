// Elements and words: the only two things that everything on the page needs.

// element("p", { class: "quiet", onclick: f }, "text", child) -> HTMLElement; attributes that are null or false are
// left out. Text goes in as text: what a prompt says can never become markup.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// Sets text only where it differs, so that a screen reader does not say the same thing again.
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function title(job) {
  return job.prompt || "(from a picture)";
}

export function score(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3);
}

export function count(value) {
  return value.toLocaleString("en");
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// What became of a job, as { word, kind }: kind is one of passed, refused, unjudged, failed, waiting.
export function verdict(job) {
  if (job.state === "DONE" && job.kind === "generate") {
    if (job.outcome === "not validated") return { word: "not validated", kind: "unjudged" };
    return { word: job.outcome, kind: job.outcome };
  }
  if (job.state === "DONE") return { word: "done", kind: "unjudged" };
  return { word: job.state.toLowerCase(), kind: ["QUEUED", "RUNNING"].includes(job.state) ? "waiting" : "failed" };
}

export function ended(job) {
  return !["QUEUED", "RUNNING"].includes(job.state);
}
