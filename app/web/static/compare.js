// Two to four splats side by side, with one camera.

import { element, say } from "./dom.js";
import { Orbit } from "./orbit.js";
import { Viewer, button } from "./viewer.js";

export class Compare {
  constructor(dialog, settings) {
    Object.assign(this, { dialog, settings, viewers: [], orbit: null });
    this.title = element("h2", { id: "compare-title" });
    this.body = element("div");
    const close = button("Close", () => dialog.close());
    dialog.append(element("div", { class: "row between top" }, this.title, close), this.body);
    dialog.addEventListener("close", () => this.leave());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  // sides: [{ words, read }], read as Viewer.show takes it. more: elements below.
  open(words, sides, ...more) {
    this.leave();
    say(this.title, words);
    if (!this.settings.viewer) sides = [];
    this.viewers = sides.map(() => new Viewer("", this.settings.judging, () => {}));
    const start = this.settings.judging;
    this.orbit = new Orbit({ ...start.views[0], radius: start.radius }, (orbit) => this.look(orbit));
    const columns = sides.map(({ words: caption }, index) => {
      const viewer = this.viewers[index];
      viewer.canvas.setAttribute("aria-label", caption);
      viewer.follow(this.orbit);
      return element("figure", {}, element("figcaption", {}, caption), viewer.root);
    });
    this.body.replaceChildren(element("div", { class: "compared" }, columns), ...more);
    if (!this.dialog.open) this.dialog.showModal();
    this.load(sides);
  }

  // One after the other: in parallel they would only compete for the processor.
  async load(sides) {
    for (const [index, { read }] of sides.entries()) {
      const viewer = this.viewers[index];
      await viewer?.show(read).catch((error) => say(viewer.note, `It cannot be shown: ${error.message}.`));
    }
  }

  look(orbit) {
    for (const viewer of this.viewers) viewer.scene?.look(orbit);
  }

  leave() {
    this.orbit?.dispose();
    for (const viewer of this.viewers) viewer.dispose();
    this.viewers = [];
  }
}
