// The controls of one viewer, or of several with one camera.

import { button, element, say } from "./dom.js";

const MODES = { judged: "As judged", file: "As in the file" };
const BACKGROUNDS = { white: "White", grey: "Grey", black: "Black", checker: "Checker" };

// viewers: what the controls change. orbit: their camera. more: further buttons.
export function toolbar(viewers, orbit, ...more) {
  const rotate = button("Rotate", () => orbit.spin(!orbit.spinning), { "aria-pressed": "false" });
  orbit.spun = (on) => rotate.setAttribute("aria-pressed", String(on));
  return element(
    "div",
    { class: "tools", role: "group", "aria-label": "Viewer" },
    choice("Colours", MODES, (mode) => viewers.forEach((viewer) => viewer.setMode(mode))),
    choice("Background", BACKGROUNDS, (name) => viewers.forEach((viewer) => viewer.setBackground(name))),
    rotate,
    button("Reset", () => orbit.reset()),
    ...more,
  );
}

// A button that fills the screen with an element, and leaves full screen again. failed(error): if the browser refuses.
export function fullScreenButton(root, failed) {
  const made = button("Full screen", () => {
    if (document.fullscreenElement) return document.exitFullscreen();
    return root.requestFullscreen().catch(failed);
  });
  root.addEventListener("fullscreenchange", () => say(made, document.fullscreenElement ? "Exit full screen" : "Full screen"));
  return made;
}

// A drop-down list with a hidden label. choices: { value: words }.
function choice(label, choices, changed) {
  const options = Object.entries(choices).map(([value, words]) => element("option", { value }, words));
  return element("select", { "aria-label": label, onchange: (event) => changed(event.target.value) }, options);
}
