// A splat in a canvas, drawn by the viewer library of scripts/page. Knows nothing of jobs.
// Loaded on demand: without the library this module cannot be loaded, and the page shows a turntable instead.

import { Camera, Matrix3, Quaternion, Scene, Splat, SplatData, Vector3, WebGLRenderer } from "./vendor/gsplat.js";

import { Orbit } from "./orbit.js";
import { readPly } from "./ply.js";

const FIELD_OF_VIEW = (49.1 * Math.PI) / 180; // of the judging views
const LARGEST = 1024; // pixels a side

// Shows the PLY in `canvas`, which must be square. failed(error): told when the graphics break later on.
// Returns { dispose() }. Throws an Error where the file is not ours or the browser has no WebGL2.
export function show(canvas, buffer, failed) {
  const read = readPly(buffer);
  if (!canvas.getContext("webgl2", { antialias: false })) throw new Error("this browser has no WebGL2");
  const renderer = new WebGLRenderer(canvas, []);
  // once and for all: the library sets the focal length when it starts, not when the size changes
  const side = Math.min(LARGEST, Math.max(64, Math.round(canvas.clientWidth * devicePixelRatio)));
  renderer.setSize(side, side);
  canvas.style.removeProperty("background"); // the style sheet has it
  const camera = new Camera();
  camera.data.fx = camera.data.fy = side / 2 / Math.tan(FIELD_OF_VIEW / 2);
  const scene = new Scene();
  scene.addObject(new Splat(new SplatData(read.count, read.means, read.quats, read.scales, read.colors)));
  return new Showing(canvas, renderer, scene, camera, failed);
}

class Showing {
  constructor(canvas, renderer, scene, camera, failed) {
    Object.assign(this, { canvas, renderer, scene, camera, waiting: false, disposed: false });
    this.orbit = new Orbit(canvas, () => this.request());
    this.draw();
    // the library sorts in a worker: each answer is another order, worth another picture
    renderer.renderProgram.worker.addEventListener("message", () => this.request());
    renderer.renderProgram.worker.addEventListener("error", () => failed(new Error("the viewer's worker broke off")));
    canvas.addEventListener("webglcontextlost", () => this.disposed || failed(new Error("the graphics were lost")));
  }

  request() {
    if (this.waiting || this.disposed) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (!this.disposed) this.draw();
    });
  }

  draw() {
    aim(this.camera, this.orbit);
    this.renderer.render(this.scene, this.camera);
    const sorted = this.renderer.renderProgram.depthIndex.length > 0;
    this.canvas.dataset.state = sorted ? "shown" : "sorting";
    if (!sorted) this.request(); // the library packs the splat when its own code is ready, and does not say when
  }

  dispose() {
    this.disposed = true;
    this.orbit.dispose();
    this.renderer.dispose();
    this.renderer.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

// The camera of app/splat/cameras.py: x right, y down, z forward, looking at the origin; +Y of the world is up.
function aim(camera, { azimuth, pitch, radius }) {
  const a = (azimuth * Math.PI) / 180;
  const e = (pitch * Math.PI) / 180;
  const right = [Math.cos(a), 0, -Math.sin(a)];
  const forward = [-Math.cos(e) * Math.sin(a), Math.sin(e), -Math.cos(e) * Math.cos(a)];
  const down = cross(forward, right);
  const rows = [0, 1, 2].flatMap((axis) => [right[axis], down[axis], forward[axis]]);
  camera.position = new Vector3(...forward.map((part) => -radius * part));
  camera.rotation = Quaternion.FromMatrix3(new Matrix3(...rows));
}

function cross([ax, ay, az], [bx, by, bz]) {
  return [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx];
}
