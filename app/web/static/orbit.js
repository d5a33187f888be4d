// A camera on an orbit, moved by pointer, wheel and keys. Knows neither splats nor WebGL.

const NEAREST = 0.2;
const FARTHEST = 20;
const STEP = 10; // degrees a key press
const PAN_STEP = 0.05; // of the radius, a key press
const SPIN = 24; // degrees a second
const MOVE_MS = 350;
const LINE = 16; // px, for a wheel that counts lines
const ZOOM_PER_PIXEL = 0.0015;
const PINCH_PER_PIXEL = 0.01; // a trackpad's pinch arrives as a wheel with the control key, in small steps

const KEYS = {
  ArrowLeft: (orbit) => orbit.turn(-STEP, 0),
  ArrowRight: (orbit) => orbit.turn(STEP, 0),
  ArrowUp: (orbit) => orbit.turn(0, -STEP),
  ArrowDown: (orbit) => orbit.turn(0, STEP),
  "+": (orbit) => orbit.zoom(0.9),
  "=": (orbit) => orbit.zoom(0.9),
  "-": (orbit) => orbit.zoom(1 / 0.9),
  Home: (orbit) => orbit.reset(),
};
const SHIFTED = {
  ArrowLeft: (orbit) => orbit.pan(PAN_STEP, 0),
  ArrowRight: (orbit) => orbit.pan(-PAN_STEP, 0),
  ArrowUp: (orbit) => orbit.pan(0, PAN_STEP),
  ArrowDown: (orbit) => orbit.pan(0, -PAN_STEP),
};

export class Orbit {
  // start: { azimuth, pitch, radius }: degrees (negative pitch is above) and world units. changed(orbit): after a move.
  constructor(start, changed) {
    Object.assign(this, { start, changed, spinning: false, spun: () => {}, motion: 0, pointers: new Map() });
    Object.assign(this, start, { target: [0, 0, 0] });
    this.listening = new AbortController();
  }

  // Makes an element move the camera. It must be focusable for the keys.
  attach(element) {
    const listen = (name, handler, options = {}) =>
      element.addEventListener(name, handler, { signal: this.listening.signal, ...options });
    listen("pointerdown", (event) => this.press(element, event));
    listen("pointermove", (event) => this.drag(element, event));
    for (const name of ["pointerup", "pointercancel"]) listen(name, (event) => this.pointers.delete(event.pointerId));
    listen("wheel", (event) => this.wheel(event), { passive: false });
    listen("keydown", (event) => this.key(event));
    listen("dblclick", () => this.reset());
    listen("contextmenu", (event) => event.preventDefault()); // the right button pans
  }

  dispose() {
    this.stop();
    this.listening.abort();
  }

  // ---- moves ----------------------------------------------------------------------------------------------------

  turn(azimuth, pitch) {
    this.azimuth += azimuth;
    this.pitch = Math.min(89, Math.max(-89, this.pitch + pitch));
    this.changed(this);
  }

  zoom(factor) {
    this.radius = Math.min(FARTHEST, Math.max(NEAREST, this.radius * factor));
    this.changed(this);
  }

  // right, up: how far the object moves in the picture, as a share of the distance to it.
  pan(right, up) {
    const [a, e] = [(this.azimuth * Math.PI) / 180, (this.pitch * Math.PI) / 180];
    const sideways = [Math.cos(a), 0, -Math.sin(a)];
    const upwards = [Math.sin(e) * Math.sin(a), Math.cos(e), Math.sin(e) * Math.cos(a)];
    this.target = this.target.map((at, axis) => at - this.radius * (right * sideways[axis] + up * upwards[axis]));
    this.changed(this);
  }

  reset() {
    this.moveTo(this.start);
  }

  // Moves to a view, by the shorter way, about the origin; immediately if the user prefers reduced motion.
  moveTo(view) {
    this.stop();
    const from = { azimuth: this.azimuth, pitch: this.pitch, radius: this.radius, target: this.target };
    const turn = ((((view.azimuth - from.azimuth) % 360) + 540) % 360) - 180;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const began = performance.now();
    const step = (now) => {
      const share = still ? 1 : Math.min(1, Math.max(0, (now - began) / MOVE_MS));
      const eased = share * share * (3 - 2 * share);
      this.azimuth = share === 1 ? view.azimuth : from.azimuth + eased * turn;
      this.pitch = from.pitch + eased * (view.pitch - from.pitch);
      this.radius = from.radius + eased * (view.radius - from.radius);
      this.target = from.target.map((at) => at * (1 - eased));
      this.changed(this);
      if (share < 1) this.motion = requestAnimationFrame(step);
    };
    if (still) step(began);
    else this.motion = requestAnimationFrame(step);
  }

  // spun(on) is called when the rotation starts and ends.
  spin(on) {
    this.stop();
    if (!on) return;
    this.spinning = true;
    this.spun(true);
    let before = performance.now();
    const step = (now) => {
      this.turn((SPIN * Math.min(100, now - before)) / 1000, 0);
      before = now;
      this.motion = requestAnimationFrame(step);
    };
    this.motion = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this.motion);
    this.spinning = false;
    this.spun(false);
  }

  // ---- pointer, wheel, keys --------------------------------------------------------------------------------------

  press(element, event) {
    this.stop();
    element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  drag(element, event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [gap, many] = [this.gap(), this.pointers.size];
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const [right, down] = [event.clientX - before.x, event.clientY - before.y];
    const side = Math.min(element.clientWidth, element.clientHeight);
    if (many === 2) {
      if (gap) this.zoom(gap / this.gap());
      this.pan(right / side / 2, -down / side / 2); // each of the two fingers brings half
    } else if (event.shiftKey || event.buttons & 6) {
      this.pan(right / side, -down / side);
    } else {
      this.turn((-180 * right) / side, (-180 * down) / side); // across the picture is half a turn
    }
  }

  gap() {
    const [a, b] = [...this.pointers.values()];
    return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1);
    this.zoom(Math.exp(pixels * (event.ctrlKey ? PINCH_PER_PIXEL : ZOOM_PER_PIXEL)));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = (event.shiftKey && SHIFTED[event.key]) || KEYS[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation(); // the arrows also go to the neighbouring result
    move(this);
  }
}
