// One result: the splat, its verdict, its judged views, its files, and what can be done next.

import * as api from "./api.js";
import { element, say } from "./dom.js";
import { givenPicture } from "./picture.js";
import { Viewer, button } from "./viewer.js";
import { describe, ended, facts, fileWords, score, title, verdict } from "./words.js";

const SPLATS = ["asset.spz", "asset.ply"]; // shown in this order of preference: SPZ is a quarter of the size
const TRIES = 4;

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
    this.showSide(job);
    if (!this.splat(job)) this.stage.remove();
    else if (this.settings.viewer) this.showSplat(job);
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

  splat(job) {
    return SPLATS.find((name) => job.assets.includes(name));
  }

  // ---- the splat ------------------------------------------------------------------------------------------------

  async showSplat(job) {
    const failed = (error) => this.job?.id === job.id && this.showVideo(job, error.message);
    this.viewer = new Viewer(`The splat of “${title(job)}”`, this.settings.judging, failed);
    this.stage.replaceChildren(this.viewer.root);
    const name = this.splat(job);
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
    const instead = job.assets.includes("turntable.mp4") ? video(job) : "There is no turntable video yet: make one below.";
    this.stage.replaceChildren(element("div", {}, instead), reason || "");
  }

  // ---- what to do next ------------------------------------------------------------------------------------------

  buttons(job) {
    const generated = job.kind === "generate";
    const refused = generated && job.outcome === "refused";
    const tryMore = button(`Try the next ${TRIES} seeds`, () => this.actions.again(job, { count: TRIES, next: true }));
    if (refused) tryMore.classList.remove("plain");
    return element(
      "div",
      { class: "row actions" },
      refused && tryMore,
      refused && button("Change the prompt", () => this.actions.reuse(job)),
      downloads(job, refused),
      generated && !refused && button("Next seed", () => this.actions.again(job, { count: 1, next: true })),
      generated && !refused && button("Reuse prompt and seed", () => this.actions.reuse(job)),
      this.starButton(job),
      generated && button("Copy as curl", () => this.copy(job)),
      !ended(job) && button("Cancel", () => this.try(() => api.cancel(job.id))),
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
    const hasNoVideo = this.splat(job) && !job.assets.includes("turntable.mp4");
    this.side.replaceChildren(this.views(job) ?? "", hasNoVideo ? this.videoMaker(job) : "");
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

  videoMaker(job) {
    const status = element("p", { role: "status", class: "quiet" });
    const make = button("Make a turntable video", () => {
      make.disabled = true;
      say(status, "Rendering the video…");
      order().catch(failed);
    });
    const failed = ({ message }) => {
      say(status, message);
      make.disabled = false;
    };
    const order = async () => {
      const videoJob = await api.submit({ kind: "turntable", source: job.id });
      this.stop = api.follow(videoJob.id, (changed) => this.showProgress(job, changed, status, failed).catch(failed));
    };
    return element("section", {}, make, status);
  }

  async showProgress(job, changed, status, failed) {
    if (this.job?.id !== job.id) return;
    if (changed.fraction !== null) say(status, `Rendering the video, ${Math.round(changed.fraction * 100)} %`);
    if (ended(changed) && changed.state !== "DONE") failed({ message: changed.error || verdict(changed).word });
    if (changed.state !== "DONE") return;
    const updated = await api.job(job.id);
    this.root.querySelector(".downloads")?.replaceWith(downloads(updated, updated.outcome === "refused"));
    this.showSide(updated);
    if (!this.viewer) this.showVideo(updated);
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

function video(job) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const video = element("video", {
    src: api.asset(job, "turntable.mp4"), controls: true, loop: true, playsinline: true,
    "aria-label": `A turntable video of the splat of “${title(job)}”`,
  });
  video.muted = true;
  video.autoplay = !still;
  return video;
}

function summary(job) {
  const { word, kind } = verdict(job);
  const more = [
    facts(job),
    job.attempts > 1 && `attempt ${job.attempt} of ${job.attempts}`,
    `profile ${job.profile}`,
    ...Object.entries(job.trellis).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`),
    new Date(job.created * 1000).toLocaleString(),
  ];
  return element(
    "div",
    { class: "summary" },
    element("p", { class: "row" }, element("span", { class: `badge ${kind}` }, word), more.filter(Boolean).join(" · ")),
    job.reasons.length > 0 && element("ul", { class: "why" }, job.reasons.map((reason) => element("li", {}, reason))),
    job.error && job.state !== "CANCELLED" && element("p", { class: "problem" }, job.error),
    !ended(job) && element("p", {}, describe(job)),
  );
}
