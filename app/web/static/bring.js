// Files that are dropped, pasted or chosen: a picture goes into the form, a splat is inspected and repaired.

import * as api from "./api.js";
import { element, say } from "./dom.js";
import { count, fileWords, findingWords } from "./words.js";

const SPLAT = /\.(ply|spz)$/i;

export class Bring {
  // usePicture(file): of the form. compare: the dialog that shows before and after.
  constructor(settings, { usePicture, compare }) {
    Object.assign(this, { settings, usePicture, compare });
    this.status = document.getElementById("bring-status");
    this.field = document.getElementById("splat");
    this.field.addEventListener("change", () => this.take([...this.field.files]));
    addEventListener("dragover", (event) => this.over(event));
    addEventListener("dragleave", (event) => event.relatedTarget || this.mark(false));
    addEventListener("drop", (event) => {
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      this.mark(false);
      this.take([...event.dataTransfer.files]);
    });
    addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) this.take(files);
    });
  }

  over(event) {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    this.mark(true);
  }

  mark(on) {
    document.body.classList.toggle("dropping", on);
  }

  take([file]) {
    if (!file) return;
    if (file.type.startsWith("image/")) this.usePicture(file);
    else if (SPLAT.test(file.name)) this.inspect(file);
    else say(this.status, `${file.name} is neither a picture nor a splat: use PNG, JPEG, PLY or SPZ.`);
  }

  async inspect(file) {
    say(this.status, `Inspecting ${file.name}…`);
    try {
      const { job, report } = await api.repair(file);
      say(this.status, "");
      this.show(file, job, report);
    } catch (problem) {
      say(this.status, `${file.name}: ${problem.message}`);
    }
    this.field.value = "";
  }

  show(file, job, report) {
    const before = { words: report.changed ? "Before" : "As it is", read: async () => ({ bytes: await file.arrayBuffer(), name: file.name }) };
    const name = job.assets.find((asset) => asset.startsWith("asset."));
    const after = { words: "After the repair", read: async (progress) => ({ bytes: await api.file(job, name, progress), name }) };
    this.compare.open(file.name, report.changed ? [before, after] : [before], ...findings(report), links(job, report));
  }
}

function findings({ diagnosis, gaussians_in: from, gaussians_out: to, findings_left: left, changed }) {
  const found = diagnosis.findings.map((finding) =>
    element("li", {}, findingWords(finding), " ", element("span", { class: "quiet" }, finding.message)),
  );
  const words = changed
    ? `${count(from)} Gaussians before the repair, ${count(to)} after it.`
    : `${count(from)} Gaussians.`;
  return [
    element("h3", {}, found.length ? "Findings" : "No faults found"),
    found.length > 0 && element("ul", {}, found),
    element("p", { class: "quiet" }, words),
    left.length > 0 && element("p", { class: "problem" }, `Not repaired: ${left.join(", ")}.`),
  ].filter(Boolean);
}

function links(job, { changed }) {
  const names = job.assets.filter((name) => name === "report.json" || (changed && name.startsWith("asset.")));
  const list = names.map((name) => element("a", { class: "button", href: api.asset(job, name), download: true }, `Download: ${fileWords(name)}`));
  return element("p", { class: "row" }, list);
}
