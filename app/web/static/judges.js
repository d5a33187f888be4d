// The report on the feedback of the judges, in words and plots. Hidden while there is no feedback.

import { ask } from "./api.js";
import { element } from "./dom.js";
import { plots } from "./plot.js";
import { count, percent } from "./words.js";

export async function showJudges(section) {
  const report = await ask("/v1/feedback/report");
  if (!report.answers) return;
  section.append(element("p", {}, said(report)), ...advice(report), element("div", { class: "plots" }, plots(report)));
  section.hidden = false;
}

function said({ answers, acceptance: { share, total, low, high }, failed }) {
  const parts = [
    `${count(answers)} ${answers === 1 ? "answer" : "answers"}`,
    share !== null && `${percent(share)} of ${count(total)} accepted`,
    share !== null && `95 % interval ${percent(low)} to ${percent(high)}`,
    failed > 0 && `${count(failed)} failed on the judges’ side`,
  ];
  return `${parts.filter(Boolean).join(", ")}.`;
}

function advice({ threshold, min_gaussians }) {
  return [threshold, min_gaussians].map((each) => element("p", { class: "quiet" }, `${each.setting}: ${each.reason}`));
}
