// The viewer: a canvas with a splat, and the controls around it. Knows nothing of jobs.

import { button, element, save, say } from "./dom.js";
import { Orbit } from "./orbit.js";
import { fullScreenButton, toolbar } from "./toolbar.js";

const HELP =
  "Drag or use the arrow keys to turn. Drag with the right button, with Shift or with two fingers to move. " +
  "Use the wheel, two fingers or + and − to zoom, Home to reset.";

export class Viewer {
  // label: of the canvas, for screen readers. judging: settings.judging. failed(error): if the graphics fail later on.
  // orbit: a camera that other viewers follow too; they share a toolbar. Without it the viewer has its own of both.
  constructor(label, judging, failed, orbit = null) {
    Object.assign(this, { judging, failed, scene: null, disposed: false, mode: "judged", background: "white" });
    this.canvas = element("canvas", {
      tabindex: "0", role: "application", "aria-roledescription": "3D viewer", "aria-label": label, title: HELP,
    });
    this.note = element("p", { class: "quiet", role: "status" });
    this.frame = element("div", { class: "canvas", "data-background": this.background }, this.canvas);
    this.root = element("div", { class: "viewer" }, this.frame);
    this.orbit = orbit ?? new Orbit(startOf(judging), (moved) => this.scene?.look(moved));
    this.orbit.attach(this.canvas);
    if (!orbit) this.root.append(this.ownToolbar());
    this.root.append(this.note);
  }

  ownToolbar() {
    const refused = (error) => say(this.note, `Full screen is not available: ${error.message}`);
    const screenshot = button("Screenshot", () => this.screenshot());
    return toolbar([this], this.orbit, screenshot, fullScreenButton(this.root, refused));
  }

  // read(progress): resolves to { bytes, name } of a PLY or SPZ. Rejects with an Error that says what failed.
  async show(read) {
    say(this.note, "Loading the splat…");
    const loading = read((share) => say(this.note, `Loading the splat, ${Math.round(share * 100)} %`));
    const [{ SplatScene }, { bytes, name }] = await Promise.all([drawing(), loading]);
    if (this.disposed) return;
    this.scene = new SplatScene(this.canvas, this.judging, this.failed);
    this.scene.look(this.orbit);
    this.scene.setMode(this.mode);
    this.scene.setBackground(this.background);
    await this.scene.load(bytes, name);
    say(this.note, "");
  }

  // "judged" or "file": see SplatScene.
  setMode(mode) {
    this.mode = mode;
    this.scene?.setMode(mode);
  }

  setBackground(name) {
    this.background = this.frame.dataset.background = name;
    this.scene?.setBackground(name);
  }

  moveTo(view) {
    this.orbit.moveTo({ ...view, radius: this.judging.radius });
  }

  async screenshot() {
    const picture = await this.scene?.screenshot();
    if (picture) save(picture, "splat.png");
  }

  dispose() {
    this.disposed = true;
    this.orbit.dispose();
    this.scene?.dispose();
  }
}

// The first judged view.
export function startOf({ views, radius }) {
  return { azimuth: views[0].azimuth, pitch: views[0].pitch, radius };
}

async function drawing() {
  return import("./splat_scene.js").catch(() => {
    throw new Error("its files could not be loaded");
  });
}
