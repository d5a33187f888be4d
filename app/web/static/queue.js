// What runs and what waits, in the order in which it runs.

import * as api from "./api.js";
import { element, say } from "./dom.js";
import { button } from "./viewer.js";
import { describe, title } from "./words.js";

const MOST = 200;

export class Queue {
  // followed(): the ids of the jobs that are shown above. open(id): shows a job.
  constructor(panel, { followed, open }) {
    Object.assign(this, { panel, followed, open, jobs: [] });
    this.heading = panel.querySelector("h2");
    this.rows = panel.querySelector("ol");
    this.status = panel.querySelector("[role=status]");
    this.more = panel.querySelector(".quiet");
    panel.querySelector("button").addEventListener("click", () => this.cancelAll());
  }

  get busy() {
    return this.jobs.length > 0;
  }

  // stats: of /v1/stats, with the totals.
  async load({ queued, running }) {
    const busy = queued + running > 0;
    const [active, waiting] = busy
      ? await Promise.all([
          api.list({ state: "RUNNING", limit: MOST }),
          api.list({ state: "QUEUED", order: "queue", limit: MOST }),
        ])
      : [{ jobs: [] }, { jobs: [] }];
    const places = waiting.jobs.map((job, index) => ({ ...job, position: index + 1 }));
    this.jobs = [...active.jobs, ...places];
    const words = [running && `${running} running`, queued && `${queued} waiting`].filter(Boolean).join(", ");
    say(this.heading, `In progress${words && `: ${words}`}`);
    say(this.more, queued > places.length ? `and ${queued - places.length} more` : "");
    const followed = this.followed();
    this.panel.hidden = this.jobs.every((job) => followed.includes(job.id));
    this.draw();
  }

  // Rows are kept while their text stays, and with them the focus.
  draw() {
    const known = new Map([...this.rows.children].map((row) => [row.dataset.key, row]));
    this.rows.replaceChildren(...this.jobs.map((job) => {
      const key = `${job.id} ${describe(job)}`;
      return known.get(key) ?? this.row(job, key);
    }));
  }

  row(job, key) {
    const name = job.kind === "generate" ? title(job) : `${job.kind} ${job.prompt}`.trim();
    const cancel = button("Cancel", () => this.try(() => api.cancel(job.id)), { "aria-label": `Cancel “${name}”` });
    const link = button(name, () => this.open(job.id), { class: "link" });
    const words = element("span", { class: "quiet" }, `${describe(job)} · seed ${job.seed}`);
    return element("li", { "data-key": key }, element("div", { class: "row between" }, element("span", {}, link, " ", words), cancel));
  }

  cancelAll() {
    const many = this.jobs.length;
    if (!confirm(`Cancel ${many === 1 ? "the job" : `all ${many} jobs`} in progress?`)) return;
    this.try(() => Promise.all(this.jobs.map((job) => api.cancel(job.id))));
  }

  async try(action) {
    say(this.status, "");
    await action().catch((problem) => say(this.status, problem.message));
  }
}
