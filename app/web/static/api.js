// The HTTP interface under /v1, as functions. If tokens are needed the browser prompts for one (HTTP Basic).

import { ended } from "./words.js";

const JOBS = "/v1/jobs";
const SPLATS = ["asset.spz", "asset.ply"]; // in this order of preference: SPZ is a quarter of the size
const RECONNECT_MS = 3000;

// An answer that is an error. message: what went wrong and what to do, in the words of the server.
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const answer = await reach(path, options);
  if (!answer.ok) throw await problem(answer);
  return answer.json();
}

// The bytes of a file of a job. progress(share): called while it arrives.
export async function file(job, name, progress = () => {}) {
  const answer = await reach(asset(job, name), {});
  if (!answer.ok) throw await problem(answer);
  return collect(answer, progress);
}

// The body that makes a job like this one, apart from its seed. Sampler settings are left out where there are none.
export function likeJob(job) {
  const trellis = Object.keys(job.trellis).length ? { trellis: job.trellis } : {};
  return { prompt: job.prompt, attempts: job.attempts, ...trellis };
}

export function submit(order) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": randomKey() };
  return ask(JOBS, { method: "POST", headers, body: JSON.stringify(order) });
}

// query: { state, kind, outcome, q, order, limit, before, starred }; arrays repeat a parameter. { jobs, next }.
export function list(query) {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  return ask(`${JOBS}?${new URLSearchParams(pairs.filter(([, value]) => value !== null && value !== ""))}`);
}

export function job(id) {
  return ask(address(id));
}

export function cancel(id) {
  return ask(`${address(id)}/cancel`, { method: "POST" });
}

export function moveToFront(id) {
  return ask(`${address(id)}/front`, { method: "POST" });
}

export function remove(id) {
  return ask(address(id), { method: "DELETE" });
}

export function star(id, starred) {
  const headers = { "Content-Type": "application/json" };
  return ask(address(id), { method: "PATCH", headers, body: JSON.stringify({ starred }) });
}

// A splat to repair, as a File. Waits for the result: { job, report }.
export function repair(splat) {
  const body = new FormData();
  body.append("splat", splat);
  return ask("/v1/repair", { method: "POST", body });
}

export function asset(job, name) {
  return `${address(job.id)}/${name}`;
}

// The name of the file that shows the splat of a job; undefined if it has none.
export function splat(job) {
  return SPLATS.find((name) => job.assets.includes(name));
}

export function archive(ids) {
  return `/v1/archive?${new URLSearchParams(ids.map((id) => ["id", id]))}`;
}

// Calls changed(job) at every change until the job has ended; returns a function that stops it earlier. gone(): called
// if the job does not exist any more.
export function follow(id, changed, gone = () => {}) {
  let source = null;
  let over = false;
  const stop = () => {
    over = true;
    source.close();
  };
  const open = () => {
    source = new EventSource(`${address(id)}/events`);
    source.addEventListener("job", (event) => {
      const job = JSON.parse(event.data);
      if (ended(job)) stop();
      changed(job);
    });
    // A browser reconnects if the connection breaks, but gives up if the server answers with an error.
    source.addEventListener("error", () => {
      if (!over && source.readyState === EventSource.CLOSED) setTimeout(again, RECONNECT_MS);
    });
  };
  const again = async () => {
    if (over) return;
    const missing = await job(id).then(() => false, (problem) => problem.status === 404);
    if (over) return;
    if (missing) {
      over = true;
      gone();
    } else open();
  };
  open();
  return stop;
}

function address(id) {
  return `${JOBS}/${encodeURIComponent(id)}`;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Problem(0, "The server cannot be reached.");
  }
}

async function problem(answer) {
  const body = await answer.json().catch(() => ({}));
  const retry = answer.headers.get("Retry-After");
  const detail = body.detail ?? `The server answered ${answer.status} ${answer.statusText}.`;
  return new Problem(answer.status, retry ? `${detail} (in about ${retry} s)` : detail);
}

async function collect(answer, progress) {
  const total = Number(answer.headers.get("Content-Length"));
  const parts = [];
  let length = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts).arrayBuffer();
    parts.push(value);
    length += value.length;
    if (total) progress(length / total);
  }
}

// A press of the button is one job, even if the browser sends the request twice.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
