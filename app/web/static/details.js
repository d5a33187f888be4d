// One job in full: the splat to turn, its views with their scores, why it was refused, and its files.

import * as api from "./api.js";
import { count, element, ended, score, title, verdict } from "./dom.js";

const FILES = {
  "asset.ply": "Splat (PLY)",
  "asset.spz": "Splat, compressed (SPZ)",
  "certificate.json": "Certificate",
  "views.png": "Views",
  "picture.png": "Picture",
  "turntable.mp4": "Turntable film",
};

const HELP = "Drag or use the arrow keys to turn, the wheel, two fingers or + and − to zoom, Home to begin again.";

export class Details {
  constructor(dialog, settings) {
    Object.assign(this, { dialog, settings, viewer: null, stop: () => {} });
    this.title = element("h2", { id: "details-title" });
    this.body = element("div");
    const close = element("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close");
    dialog.append(element("div", { class: "row between" }, this.title, close), this.body);
    dialog.addEventListener("close", () => this.closed());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  }

  async open(id) {
    this.leave();
    this.id = id;
    this.fill("…", element("p", { role: "status" }, "Loading…"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const job = await api.job(id);
      if (this.id === id) this.show(job);
    } catch (problem) {
      this.fill("Not found", element("p", { class: "problem" }, problem.message));
    }
  }

  // The title and the button to close stay, and with them the focus.
  fill(title, ...content) {
    this.title.textContent = title;
    this.body.replaceChildren(...content);
  }

  show(job) {
    this.stage = element("div", { class: "stage" });
    this.side = element("div");
    const columns = element("div", { class: "columns" }, this.stage, this.side);
    this.fill(title(job), summary(job), columns);
    this.showSide(job);
    if (!job.assets.includes("asset.ply")) this.stage.remove();
    else if (this.settings.viewer) this.showSplat(job);
    else this.showFilm(job);
  }

  showSide(job) {
    this.side.replaceChildren(this.views(job) ?? "", this.files(job) ?? "");
  }

  // ---- the splat ------------------------------------------------------------------------------------------------

  async showSplat(job) {
    const canvas = element("canvas", {
      tabindex: "0",
      role: "application",
      "aria-roledescription": "3D viewer",
      "aria-label": `The splat of “${title(job)}”`,
      "aria-describedby": "viewer-help",
    });
    const note = element("p", { class: "quiet", role: "status" }, "Loading the splat…");
    this.stage.replaceChildren(canvas, note, element("p", { class: "quiet", id: "viewer-help" }, HELP));
    try {
      const [{ show }, ply] = await Promise.all([
        import("./viewer.js"),
        api.file(job, "asset.ply", (done) => (note.textContent = `Loading the splat, ${Math.round(done * 100)} %`)),
      ]);
      if (this.id !== job.id) return;
      this.viewer = show(canvas, ply, (error) => this.id === job.id && this.showFilm(job, error.message));
      note.textContent = "";
    } catch (error) {
      if (this.id === job.id) this.showFilm(job, error.message);
    }
  }

  // ---- the turntable, where the splat itself cannot be shown ----------------------------------------------------

  showFilm(job, why = "") {
    this.dropViewer();
    const reason = why && element("p", { class: "problem" }, `The 3D viewer does not work here: ${why}.`);
    const made = job.assets.includes("turntable.mp4");
    const instead = made ? film(job) : element("p", {}, "There is no turntable film of it yet; it can be made here.");
    this.stage.replaceChildren(instead, reason || "");
  }

  makeFilm(job) {
    const status = element("p", { role: "status", class: "quiet" });
    const button = element("button", { type: "button", class: "plain" }, "Make a turntable film");
    const fail = (why) => {
      status.textContent = why;
      button.disabled = false;
    };
    const order = async () => {
      button.disabled = true;
      status.textContent = "The film is being made…";
      const film = await api.submit({ kind: "turntable", source: job.id });
      this.stop = api.follow(film.id, (changed) => this.filming(job, changed, status, fail).catch(failed));
    };
    const failed = (problem) => fail(problem.message);
    button.addEventListener("click", () => order().catch(failed));
    return element("div", {}, button, status);
  }

  async filming(job, film, status, fail) {
    if (this.id !== job.id) return;
    if (film.fraction !== null) status.textContent = `The film is being made, ${Math.round(film.fraction * 100)} %`;
    if (ended(film) && film.state !== "DONE") fail(film.error || verdict(film).word);
    if (film.state !== "DONE") return;
    const filmed = await api.job(job.id);
    this.showSide(filmed);
    if (!this.viewer) this.showFilm(filmed);
  }

  // ---- pictures and files ---------------------------------------------------------------------------------------

  views(job) {
    if (!job.assets.includes("views.png")) return null;
    const names = this.settings.views;
    const figures = names.map((name, index) => {
      const alt = `“${title(job)}” seen from: ${name}`;
      const picture = element("img", { src: api.asset(job, "views.png"), alt });
      picture.style.objectPosition = `${names.length > 1 ? (100 * index) / (names.length - 1) : 0}% 0`;
      return element("figure", {}, picture, element("figcaption", {}, `${name} ${score(job.scores[index])}`));
    });
    return element("section", {}, element("h3", {}, "What was judged"), element("div", { class: "views" }, figures));
  }

  files(job) {
    const there = Object.entries(FILES).filter(([name]) => job.assets.includes(name));
    if (!there.length) return null;
    const links = there.map(([name, words]) =>
      element("li", {}, element("a", { href: api.asset(job, name), download: true }, words)),
    );
    const filmable = job.assets.includes("asset.ply") && !job.assets.includes("turntable.mp4");
    return element("section", {}, element("h3", {}, "Files"), element("ul", {}, links), filmable && this.makeFilm(job));
  }

  closed() {
    this.leave();
    if (location.hash.startsWith("#job=")) history.replaceState(null, "", location.pathname);
  }

  leave() {
    this.id = null;
    this.stop();
    this.dropViewer();
  }

  dropViewer() {
    this.viewer?.dispose();
    this.viewer = null;
  }
}

function film(job) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const label = `A film that goes once around the splat of “${title(job)}”`;
  const video = element("video", {
    src: api.asset(job, "turntable.mp4"), controls: true, loop: true, playsinline: true, "aria-label": label,
  });
  video.muted = true;
  video.autoplay = !still;
  return video;
}

function summary(job) {
  const { word, kind } = verdict(job);
  const badge = element("span", { class: `badge ${kind}` }, word);
  const facts = [
    job.score !== null && `score ${score(job.score)}`,
    job.gaussians !== null && `${count(job.gaussians)} gaussians`,
    `seed ${job.seed}`,
    job.attempts > 1 && `attempt ${job.attempt} of ${job.attempts}`,
    `profile ${job.profile}`,
    new Date(job.created * 1000).toLocaleString(),
  ];
  return element(
    "div",
    {},
    element("p", { class: "row" }, badge, facts.filter(Boolean).join(" · ")),
    job.reasons.length > 0 && element("ul", { class: "why" }, job.reasons.map((reason) => element("li", {}, reason))),
    job.error && element("p", { class: "problem" }, job.error),
  );
}
