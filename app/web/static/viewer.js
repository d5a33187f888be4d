// The viewer: a canvas with a splat, and the controls around it. Knows nothing of jobs.

import { element, save, say } from "./dom.js";
import { Orbit } from "./orbit.js";

const BACKGROUNDS = { white: "White", grey: "Grey", black: "Black", checker: "Checker" };

const HELP =
  "Drag or use the arrow keys to turn. Drag with the right button, with Shift or with two fingers to move. " +
  "Use the wheel, two fingers or + and − to zoom, Home to reset.";

export class Viewer {
  // label: of the canvas, for screen readers. judging: settings.judging. failed(error): if the graphics fail later on.
  constructor(label, judging, failed) {
    Object.assign(this, { judging, failed, scene: null, disposed: false });
    this.canvas = element("canvas", {
      tabindex: "0", role: "application", "aria-roledescription": "3D viewer", "aria-label": label, title: HELP,
    });
    this.note = element("p", { class: "quiet", role: "status" });
    this.frame = element("div", { class: "canvas", "data-background": "white" }, this.canvas);
    this.root = element("div", { class: "viewer" }, this.frame, this.toolbar(), this.note);
    this.orbit = this.ownOrbit = new Orbit(startOf(judging), (orbit) => this.scene?.look(orbit));
    this.orbit.attach(this.canvas);
  }

  // Several viewers with one orbit move together.
  follow(orbit) {
    this.orbit = orbit;
    orbit.attach(this.canvas);
  }

  // read(progress): resolves to { bytes, name } of a PLY or SPZ. Rejects with an Error that says what failed.
  async show(read) {
    say(this.note, "Loading the splat…");
    const loading = read((share) => say(this.note, `Loading the splat, ${Math.round(share * 100)} %`));
    const [{ SplatScene }, { bytes, name }] = await Promise.all([import("./splat_scene.js"), loading]);
    if (this.disposed) return;
    this.scene = new SplatScene(this.canvas, this.judging, this.failed);
    this.scene.look(this.orbit);
    await this.scene.load(bytes, name);
    say(this.note, "");
  }

  moveTo(view) {
    this.spinButton.setAttribute("aria-pressed", "false");
    this.orbit.moveTo({ ...view, radius: this.judging.radius });
  }

  dispose() {
    this.disposed = true;
    this.ownOrbit.dispose();
    this.scene?.dispose();
  }

  // ---- controls -------------------------------------------------------------------------------------------------

  toolbar() {
    this.spinButton = toggle("Rotate", (on) => this.orbit.spin(on));
    this.canvas.addEventListener("pointerdown", () => {
      this.orbit.stop();
      this.spinButton.setAttribute("aria-pressed", "false");
    });
    const mode = choice("Colours", { judged: "As judged", file: "As in the file" }, (value) => this.scene?.setMode(value));
    const background = choice("Background", BACKGROUNDS, (value) => {
      this.frame.dataset.background = value;
      this.scene?.setBackground(value);
    });
    return element(
      "div",
      { class: "tools", role: "group", "aria-label": "Viewer" },
      mode,
      background,
      this.spinButton,
      button("Reset", () => this.moveTo(startOf(this.judging))),
      button("Screenshot", () => this.screenshot()),
      button("Full screen", () => this.fullScreen()),
    );
  }

  async screenshot() {
    const picture = await this.scene?.screenshot();
    if (!picture) return;
    save(picture, "splat.png");
  }

  fullScreen() {
    if (document.fullscreenElement) return document.exitFullscreen();
    return this.root.requestFullscreen().catch((error) => say(this.note, `Full screen is not available: ${error.message}`));
  }
}

function startOf({ views, radius }) {
  return { azimuth: views[0].azimuth, pitch: views[0].pitch, radius };
}

export function button(words, onclick, attributes = {}) {
  return element("button", { type: "button", class: "plain", onclick, ...attributes }, words);
}

function toggle(words, changed) {
  const made = button(words, () => {
    const on = made.getAttribute("aria-pressed") !== "true";
    made.setAttribute("aria-pressed", String(on));
    changed(on);
  }, { "aria-pressed": "false" });
  return made;
}

// A drop-down list with a hidden label. choices: { value: words }.
export function choice(label, choices, changed) {
  const options = Object.entries(choices).map(([value, words]) => element("option", { value }, words));
  return element("select", { "aria-label": label, onchange: (event) => changed(event.target.value) }, options);
}
