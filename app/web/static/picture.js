// Pictures from callers.

import * as api from "./api.js";

// The picture that the caller of a job sent, as a File; null if there is none, or if a model generated it.
export async function givenPicture(job) {
  const name = job.assets.find((each) => /^picture\./.test(each));
  if (!name || (await wasDrawn(job))) return null;
  return new File([await api.file(job, name)], name, { type: name.endsWith(".png") ? "image/png" : "image/jpeg" });
}

// Without a certificate, only pictures from callers are stored.
async function wasDrawn(job) {
  if (!job.assets.includes("certificate.json")) return false;
  const { models } = await api.ask(api.asset(job, "certificate.json"));
  return models.some(({ role }) => role === "text_to_image");
}

// A picture as a data URL.
export async function encoded(file) {
  const reader = new FileReader();
  await new Promise((resolve) => {
    reader.addEventListener("loadend", resolve);
    reader.readAsDataURL(file);
  });
  if (reader.error) throw new api.Problem(0, `The picture cannot be read: ${reader.error.message}`);
  return reader.result;
}
