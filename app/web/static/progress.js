// The progress of one job: its steps, a bar, where it stands, and Cancel.

import * as api from "./api.js";
import { button, element, say } from "./dom.js";
import { STAGES, STEPS, describe, ended } from "./words.js";

export class Progress {
  constructor(job) {
    this.steps = element("ol", { class: "steps", "aria-hidden": "true" }, STEPS.map((name) => element("li", {}, name)));
    this.bar = element("progress", { max: "1", "aria-label": "Progress of the job" });
    this.status = element("p", { role: "status" });
    this.problem = element("p", { class: "problem" });
    this.cancelButton = button("Cancel", () => this.cancel(job));
    const buttons = element("p", { class: "row" }, this.cancelButton);
    this.root = element("div", {}, this.steps, this.bar, this.status, this.problem, buttons);
    this.update(job);
  }

  update(job) {
    say(this.status, describe(job));
    const running = job.state === "RUNNING";
    this.bar.hidden = !running;
    if (job.fraction === null) this.bar.removeAttribute("value");
    else this.bar.value = job.fraction;
    this.steps.hidden = !running || job.kind !== "generate";
    const at = STAGES[job.stage]?.[1] ?? -1;
    [...this.steps.children].forEach((step, index) => {
      step.dataset.state = index < at ? "done" : index === at ? "now" : "later";
    });
    this.cancelButton.parentElement.hidden = ended(job);
  }

  // A running job stops at the end of its stage.
  async cancel(job) {
    try {
      await api.cancel(job.id);
      say(this.cancelButton, "Cancelling…");
      say(this.problem, "");
    } catch (problem) {
      say(this.problem, problem.message);
    }
  }
}
