// The dialog that shows one job under an address of its own, #job=ID, with its neighbours.

import * as api from "./api.js";
import { button, element } from "./dom.js";
import { Progress } from "./progress.js";
import { Result } from "./result.js";
import { ended, title } from "./words.js";

const ADDRESS = /^#job=([0-9a-zA-Z-]+)$/;

export class Details {
  // actions: of Result. neighbours(id): { before, after }, the ids of the results beside it, or null.
  constructor(dialog, settings, actions, neighbours) {
    Object.assign(this, { dialog, neighbours, id: null, stop: () => {} });
    const removed = (job) => {
      this.close();
      actions.removed(job);
    };
    const leaving = (name) => (...given) => {
      this.close();
      return actions[name](...given);
    };
    this.result = new Result(settings, { ...actions, removed, again: leaving("again"), reuse: leaving("reuse") });
    this.title = element("h2", { id: "details-title" });
    this.body = element("div");
    this.before = button("‹", () => this.step("before"), { "aria-label": "Previous result", title: "Previous (←)" });
    this.after = button("›", () => this.step("after"), { "aria-label": "Next result", title: "Next (→)" });
    this.closeButton = button("Close", () => this.close());
    const buttons = element("div", { class: "row" }, this.before, this.after, this.closeButton);
    dialog.append(element("div", { class: "row between top" }, this.title, buttons), this.body);
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    dialog.addEventListener("click", (event) => event.target === dialog && this.close()); // beside it
    // not on the dialog: a button that is disabled while it has the focus gives it to the document
    addEventListener("keydown", (event) => dialog.open && this.key(event));
    addEventListener("popstate", () => this.followAddress());
  }

  // Opens what the address names, and closes the dialog if it names nothing: so Back closes it.
  followAddress() {
    const id = ADDRESS.exec(location.hash)?.[1];
    if (id) this.show(id);
    else if (this.dialog.open) this.hide();
  }

  open(id) {
    const address = `#job=${id}`;
    if (this.dialog.open) history.replaceState(history.state, "", address); // a neighbour: Back leaves the dialog
    else history.pushState({ dialog: true }, "", address);
    this.followAddress();
  }

  // At once, because what comes next may set the focus; the address follows.
  close() {
    this.hide();
    if (history.state?.dialog) history.back();
    else history.replaceState(null, "", location.pathname); // the page was opened at this address
  }

  hide() {
    this.leave();
    this.dialog.close();
  }

  leave() {
    this.id = null;
    this.stop();
    this.result.dispose();
  }

  async show(id) {
    if (this.id === id) return;
    this.leave();
    this.id = id;
    this.fill("…", element("p", { role: "status" }, "Loading…"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const job = await api.job(id);
      if (this.id === id) this.fillWith(job);
    } catch (problem) {
      if (this.id === id) this.fill("Not found", element("p", { class: "problem" }, problem.message));
    }
  }

  fillWith(job) {
    this.result.show(job);
    if (ended(job)) return this.fill(title(job), this.result.root);
    const progress = new Progress(job);
    this.fill(title(job), progress.root, this.result.root);
    const gone = () => this.id === job.id && this.fill("Not found", element("p", { class: "problem" }, "This job was deleted."));
    this.stop = api.follow(job.id, (changed) => this.id === changed.id && this.update(changed, progress), gone);
  }

  // Until the job has ended only its progress changes, so that the focus stays where it is.
  update(job, progress) {
    const focused = this.body.contains(document.activeElement);
    progress.update(job);
    if (!ended(job)) return;
    progress.root.classList.add("hidden"); // the result says it; a screen reader still reads it
    this.result.show(job);
    if (focused) this.closeButton.focus(); // what had the focus is gone
  }

  // The title and the buttons stay, and with them the focus.
  fill(words, ...content) {
    this.title.textContent = words;
    this.body.replaceChildren(...content);
    this.showNeighbours();
  }

  showNeighbours() {
    const { before, after } = this.neighbours(this.id);
    this.before.disabled = !before;
    this.after.disabled = !after;
  }

  step(direction) {
    const id = this.neighbours(this.id)[direction];
    if (id) this.open(id);
  }

  key(event) {
    if (["INPUT", "SELECT", "VIDEO"].includes(event.target.tagName) || event.altKey || event.ctrlKey) return;
    if (event.key === "ArrowLeft") this.step("before");
    if (event.key === "ArrowRight") this.step("after");
  }
}
