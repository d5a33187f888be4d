// The results: filtered, searched and sorted by the server; selected to be downloaded, compared or deleted.

import * as api from "./api.js";
import { arrange, element, say } from "./dom.js";
import { FAILED, ended, facts, failure, listed, title, verdict } from "./words.js";

const PAGE = 24;
const MOST = 192; // on the page at once
const TYPING_MS = 300;
const FILTERS = {
  all: { state: ["DONE", ...FAILED] },
  passed: { outcome: "passed" },
  refused: { outcome: "refused" },
  failed: { state: FAILED },
  cancelled: { state: "CANCELLED" },
  starred: { starred: true },
};

export class Gallery {
  // open(id): shows a job. compare(jobs). deleted(): after some were deleted.
  constructor(section, { open, compare }) {
    Object.assign(this, { section, open, compare, jobs: [], cards: new Map(), selected: new Set() });
    Object.assign(this, { filter: "all", kind: "generate", text: "", order: "newest", shown: PAGE, before: null, next: null, queued: 0 });
    const find = (id) => document.getElementById(id);
    [this.list, this.empty, this.older, this.newest, this.problem] = ["cards", "empty", "older", "newest", "gallery-problem"].map(find);
    this.selection = find("selection");
    find("filter").addEventListener("change", (event) => this.change({ filter: event.target.value }));
    find("kind").addEventListener("change", (event) => this.change({ kind: event.target.value }));
    find("sort").addEventListener("change", (event) => this.change({ order: event.target.value }));
    find("search").addEventListener("input", (event) => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.change({ text: event.target.value }), TYPING_MS);
    });
    this.older.addEventListener("click", () => this.showOlder());
    this.newest.addEventListener("click", () => this.change({}));
    this.listenToSelection();
  }

  change(values) {
    Object.assign(this, values, { shown: PAGE, before: null });
    return this.try(() => this.load());
  }

  showOlder() {
    if (this.shown < MOST) this.shown += PAGE;
    else Object.assign(this, { before: this.next, shown: PAGE });
    return this.try(() => this.load());
  }

  // Everything that is shown, anew: what was deleted meanwhile is gone.
  async load() {
    const asked = (this.asked = {});
    const { text: q, order, shown: limit, before } = this;
    const page = await api.list({ kind: this.kind, ...FILTERS[this.filter], q, order, limit, before });
    if (this.asked !== asked) return; // a later request has been made
    this.jobs = page.jobs.filter(ended);
    this.next = page.next;
    this.draw();
  }

  neighbours(id) {
    const at = this.jobs.findIndex((job) => job.id === id);
    return { before: this.jobs[at - 1]?.id ?? null, after: at < 0 ? null : this.jobs[at + 1]?.id ?? null };
  }

  draw() {
    const there = new Set(this.jobs.map((job) => job.id));
    for (const id of [...this.cards.keys()]) if (!there.has(id)) this.cards.delete(id);
    for (const id of [...this.selected]) if (!there.has(id)) this.selected.delete(id);
    say(this.empty, this.jobs.length ? "" : this.emptyWords());
    this.older.hidden = !this.next;
    this.newest.hidden = !this.before;
    arrange(this.list, this.jobs.map((job) => this.card(job)));
    this.drawSelection();
  }

  emptyWords() {
    if (this.filter !== "all" || this.kind !== "generate" || this.text.trim()) return "No match.";
    return this.queued ? "No results yet. The jobs in progress will appear here." : "No results yet. Enter a prompt above.";
  }

  card(job) {
    const known = this.cards.get(job.id);
    if (known?.version === job.version) return known.element;
    const box = element("input", {
      type: "checkbox", checked: this.selected.has(job.id), "aria-label": `Select “${title(job)}”, seed ${job.seed}`,
      onchange: (event) => this.select(job.id, event.target.checked),
    });
    const made = element("li", { "data-job": job.id }, cardOf(job, () => this.open(job.source ?? job.id)), element("label", { class: "select" }, box));
    this.cards.set(job.id, { version: job.version, element: made });
    return made;
  }

  // ---- the selection --------------------------------------------------------------------------------------------

  listenToSelection() {
    const on = (name, action) => this.selection.querySelector(`[name=${name}]`).addEventListener("click", action);
    on("compare", () => this.compare(this.chosen().filter(api.splat)));
    on("clear", () => this.clearSelection());
    on("delete", () => this.removeChosen());
    this.zip = this.selection.querySelector("a");
    this.counted = this.selection.querySelector("[role=status]");
    this.compareButton = this.selection.querySelector("[name=compare]");
  }

  chosen() {
    return this.jobs.filter((job) => this.selected.has(job.id));
  }

  select(id, on) {
    if (on) this.selected.add(id);
    else this.selected.delete(id);
    this.drawSelection();
  }

  clearSelection() {
    this.selected.clear();
    for (const box of this.list.querySelectorAll("input:checked")) box.checked = false;
    this.drawSelection();
  }

  drawSelection() {
    const many = this.selected.size;
    this.selection.hidden = !many;
    say(this.counted, `${many} selected`);
    const splats = this.chosen().filter(api.splat);
    this.zip.hidden = !splats.length;
    this.zip.href = api.archive(splats.map((job) => job.id));
    this.compareButton.disabled = splats.length < 2 || splats.length > 4;
  }

  removeChosen() {
    const ids = [...this.selected];
    if (!confirm(`Delete ${ids.length === 1 ? "this result" : `these ${ids.length} results`} with all files?`)) return;
    this.try(async () => {
      await Promise.all(ids.map((id) => api.remove(id)));
      await this.load();
    });
  }

  async try(action) {
    say(this.problem, "");
    await action().catch((problem) => say(this.problem, problem.message));
  }
}

function cardOf(job, open) {
  const { word, kind } = verdict(job);
  const why = failure(job) || job.reasons.join("; ");
  return element(
    "button",
    { type: "button", class: "card", onclick: open },
    job.assets.includes("views.png") &&
      element("img", { src: api.asset(job, "views.png"), alt: "", loading: "lazy", width: "2072", height: "518" }),
    element("span", { class: "prompt" }, job.starred && "★ ", title(job)),
    element("span", { class: "row" }, element("span", { class: `badge ${kind}` }, word), element("span", { class: "quiet" }, listed(facts(job)))),
    why && element("span", { class: "why" }, why),
  );
}
