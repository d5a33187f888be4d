// The form: prompt, picture, seed, attempts, and how many variations.

import { likeJob, submit } from "./api.js";
import { Cutout } from "./cutout.js";
import { element, say } from "./dom.js";
import { encoded, givenPicture } from "./picture.js";

const NEARLY_FULL = 0.8; // of the longest prompt: from here on its length is shown

export class Make {
  // submitted(jobs): called with the jobs of one press of the button.
  constructor(form, settings, submitted) {
    Object.assign(this, { form, settings, submitted, picture: null });
    this.fields = form.elements;
    this.problem = document.getElementById("make-error");
    this.counter = document.getElementById("prompt-count");
    this.preview = document.getElementById("picture-preview");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.fields.prompt.addEventListener("input", () => this.count());
    this.fields.picture?.addEventListener("change", (event) => this.usePicture(event.target.files[0] ?? null));
    document.getElementById("new-seed").addEventListener("click", () => this.drawSeed());
    for (const example of form.querySelectorAll(".example")) {
      example.addEventListener("click", () => this.fill({ prompt: example.textContent }));
    }
    this.drawSeed();
  }

  // Puts values into the form and the focus on the prompt.
  fill({ prompt, seed }) {
    this.fields.prompt.value = prompt;
    if (seed !== undefined) {
      this.fields.seed.value = seed;
      this.fields.lock.checked = true;
    }
    this.count();
    this.complain("");
    this.fields.prompt.focus();
    this.form.scrollIntoView({ block: "nearest" });
  }

  // Generates the prompt of a job again. next: with the seeds after its own; else with its own.
  async again(job, { count, next }) {
    const order = likeJob(job);
    try {
      const picture = await givenPicture(job);
      if (picture) order.picture = await encoded(picture);
    } catch (problem) {
      return this.complain(problem.message);
    }
    await this.order(order, job.seed + (next ? 1 : 0), count);
  }

  // Puts prompt, seed and picture of a job into the form.
  async reuse(job) {
    this.fill({ prompt: job.prompt, seed: job.seed });
    const picture = await givenPicture(job).catch((problem) => this.complain(problem.message));
    if (picture) this.usePicture(picture);
  }

  // A file from the field, a drop or the clipboard; null removes it.
  usePicture(file) {
    if (file && !this.fields.picture) {
      return this.complain(`Profile “${this.settings.profile}” generates from words only: it takes no pictures.`);
    }
    this.picture = file;
    this.complain("");
    URL.revokeObjectURL(this.preview.dataset.address ?? "");
    this.preview.replaceChildren();
    this.preview.hidden = !file;
    this.cutout?.dispose();
    if (!file) this.fields.picture.value = "";
    else this.showPreview(file);
  }

  showPreview(file) {
    const address = URL.createObjectURL(file);
    this.preview.dataset.address = address;
    const remove = element("button", { type: "button", class: "plain", onclick: () => this.usePicture(null) }, "Remove");
    const picture = element("img", { src: address, alt: `The picture ${file.name}` });
    const cutout = element("div", { class: "cutout" });
    this.preview.append(picture, cutout, element("div", {}, element("p", {}, file.name), remove));
    this.cutout = new Cutout(file, cutout);
  }

  async submit() {
    const [prompt, { max_prompt: most }] = [this.fields.prompt.value.trim(), this.settings];
    if (!prompt && !this.picture) return this.complain("Enter a prompt.", this.fields.prompt);
    if (prompt.length > most) {
      return this.complain(`The prompt has ${prompt.length} characters; ${most} are allowed.`, this.fields.prompt);
    }
    const wrong = ["seed", "attempts"].map((name) => this.fields[name]).find((field) => !field.checkValidity());
    if (wrong) return this.complain(`${wrong.labels[0].textContent.trim()}: ${wrong.validationMessage}`, wrong);
    const common = { prompt, ...this.number("attempts") };
    const button = this.form.querySelector("button[type=submit]");
    button.disabled = true;
    try {
      if (this.picture) {
        common.picture = await encoded(this.picture);
        await this.cutout.giveUp();
      }
      const made = await this.order(common, this.number("seed").seed ?? this.drawSeed(), Number(this.fields.count.value));
      if (made && !this.fields.lock.checked) this.drawSeed();
    } catch (problem) {
      this.complain(problem.message, this.fields.prompt);
    } finally {
      button.disabled = false;
    }
  }

  // Submits `count` jobs with consecutive seeds. What is refused stops the rest; whether any was taken.
  async order(common, seed, count) {
    this.complain("");
    const jobs = [];
    try {
      for (let index = 0; index < count; index++) {
        jobs.push(await submit({ ...common, seed: (seed + index) % (this.settings.max_seed + 1) }));
      }
    } catch (problem) {
      const taken = jobs.length ? `${jobs.length} of ${count} were submitted. ` : "";
      this.complain(taken + problem.message, this.fields.prompt);
    }
    if (jobs.length) this.submitted(jobs);
    return jobs.length > 0;
  }

  complain(words, field = null) {
    say(this.problem, words);
    for (const each of [this.fields.prompt, this.fields.seed, this.fields.attempts]) {
      each.toggleAttribute("aria-invalid", each === field);
    }
    if (!field) return;
    field.closest("details")?.setAttribute("open", "");
    field.focus();
  }

  // A field that is left empty is left out: then the configured value applies.
  number(name) {
    const text = this.fields[name].value.trim();
    return text === "" ? {} : { [name]: Number(text) };
  }

  drawSeed() {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0] % (this.settings.max_seed + 1);
    this.fields.seed.value = seed;
    return seed;
  }

  count() {
    const [length, most] = [this.fields.prompt.value.length, this.settings.max_prompt];
    say(this.counter, length > NEARLY_FULL * most ? `${length} of ${most} characters` : "");
    this.counter.classList.toggle("problem", length > most);
  }
}
