// The job that was ordered here last: where it stands, as it happens.

import { asset, cancel, follow } from "./api.js";
import { duration, element, ended, say, score, title, verdict } from "./dom.js";

const STEPS = ["Splat", "Repair", "Views", "Judgement"];
const STAGES = { // how a stage is called while it runs, and the step it belongs to
  picture: ["Drawing the picture", 0],
  splat: ["Building the splat", 0],
  repair: ["Diagnosing and repairing", 1],
  render: ["Rendering the views", 2],
  score: ["Scoring the views", 3],
  turntable: ["Rendering the turntable", -1],
};

export class Now {
  // panel: where it is shown. finished(job): called once, when the job has ended. open(id): shows a job in full.
  constructor(panel, finished, open) {
    Object.assign(this, { panel, finished, open, stop: () => {} });
  }

  show(job) {
    this.stop();
    this.build(job);
    this.update(job);
    this.panel.hidden = false;
    this.stop = follow(job.id, (changed) => {
      this.update(changed);
      if (ended(changed)) this.finished(changed);
    });
  }

  build(job) {
    this.title = element("h2", { id: "now-title" }, `“${title(job)}”`);
    const steps = STEPS.map((name) => element("li", {}, name));
    this.steps = element("ol", { class: "steps", "aria-hidden": "true" }, steps);
    this.bar = element("progress", { max: "1", "aria-label": "Progress of the job" });
    this.stage = element("p", { role: "status" });
    this.picture = element("img", { alt: `“${title(job)}” from the sides that were judged`, hidden: true });
    this.problem = element("p", { class: "problem" });
    const cancelling = { type: "button", class: "plain", onclick: () => this.cancel(job) };
    this.cancelButton = element("button", cancelling, "Cancel");
    this.openButton = element("button", { type: "button", onclick: () => this.open(job.id) }, "Look at it");
    const buttons = element("p", { class: "row" }, this.openButton, this.cancelButton);
    this.panel.replaceChildren(this.title, this.steps, this.bar, this.stage, this.problem, this.picture, buttons);
  }

  update(job) {
    const over = ended(job);
    this.panel.dataset.state = job.state;
    say(this.stage, describe(job));
    say(this.problem, job.error);
    if (job.fraction !== null) this.bar.value = job.fraction;
    else this.bar.removeAttribute("value");
    this.bar.hidden = this.steps.hidden = job.state !== "RUNNING";
    mark(this.steps, job);
    this.cancelButton.hidden = over;
    this.openButton.hidden = this.picture.hidden = !job.assets.includes("views.png");
    if (!this.picture.hidden) this.picture.src = asset(job, "views.png");
  }

  async cancel(job) {
    this.cancelButton.disabled = true;
    try {
      await cancel(job.id);
    } catch (problem) {
      say(this.problem, problem.message);
      this.cancelButton.disabled = false;
    }
  }
}

function mark(steps, job) {
  const at = STAGES[job.stage]?.[1] ?? -1;
  [...steps.children].forEach((step, index) => {
    step.dataset.state = index < at ? "done" : index === at ? "now" : "later";
  });
}

export function describe(job) {
  if (job.state === "QUEUED") {
    return `${place(job.position)}${expected(job)}`;
  }
  if (job.state === "RUNNING") {
    const attempt = job.attempts > 1 && job.attempt ? `Attempt ${job.attempt} of ${job.attempts}: ` : "";
    return `${attempt}${STAGES[job.stage]?.[0] ?? "Starting"}…${expected(job)}`;
  }
  const { word } = verdict(job);
  const details = [job.score !== null && `score ${score(job.score)}`, ...job.reasons].filter(Boolean);
  return [word[0].toUpperCase() + word.slice(1), ...details].join(", ");
}

function place(position) {
  if (!position) return "Waiting";
  return position === 1 ? "Next to be taken" : `Number ${position} in the queue`;
}

function expected(job) {
  return job.eta === null || job.eta === undefined ? "" : ` · about ${duration(job.eta)} left`;
}
