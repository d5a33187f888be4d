// A splat drawn in a canvas by Spark (three.js), with the settings that reproduce gsplat's classic rasterization.
// Knows nothing of jobs, pages and pointers. Without the files of scripts/page this module cannot be loaded.

import { SparkRenderer, SplatMesh, utils } from "./vendor/spark.js";
import { Color, ColorManagement, PerspectiveCamera, Scene, WebGLRenderer } from "./vendor/three.module.js";

const LOW_PASS = 0.3; // px²: gsplat adds it to the covariance of every projected Gaussian
const MIN_ALPHA = 1 / 255; // gsplat skips what is fainter
const MAX_STD_DEV = Math.sqrt(-2 * Math.log(MIN_ALPHA)); // where an opaque Gaussian reaches MIN_ALPHA
const LARGEST = 2048; // pixels per side
const RELEASE_MS = 50;
const BACKGROUNDS = { white: 0xffffff, grey: 0x808080, black: 0x000000 };

ColorManagement.enabled = false; // colours are shown as they are, like gsplat's

export class SplatScene {
  // judging: settings.judging of the page. failed(error): called if the graphics are lost.
  // Throws an Error if the browser has no WebGL2.
  constructor(canvas, judging, failed) {
    if (!canvas.getContext("webgl2", { antialias: false, alpha: true })) throw new Error("this browser has no WebGL2");
    Object.assign(this, { canvas, judging, mesh: null, waiting: false, disposed: false, mode: "judged" });
    this.renderer = new WebGLRenderer({ canvas, antialias: false, alpha: true });
    this.spark = new SparkRenderer({
      renderer: this.renderer, onDirty: () => this.request(), preBlurAmount: LOW_PASS, blurAmount: 0, sortRadial: false,
      maxStdDev: MAX_STD_DEV, minAlpha: MIN_ALPHA, maxPixelRadius: LARGEST, accumExtSplats: true, enableLod: false,
    });
    this.scene = new Scene();
    this.scene.add(this.spark);
    this.camera = new PerspectiveCamera(judging.fov, 1, 0.01, 100);
    this.place = { azimuth: 0, pitch: 0, radius: judging.radius, target: [0, 0, 0] };
    this.setBackground("white");
    canvas.addEventListener("webglcontextlost", () => this.disposed || failed(new Error("the graphics were lost")));
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(canvas);
    this.resize();
  }

  // bytes: a PLY or SPZ. Rejects if Spark cannot read it.
  async load(bytes, name) {
    const mesh = new SplatMesh({
      fileBytes: new Uint8Array(bytes), fileName: name, extSplats: true, lod: false, raycastable: false,
    });
    await mesh.initialized;
    if (this.disposed) return mesh.dispose();
    this.mesh = mesh;
    this.opacities = Float32Array.from({ length: mesh.extSplats.numSplats }, (_, i) =>
      utils.fromHalf(mesh.extSplats.extArrays[0][4 * i + 3] & 0xffff),
    );
    this.placement = judgePlacement(mesh.extSplats, this.judging);
    mesh.scale.setScalar(this.placement.scale);
    mesh.position.setScalar(this.placement.offset);
    this.scene.add(mesh);
    this.setMode(this.mode);
  }

  // "judged": degree-0 colours and the opacities of the judge's placement, with a low-pass of the size that it has in
  // the judged view. "file": everything as it is in the file.
  setMode(mode) {
    this.mode = mode;
    this.setLowPass();
    if (!this.mesh) return;
    const { extSplats } = this.mesh;
    const factor = mode === "judged" ? this.placement.opacityFactor : 1;
    const packed = extSplats.extArrays[0];
    this.opacities.forEach((opacity, i) => {
      const kept = Number.isFinite(opacity) ? Math.min(1, opacity * factor) : 0;
      packed[4 * i + 3] = (packed[4 * i + 3] & 0xffff0000) | utils.toHalf(kept);
    });
    extSplats.textures[0].needsUpdate = true;
    this.mesh.maxSh = mode === "judged" ? 0 : 3;
    this.mesh.updateGenerator();
    this.mesh.updateVersion();
    this.request();
  }

  setLowPass() {
    const { size } = this.judging;
    const pixels = this.mode === "judged" ? this.canvas.height / size : 1; // of the canvas in one of the judged view
    this.spark.preBlurAmount = LOW_PASS * pixels * pixels;
  }

  // "white", "grey", "black", or "none": transparent, over what the style sheet puts behind the canvas.
  setBackground(name) {
    this.renderer.setClearColor(new Color(BACKGROUNDS[name] ?? 0), name in BACKGROUNDS ? 1 : 0);
    this.request();
  }

  // place: { azimuth, pitch (degrees), radius, target }: see app/splat/cameras.py.
  look(place) {
    this.place = place;
    this.request();
  }

  resize() {
    const ratio = Math.min(devicePixelRatio, LARGEST / Math.max(1, this.canvas.clientWidth, this.canvas.clientHeight));
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((px) => Math.round(px * ratio));
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.fov = this.camera.aspect < 1 ? widened(this.judging.fov, this.camera.aspect) : this.judging.fov;
    this.camera.updateProjectionMatrix();
    this.setLowPass();
    this.request();
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
    aim(this.camera, this.place);
    this.renderer.render(this.scene, this.camera);
    const { sorting, sortDirty, activeSplats } = this.spark;
    this.canvas.dataset.state = sorting || sortDirty || !activeSplats ? "sorting" : "shown"; // as drawn just now
  }

  // A PNG of what is shown, as a Blob.
  screenshot() {
    this.draw(); // the buffer is empty once the browser has shown it
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }

  dispose() {
    this.disposed = true;
    this.resizing.disconnect();
    this.release();
  }

  // Spark reports a sort that is cut short as an error that nobody can catch.
  async release() {
    while (this.spark.sorting) await new Promise((resolve) => setTimeout(resolve, RELEASE_MS));
    this.mesh?.dispose();
    this.spark.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}

// A camera at azimuth and pitch about the target; at the poles "up" is taken from the azimuth.
function aim(camera, { azimuth, pitch, radius, target }) {
  const a = (azimuth * Math.PI) / 180;
  const e = (pitch * Math.PI) / 180;
  const away = [Math.cos(e) * Math.sin(a), -Math.sin(e), Math.cos(e) * Math.cos(a)];
  camera.position.set(...target.map((at, axis) => at + radius * away[axis]));
  camera.up.set(Math.sin(e) * Math.sin(a), Math.cos(e), Math.sin(e) * Math.cos(a));
  camera.lookAt(...target);
}

// The vertical field of view, degrees, at which the horizontal one is `fov`.
function widened(fov, aspect) {
  return (2 * 180 * Math.atan(Math.tan((fov * Math.PI) / 360) / aspect)) / Math.PI;
}

// app/splat/cameras.py, judge_placement: the longest side of the box of all centres becomes `extent`; one offset for all
// axes, the mean of all coordinates; opacities are divided by the scale. Centres that are not finite are ignored.
function judgePlacement({ extArrays, numSplats }, { placement, extent }) {
  if (placement !== "judge") return { scale: 1, offset: 0, opacityFactor: 1 };
  const centres = new Float32Array(extArrays[0].buffer, extArrays[0].byteOffset, 4 * numSplats);
  const [low, high] = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
  let [sum, count] = [0, 0];
  for (let at = 0; at < centres.length; at += 4) {
    const total = centres[at] + centres[at + 1] + centres[at + 2];
    if (!Number.isFinite(total)) continue;
    sum += total;
    count++;
    for (let axis = 0; axis < 3; axis++) {
      const value = centres[at + axis];
      if (value < low[axis]) low[axis] = value;
      if (value > high[axis]) high[axis] = value;
    }
  }
  const longest = Math.max(0, ...high.map((value, axis) => value - low[axis]));
  const scale = longest > 1e-12 ? extent / longest : 1;
  return { scale, offset: count ? (-scale * sum) / (3 * count) : 0, opacityFactor: 1 / scale };
}
