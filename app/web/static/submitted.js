// The jobs that were submitted last: their progress, then their results. A reload brings them back.

import * as api from "./api.js";
import { element, say } from "./dom.js";
import { announce } from "./notify.js";
import { Result } from "./result.js";
import { button } from "./viewer.js";
import { STAGES, STEPS, describe, ended, score, title, verdict } from "./words.js";

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

// One job: its steps, then the result itself.
class Single {
  constructor(owner) {
    this.owner = owner;
    const [job] = owner.jobs.values();
    const steps = STEPS.map((name) => element("li", {}, name));
    this.steps = element("ol", { class: "steps", "aria-hidden": "true" }, steps);
    this.bar = element("progress", { max: "1", "aria-label": "Progress of the job" });
    this.status = element("p", { role: "status" });
    this.problem = element("p", { class: "problem" });
    this.cancel = button("Cancel", () => this.cancelled(job));
    this.result = element("div");
    this.parts = [
      element("h2", { id: "now-title" }, `“${title(job)}”`),
      this.steps, this.bar, this.status, this.problem, element("p", { class: "row" }, this.cancel), this.result,
    ];
  }

  update(job) {
    this.owner.panel.dataset.state = job.state;
    say(this.status, describe(job));
    say(this.problem, job.state === "CANCELLED" ? "" : job.error);
    if (job.fraction === null) this.bar.removeAttribute("value");
    else this.bar.value = job.fraction;
    this.bar.hidden = this.steps.hidden = job.state !== "RUNNING";
    const at = STAGES[job.stage]?.[1] ?? -1;
    [...this.steps.children].forEach((step, index) => {
      step.dataset.state = index < at ? "done" : index === at ? "now" : "later";
    });
    this.cancel.parentElement.hidden = ended(job);
    this.status.classList.toggle("hidden", job.state === "DONE"); // the result says it; a screen reader still reads it
    if (job.state === "DONE") this.showResult(job);
  }

  showResult(job) {
    if (this.owner.result) return;
    this.owner.result = new Result(this.owner.settings, this.owner.actions);
    this.result.replaceChildren(this.owner.result.root);
    this.owner.result.show(job);
  }

  async cancelled(job) {
    this.cancel.disabled = true;
    await api.cancel(job.id).catch((problem) => say(this.problem, problem.message));
    this.cancel.disabled = false;
  }
}

// Several variations: a grid, the best score first.
class Several {
  constructor(owner) {
    this.owner = owner;
    const [job] = owner.jobs.values();
    this.status = element("p", { role: "status" });
    this.grid = element("ul", { class: "variations" });
    this.cancel = button("Cancel all", () => this.cancelAll());
    this.parts = [
      element("h2", { id: "now-title" }, `“${title(job)}”, ${owner.jobs.size} variations`),
      this.status, this.grid, element("p", { class: "row" }, this.cancel),
    ];
  }

  update() {
    const jobs = [...this.owner.jobs.values()];
    const done = jobs.filter(ended).length;
    const passed = jobs.filter((job) => job.outcome === "passed").length;
    say(this.status, done < jobs.length ? `${done} of ${jobs.length} done` : `Done: ${passed} of ${jobs.length} passed`);
    this.cancel.parentElement.hidden = done === jobs.length;
    const best = (job) => (ended(job) ? job.score ?? -1 : -2);
    this.grid.replaceChildren(...jobs.sort((a, b) => best(b) - best(a)).map((job) => this.tile(job)));
  }

  tile(job) {
    const { word, kind } = verdict(job);
    const picture = job.assets.includes("views.png") && element("img", { src: api.asset(job, "views.png"), alt: "" });
    const words = ended(job) ? element("span", { class: `badge ${kind}` }, word) : describe(job);
    const facts = ended(job) ? `score ${score(job.score)} · seed ${job.seed}` : `seed ${job.seed}`;
    const open = { type: "button", class: "card", onclick: () => this.owner.open(job.id) };
    return element("li", {}, element("button", open, picture, element("span", {}, words), element("span", { class: "quiet" }, facts)));
  }

  async cancelAll() {
    const waiting = [...this.owner.jobs.values()].filter((job) => !ended(job));
    await Promise.all(waiting.map((job) => api.cancel(job.id))).catch((problem) => say(this.status, problem.message));
  }
}
