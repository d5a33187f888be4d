// Drag, wheel, pinch and keys move a camera on an orbit about the origin. Knows neither splats nor WebGL.

const START = { azimuth: 0, pitch: -15, radius: 2.5 }; // degrees and world units: the first judging view
const NEAREST = 0.6;
const FARTHEST = 10;
const STEP = 10; // degrees a key press
const KEYS = {
  ArrowLeft: (o) => o.turn(-STEP, 0),
  ArrowRight: (o) => o.turn(STEP, 0),
  ArrowUp: (o) => o.turn(0, -STEP),
  ArrowDown: (o) => o.turn(0, STEP),
  "+": (o) => o.zoom(0.9),
  "=": (o) => o.zoom(0.9),
  "-": (o) => o.zoom(1 / 0.9),
  Home: (o) => o.reset(),
};

export class Orbit {
  // element: what the pointer is used on; it must be focusable for the keys. changed(): called after every move.
  constructor(element, changed) {
    Object.assign(this, START);
    this.changed = changed;
    this.pointers = new Map();
    this.listening = new AbortController();
    const listen = (name, handler, options = {}) =>
      element.addEventListener(name, handler, { signal: this.listening.signal, ...options });
    listen("pointerdown", (event) => this.press(element, event));
    listen("pointermove", (event) => this.drag(element, event));
    for (const name of ["pointerup", "pointercancel"]) listen(name, (event) => this.pointers.delete(event.pointerId));
    listen("wheel", (event) => this.wheel(event), { passive: false });
    listen("keydown", (event) => this.key(event));
    listen("dblclick", () => this.reset());
  }

  dispose() {
    this.listening.abort();
  }

  turn(azimuth, pitch) {
    this.azimuth += azimuth;
    this.pitch = Math.min(89, Math.max(-89, this.pitch + pitch)); // degrees; negative is above
    this.changed();
  }

  zoom(factor) {
    this.radius = Math.min(FARTHEST, Math.max(NEAREST, this.radius * factor));
    this.changed();
  }

  reset() {
    Object.assign(this, START);
    this.changed();
  }

  press(element, event) {
    element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  drag(element, event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const gap = this.gap();
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 2 && gap) {
      this.zoom(gap / this.gap());
      return;
    }
    const degrees = 180 / element.clientWidth; // across the picture is half a turn
    this.turn((before.x - event.clientX) * degrees, (before.y - event.clientY) * degrees);
  }

  gap() {
    const [a, b] = [...this.pointers.values()];
    return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
  }

  wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(Math.sign(event.deltaY) * 0.1));
  }

  key(event) {
    const move = event.ctrlKey || event.metaKey || event.altKey ? undefined : KEYS[event.key];
    if (!move) return;
    event.preventDefault();
    move(this);
  }
}
