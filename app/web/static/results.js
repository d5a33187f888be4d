// The list of what is in progress, and the gallery of what came out.

import { asset, job as one, recent } from "./api.js";
import { count, element, ended, say, score, title, verdict } from "./dom.js";
import { describe } from "./now.js";

const PAGE = 24;
const STALE = 4;

export class Results {
  // open(id): shows a job in full.
  constructor(open) {
    this.open = open;
    this.jobs = new Map(); // by id
    this.cards = new Map(); // by id: { version, element }
    this.next = null; // the page after the oldest one loaded
    this.filter = "all";
    this.followed = null; // the id of the job that is shown above the list
    this.list = document.getElementById("cards");
    this.queue = document.getElementById("queue");
    this.empty = document.getElementById("empty");
    this.older = document.getElementById("older");
    const problem = document.getElementById("older-problem");
    this.older.addEventListener("click", async () => {
      say(problem, "");
      await this.load(this.next).catch((error) => say(problem, error.message));
    });
    document.getElementById("filter").addEventListener("change", (event) => {
      this.filter = event.target.value;
      this.draw();
    });
  }

  get busy() {
    return [...this.jobs.values()].some((job) => !ended(job));
  }

  // The newest page; with `before`, the one that follows. What still runs and is on neither is asked for by itself.
  async load(before = null) {
    const page = await recent(PAGE, before);
    const stale = [...this.jobs.values()].filter((job) => !ended(job)).sort(byTurn).slice(0, STALE);
    for (const job of page.jobs) this.jobs.set(job.id, job);
    const missing = stale.filter(({ id }) => !page.jobs.some((job) => job.id === id));
    for (const job of await Promise.all(missing.map(({ id }) => one(id)))) this.jobs.set(job.id, job);
    if (before || !this.cards.size) this.next = page.next;
    this.draw();
  }

  // How many there are in all, of which the list may show fewer.
  total(queued, running) {
    const words = [running && `${running} running`, queued && `${queued} waiting`].filter(Boolean).join(", ");
    say(document.getElementById("queue-title"), `In progress${words && `: ${words}`}`);
  }

  put(job) {
    this.jobs.set(job.id, job);
    this.draw();
  }

  draw() {
    const all = [...this.jobs.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
    const waiting = all.filter((job) => !ended(job)).sort(byTurn);
    this.queue.hidden = waiting.every((job) => job.id === this.followed); // that one is shown above already
    this.queue.querySelector("ol").replaceChildren(...waiting.map(inQueue));
    const shown = all.filter((job) => job.kind === "generate" && ended(job) && this.fits(job));
    this.empty.hidden = shown.length > 0;
    this.older.hidden = !this.next;
    this.arrange(shown.map((job) => this.card(job)));
  }

  fits(job) {
    const { kind } = verdict(job);
    return this.filter === "all" || kind === this.filter;
  }

  card(job) {
    const known = this.cards.get(job.id);
    if (known?.version === job.version) return known.element;
    const made = element("li", { "data-job": job.id }, cardOf(job, () => this.open(job.id)));
    this.cards.set(job.id, { version: job.version, element: made });
    return made;
  }

  // Touches only what has changed: the focus and the pictures of the other cards stay.
  arrange(wanted) {
    const keep = new Set(wanted);
    for (const child of [...this.list.children]) if (!keep.has(child)) child.remove();
    wanted.forEach((card, index) => {
      if (this.list.children[index] !== card) this.list.insertBefore(card, this.list.children[index] ?? null);
    });
  }
}

function byTurn(a, b) {
  const running = (job) => (job.state === "RUNNING" ? 0 : 1);
  return running(a) - running(b) || a.priority - b.priority || a.sequence - b.sequence || (a.id < b.id ? -1 : 1);
}

function inQueue(job) {
  const name = job.kind === "generate" ? title(job) : `${job.kind} ${job.prompt}`.trim();
  return element("li", {}, element("span", {}, name), " ", element("span", { class: "quiet" }, describe(job)));
}

function cardOf(job, open) {
  const { word, kind } = verdict(job);
  const why = job.error || job.reasons.join("; ");
  return element(
    "button",
    { type: "button", class: "card", onclick: open },
    job.assets.includes("views.png") &&
      element("img", { src: asset(job, "views.png"), alt: "", loading: "lazy", width: "2072", height: "518" }),
    element("span", { class: "prompt" }, title(job)),
    element("span", { class: "row" }, element("span", { class: `badge ${kind}` }, word), facts(job)),
    why && element("span", { class: "why" }, why),
  );
}

function facts(job) {
  const parts = [
    job.score !== null && `score ${score(job.score)}`,
    job.gaussians !== null && `${count(job.gaussians)} gaussians`,
    `seed ${job.seed}`,
  ];
  return element("span", { class: "quiet" }, parts.filter(Boolean).join(" · "));
}
