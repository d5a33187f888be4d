// One result: the splat, its verdict, its judged views, its files, and what can be done next.

import * as api from "./api.js";
import { button, element, say } from "./dom.js";
import { givenPicture } from "./picture.js";
import { VIDEO, video, videoMaker } from "./video.js";
import { Viewer } from "./viewer.js";
import { FAILED, ended, facts, failure, fileWords, listed, score, title, verdict } from "./words.js";

export const TRIES = 4; // the most seeds that one press tries

export class Result {
  // actions: { again(job, { count, next }), reuse(job), changed(job), removed(job) }: see page.js.
  constructor(settings, actions) {
    Object.assign(this, { settings, actions, viewer: null, job: null, stop: () => {} });
    this.root = element("div", { class: "result" });
  }

  show(job) {
    this.dispose();
    this.job = job;
    this.stage = element("div", { class: "stage" });
    this.side = element("div", { class: "side" });
    this.status = element("p", { role: "status", class: "quiet" });
    const columns = element("div", { class: "columns" }, this.stage, this.side);
    this.root.replaceChildren(summary(job), this.buttons(job), this.status, columns);
    if (!api.splat(job)) {
      this.stage.remove();
      this.showSide(job);
    } else if (this.settings.viewer) this.showSplat(job);
    else this.showVideo(job);
  }

  dispose() {
    this.stop();
    this.job = null;
    this.dropViewer();
  }

  dropViewer() {
    this.viewer?.dispose();
    this.viewer = null;
  }

  // ---- the splat ------------------------------------------------------------------------------------------------

  async showSplat(job) {
    const failed = (error) => this.job?.id === job.id && this.showVideo(job, error.message);
    this.viewer = new Viewer(`The splat of “${title(job)}”`, this.settings.judging, failed);
    this.stage.replaceChildren(this.viewer.root);
    this.showSide(job);
    const name = api.splat(job);
    try {
      await this.viewer.show(async (progress) => ({ bytes: await api.file(job, name, progress), name }));
    } catch (error) {
      failed(error);
    }
  }

  // Without a viewer, the turntable video.
  showVideo(job, why = "") {
    this.dropViewer();
    const reason = why && element("p", { class: "problem" }, `The 3D viewer does not work here: ${why}.`);
    this.stage.replaceChildren(reason || "", this.turntable(job));
    this.showSide(job);
  }

  // ---- what to do next ------------------------------------------------------------------------------------------

  buttons(job) {
    const generated = job.kind === "generate";
    const refused = generated && job.outcome === "refused";
    const failed = generated && FAILED.includes(job.state);
    const next = (count) => () => this.actions.again(job, { count, next: true });
    return element(
      "div",
      { class: "row actions" },
      failed && button("Try again", () => this.actions.again(job, { count: 1, next: false }), { class: "" }),
      (refused || failed) && button(`Try the next ${TRIES} seeds`, next(TRIES), { class: failed ? "plain" : "" }),
      (refused || failed) && button("Change the prompt", () => this.actions.reuse(job)),
      downloads(job, refused),
      generated && !refused && !failed && button("Next seed", next(1)),
      generated && !refused && !failed && button("Reuse prompt and seed", () => this.actions.reuse(job)),
      this.starButton(job),
      generated && button("Copy as curl", () => this.copy(job)),
      ended(job) && button("Delete", () => this.remove(job), { class: "plain danger" }),
    );
  }

  starButton(job) {
    const made = button(job.starred ? "★ Starred" : "☆ Star", () => this.try(async () => {
      const changed = await api.star(job.id, !job.starred);
      made.replaceWith(this.starButton(changed));
      this.actions.changed(changed);
    }), { "aria-pressed": String(job.starred), title: "Starred results are not removed when space or time runs out." });
    return made;
  }

  remove(job) {
    if (!confirm(`Delete “${title(job)}” with all its files?`)) return;
    this.try(async () => {
      await api.remove(job.id);
      this.actions.removed(job);
    });
  }

  copy(job) {
    const body = JSON.stringify({ ...api.likeJob(job), seed: job.seed }).replaceAll("'", "'\\''");
    const words = `curl -H 'Content-Type: application/json' -d '${body}' ${location.origin}/v1/jobs`;
    this.try(async () => {
      if (await givenPicture(job)) return say(this.status, "This result comes from a picture, which is too long for a command.");
      await navigator.clipboard.writeText(words);
      say(this.status, "Copied.");
    });
  }

  async try(action) {
    try {
      say(this.status, "");
      await action();
    } catch (problem) {
      say(this.status, problem.message);
    }
  }

  // ---- views and video ------------------------------------------------------------------------------------------

  showSide(job) {
    const turntable = this.viewer ? this.turntable(job) : ""; // without a viewer it stands in the viewer's place
    this.side.replaceChildren(this.views(job) ?? "", turntable);
  }

  views(job) {
    if (!job.assets.includes("views.png")) return null;
    const { views } = this.settings.judging;
    const shown = views.map((view, index) => {
      const picture = element("img", { src: api.asset(job, "views.png"), alt: `“${title(job)}”, ${view.name}` });
      picture.style.objectPosition = `${views.length > 1 ? (100 * index) / (views.length - 1) : 0}% 0`;
      const words = `${view.name} ${score(job.scores[index])}`;
      const show = () => this.viewer?.moveTo(view);
      return element("button", { type: "button", class: "view", onclick: show, title: `Look from: ${view.name}` },
        picture, element("span", { class: "quiet" }, words));
    });
    return element("section", {}, element("h3", {}, "Judged views"), element("div", { class: "views" }, shown));
  }

  // A turntable video, or a button that makes one.
  turntable(job) {
    return job.assets.includes(VIDEO) ? video(job) : videoMaker(job, this);
  }

  // After a turntable video was made for the job.
  async videoMade(job) {
    if (this.job?.id !== job.id) return;
    const updated = await api.job(job.id);
    this.root.querySelector(".downloads")?.replaceWith(downloads(updated, updated.outcome === "refused"));
    this.job = updated;
    if (this.viewer) this.showSide(updated);
    else this.showVideo(updated);
  }
}

// A button that opens a list of the files.
function downloads(job, secondary) {
  const order = (name) => (name.startsWith("asset") ? 0 : 1);
  const names = [...job.assets].sort((a, b) => order(a) - order(b));
  if (!names.length) return null;
  const links = names.map((name) =>
    element("li", {}, element("a", { href: api.asset(job, name), download: true }, fileWords(name))),
  );
  const summary = element("summary", { class: secondary ? "button plain" : "button" }, "Download");
  return element("details", { class: "downloads" }, summary, element("ul", {}, links));
}

function summary(job) {
  const { word, kind } = verdict(job);
  const more = listed([
    ...facts(job),
    job.attempts > 1 && `attempt ${job.attempt} of ${job.attempts}`,
    `profile ${job.profile}`,
    ...Object.entries(job.trellis).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`),
    new Date(job.created * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }),
  ]);
  return element(
    "div",
    { class: "summary" },
    element("p", { class: "row" }, element("span", { class: `badge ${kind}` }, word), more),
    job.reasons.length > 0 && element("ul", { class: "why" }, job.reasons.map((reason) => element("li", {}, reason))),
    failure(job) && whyFailed(job),
  );
}

function whyFailed(job) {
  const remedy = job.kind === "generate" ? " Try it again, or try other seeds." : "";
  const details = `If it fails again, show this to the person who runs the service: job ${job.id}, ${job.state}, ${job.error}`;
  return [element("p", { class: "problem" }, failure(job) + remedy), element("p", { class: "quiet" }, details)];
}
