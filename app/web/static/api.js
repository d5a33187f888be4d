// The HTTP interface under /v1, as functions. Where tokens are needed the browser asks for one itself (HTTP Basic).

import { ended } from "./dom.js";

const JOBS = "/v1/jobs";
const RECONNECT_MS = 3000;

// An answer that is no success. message: what went wrong and what to do, as the server worded it.
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

export async function file(job, name, progress) {
  const answer = await reach(asset(job, name), {});
  if (!answer.ok) throw await problem(answer);
  return collect(answer, progress);
}

export function submit(order) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": randomKey() };
  return ask(JOBS, { method: "POST", headers, body: JSON.stringify(order) });
}

export function recent(limit, before) {
  return ask(`${JOBS}?limit=${limit}${before ? `&before=${encodeURIComponent(before)}` : ""}`);
}

export function job(id) {
  return ask(`${JOBS}/${encodeURIComponent(id)}`);
}

export function cancel(id) {
  return ask(`${JOBS}/${encodeURIComponent(id)}`, { method: "DELETE" });
}

export function asset(job, name) {
  return `${JOBS}/${encodeURIComponent(job.id)}/${name}`;
}

// Calls changed(job) at every change until the job has ended; returns a function that stops it earlier.
export function follow(id, changed) {
  let source = null;
  let over = false;
  const stop = () => {
    over = true;
    source.close();
  };
  const open = () => {
    source = new EventSource(`${JOBS}/${encodeURIComponent(id)}/events`);
    source.addEventListener("job", (event) => {
      const job = JSON.parse(event.data);
      if (ended(job)) stop();
      changed(job);
    });
    // A browser reconnects by itself where the line breaks, but gives up where the server answers with an error.
    source.addEventListener("error", () => {
      if (!over && source.readyState === EventSource.CLOSED) setTimeout(() => over || open(), RECONNECT_MS);
    });
  };
  open();
  return stop;
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

// A press of the button is one job, even where the network makes the browser send it twice.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
