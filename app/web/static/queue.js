// What runs and what waits, in the order in which it runs.

import * as api from "./api.js";
import { arrange, button, element, say } from "./dom.js";
import { describe, title } from "./words.js";

const PAGE = 200; // the most that the server lists at once

export class Queue {
  // followed(): the ids of the jobs that are shown above. open(id): shows a job. changed(): after a job was moved.
  constructor(panel, { followed, open, changed }) {
    Object.assign(this, { panel, followed, open, changed, jobs: [], pages: 1 });
    this.heading = panel.querySelector("h2");
    this.rows = panel.querySelector("ol");
    this.status = panel.querySelector("[role=status]");
    [this.cancelButton, this.more] = ["cancel", "more"].map((name) => panel.querySelector(`[name=${name}]`));
    this.cancelButton.addEventListener("click", () => this.cancelAll());
    this.more.addEventListener("click", () => {
      this.pages += 1;
      this.try(async () => this.changed());
    });
  }

  get busy() {
    return this.jobs.length > 0;
  }

  // stats: of /v1/stats, with the totals.
  async load({ queued, running }) {
    const busy = queued + running > 0;
    const [active, waiting] = busy
      ? await Promise.all([pages({ state: "RUNNING" }, 1), pages({ state: "QUEUED", order: "queue" }, this.pages)])
      : [{ jobs: [] }, { jobs: [] }];
    this.jobs = [...active.jobs, ...waiting.jobs];
    const words = [running && `${running} running`, queued && `${queued} waiting`].filter(Boolean).join(", ");
    say(this.heading, `In progress${words && `: ${words}`}`);
    this.more.hidden = !waiting.next;
    say(this.more, `Show ${Math.min(PAGE, queued - waiting.jobs.length)} more`);
    if (!waiting.next) this.pages = Math.max(1, Math.ceil(waiting.jobs.length / PAGE));
    const followed = this.followed();
    this.panel.hidden = this.jobs.every((job) => followed.includes(job.id));
    this.draw();
  }

  draw() {
    const known = new Map([...this.rows.children].map((row) => [row.dataset.job, row]));
    arrange(this.rows, this.jobs.map((job) => known.get(job.id) ?? this.row(job)));
    this.jobs.forEach((job, index) => {
      const row = this.rows.children[index];
      say(row.querySelector(".quiet"), `${describe(job)} · seed ${job.seed}`);
      row.querySelector("[name=front]").hidden = !(job.position > 1);
    });
  }

  row(job) {
    const name = title(job);
    const act = (words, action, attributes = {}) =>
      button(words, () => this.try(action), { "aria-label": `${words}: “${name}”`, ...attributes });
    const front = act("Move to front", () => this.moveToFront(job), { name: "front" });
    const link = button(name, () => this.open(job.id), { class: "link" });
    const buttons = element("div", { class: "row" }, front, act("Cancel", () => api.cancel(job.id)));
    const words = element("span", {}, link, " ", element("span", { class: "quiet" }));
    return element("li", { "data-job": job.id }, element("div", { class: "row between" }, words, buttons));
  }

  async moveToFront(job) {
    await api.moveToFront(job.id);
    this.changed();
  }

  // Also the jobs that are not listed yet.
  cancelAll() {
    if (!confirm("Cancel all jobs in progress?")) return;
    this.try(async () => {
      for (const state of ["QUEUED", "RUNNING"]) {
        const { jobs } = await pages({ state, order: "queue" }, Infinity);
        await Promise.all(jobs.map((job) => api.cancel(job.id)));
      }
    });
  }

  async try(action) {
    say(this.status, "");
    await action().catch((problem) => say(this.status, problem.message));
  }
}

// So many pages of a list, as one: { jobs, next }.
async function pages(query, most) {
  const jobs = [];
  let next = null;
  for (let page = 0; page < most && (page === 0 || next); page++) {
    const found = await api.list({ ...query, limit: PAGE, before: next });
    jobs.push(...found.jobs);
    next = found.next;
  }
  return { jobs, next };
}
