// The jobs that were submitted last: their progress, then their results. A reload brings them back.

import * as api from "./api.js";
import { arrange, button, element, say } from "./dom.js";
import { announce } from "./notify.js";
import { Progress } from "./progress.js";
import { Result, TRIES } from "./result.js";
import { describe, ended, listed, score, title, verdict } from "./words.js";

const KEPT = "splatgate-submitted";

export class Submitted {
  // panel: where they are shown. actions: of Result. finished(job): called for each job that has ended.
  constructor(panel, settings, actions, { finished, open }) {
    Object.assign(this, { panel, settings, actions, finished, open, jobs: new Map(), stops: [], result: null });
  }

  get ids() {
    return [...this.jobs.keys()];
  }

  // After a reload: those of this tab that still exist.
  async restore() {
    const ids = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
    const found = await Promise.all(ids.map((id) => api.job(id).catch(() => null)));
    const jobs = found.filter(Boolean);
    if (jobs.length && !this.jobs.size) this.show(jobs);
  }

  show(jobs) {
    this.clear();
    sessionStorage.setItem(KEPT, JSON.stringify(jobs.map((job) => job.id)));
    this.jobs = new Map(jobs.map((job) => [job.id, job]));
    this.view = jobs.length > 1 ? new Several(this) : new Single(this);
    this.panel.replaceChildren(...this.view.parts);
    this.panel.hidden = false;
    for (const job of jobs) {
      this.view.update(job);
      if (!ended(job)) this.stops.push(api.follow(job.id, (changed) => this.update(changed), () => this.forget(job.id)));
    }
  }

  update(job) {
    this.jobs.set(job.id, job);
    this.view.update(job);
    announce([...this.jobs.values()]);
    if (ended(job)) this.finished(job);
  }

  forget(id) {
    this.jobs.delete(id);
    if (this.jobs.size) this.show([...this.jobs.values()]);
    else this.clear();
  }

  clear() {
    this.stops.forEach((stop) => stop());
    this.stops = [];
    this.result?.dispose();
    this.result = null;
    this.jobs = new Map();
    this.panel.hidden = true;
    sessionStorage.removeItem(KEPT);
  }
}

// One job: its progress, then the result itself.
class Single {
  constructor(owner) {
    this.owner = owner;
    const [job] = owner.jobs.values();
    this.progress = new Progress(job);
    this.result = element("div");
    this.parts = [element("h2", { id: "now-title" }, `“${title(job)}”`), this.progress.root, this.result];
  }

  update(job) {
    this.owner.panel.dataset.state = job.state;
    this.progress.update(job);
    const shown = ended(job) && job.state !== "CANCELLED";
    this.progress.root.classList.toggle("hidden", shown); // the result says it; a screen reader still reads it
    if (shown) this.showResult(job);
  }

  showResult(job) {
    if (this.owner.result) return;
    this.owner.result = new Result(this.owner.settings, this.owner.actions);
    this.result.replaceChildren(this.owner.result.root);
    this.owner.result.show(job);
  }
}

// Several variations: a grid, the best score first, and what can be done next.
class Several {
  constructor(owner) {
    this.owner = owner;
    const jobs = [...owner.jobs.values()];
    this.tiles = new Map();
    this.status = element("p", { role: "status" });
    this.grid = element("ul", { class: "variations" });
    this.cancel = button("Cancel all", () => this.cancelAll());
    const [more, last] = [Math.min(jobs.length, TRIES), jobs.at(-1)];
    this.more = button(`Try the next ${more} seeds`, () => owner.actions.again(last, { count: more, next: true }));
    this.change = button("Change the prompt", () => owner.actions.reuse(last));
    this.parts = [
      element("h2", { id: "now-title" }, `“${title(last)}”, ${jobs.length} variations`),
      this.status, this.grid, element("p", { class: "row" }, this.cancel, this.more, this.change),
    ];
  }

  update() {
    const jobs = [...this.owner.jobs.values()];
    const [done, passed] = [jobs.filter(ended), jobs.filter((job) => job.outcome === "passed")];
    const over = done.length === jobs.length;
    say(this.status, over ? `Done: ${outcomes(jobs)}` : `${done.length} of ${jobs.length} done`);
    this.cancel.hidden = over;
    this.more.hidden = !over;
    this.more.classList.toggle("plain", passed.length > 0);
    this.change.hidden = !over || passed.length > 0;
    const best = (job) => (ended(job) ? job.score ?? -1 : -2);
    arrange(this.grid, jobs.sort((a, b) => best(b) - best(a)).map((job) => this.tile(job)));
  }

  tile(job) {
    const known = this.tiles.get(job.id);
    if (known?.version === job.version) return known.element;
    const made = element("li", {}, this.card(job));
    this.tiles.set(job.id, { version: job.version, element: made });
    return made;
  }

  card(job) {
    const { word, kind } = verdict(job);
    const open = { type: "button", class: "card", onclick: () => this.owner.open(job.id) };
    const picture = job.assets.includes("views.png") && element("img", { src: api.asset(job, "views.png"), alt: "" });
    const words = ended(job) ? element("span", { class: `badge ${kind}` }, word) : describe(job);
    const facts = listed([job.score !== null && `score ${score(job.score)}`, `seed ${job.seed}`]);
    return element("button", open, picture, element("span", {}, words), element("span", { class: "quiet" }, facts));
  }

  async cancelAll() {
    const waiting = [...this.owner.jobs.values()].filter((job) => !ended(job));
    await Promise.all(waiting.map((job) => api.cancel(job.id))).catch((problem) => say(this.status, problem.message));
  }
}

// "1 passed, 3 refused"
function outcomes(jobs) {
  const words = jobs.map((job) => verdict(job).word);
  return [...new Set(words)].map((word) => `${words.filter((each) => each === word).length} ${word}`).join(", ");
}
