// Two to four splats side by side, with one camera.

import { button, element, say } from "./dom.js";
import { Orbit } from "./orbit.js";
import { fullScreenButton, toolbar } from "./toolbar.js";
import { Viewer, startOf } from "./viewer.js";

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
    const { judging } = this.settings;
    this.orbit = new Orbit(startOf(judging), (orbit) => this.look(orbit));
    this.viewers = sides.map(({ words: caption }) => new Viewer(caption, judging, () => {}, this.orbit));
    this.body.replaceChildren(sides.length ? this.sideBySide(sides) : "", ...more);
    if (!this.dialog.open) this.dialog.showModal();
    this.load(sides);
  }

  sideBySide(sides) {
    const columns = sides.map(({ words }, index) =>
      element("figure", {}, element("figcaption", {}, words), this.viewers[index].root),
    );
    const root = element("div", { class: "comparison" }, element("div", { class: "compared" }, columns));
    const refused = (error) => say(this.viewers[0].note, `Full screen is not available: ${error.message}`);
    root.append(toolbar(this.viewers, this.orbit, fullScreenButton(root, refused)));
    return root;
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
