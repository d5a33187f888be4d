// The part of a picture that the generator will see: the object. An engine cuts it out; nothing is stored.

import * as api from "./api.js";
import { element, say } from "./dom.js";
import { encoded } from "./picture.js";
import { ended } from "./words.js";

export class Cutout {
  // place: the element for the cutout, and for the progress before.
  constructor(file, place) {
    Object.assign(this, { place, address: "", disposed: false, stop: () => {} });
    this.status = element("p", { class: "quiet", role: "status" });
    place.replaceChildren(this.status);
    this.order(file).catch((problem) => this.say(`No cutout: ${problem.message}`));
  }

  async order(file) {
    this.say("Cutting out the object…");
    const picture = await encoded(file);
    if (this.disposed) return;
    this.job = await api.submit({ kind: "cutout", picture });
    if (this.disposed) return this.forget();
    this.stop = api.follow(this.job.id, (job) => ended(job) && this.show(job).catch((problem) => this.say(problem.message)));
  }

  async show(job) {
    this.job = job;
    if (job.assets.includes("cutout.png")) {
      const bytes = await api.file(job, "cutout.png");
      if (this.disposed) return;
      this.address = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
      this.place.replaceChildren(element("img", { src: this.address, alt: "The object that was cut out" }));
    } else this.say(job.error || "There is no cutout.");
    await this.forget();
  }

  // Another picture was chosen, or none.
  dispose() {
    URL.revokeObjectURL(this.address);
    return this.giveUp();
  }

  // The picture was submitted: a pending cutout would only delay it.
  async giveUp() {
    if (this.address) return;
    this.disposed = true;
    this.stop();
    this.place.replaceChildren();
    await this.forget();
  }

  // Cancels the job if it has not ended; removes it, with the picture, if it has.
  async forget() {
    const { job } = this;
    this.job = null;
    if (job) await api.remove(job.id).catch(() => {}); // retention removes it later
  }

  say(words) {
    if (!this.disposed) say(this.status, words);
  }
}
