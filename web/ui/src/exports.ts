/** The answer and the recent analyses as text that people can save or copy. */

import type { Analysis } from "./api";
import { type Cell, csv } from "./csv";
import { clock, EMOTIONS, percent, type Probabilities, strongest, verdict, VIEW, type View, VIEWS, type Views } from "./emotions";
import { overviewOf } from "./overview";
import type { Recent } from "./recent";
import { type Answer, isLong, type LongAnalysis, type Utterance } from "./utterances";

export function viewsOf(analysis: Analysis): Views {
  return { fused: analysis.probabilities, audio: analysis.audio_probabilities, text: analysis.text_probabilities };
}

/** Returns the headline of an answer. Only a sure answer has a share, such as "sadness 62 %". */
export function headline({ status, label, probabilities }: Analysis): string {
  const name = verdict(status, label, probabilities);
  return status === "ok" ? `${name} ${percent(probabilities[label])}` : name;
}

/** Returns the answer in one line, such as "sadness 83 % (voice: sadness 70 %, words: neutral 40 %)". */
export function summary(analysis: Analysis): string {
  const views = viewsOf(analysis);
  const parts = (["audio", "text"] as const).filter((view) => views[view]).map((view) => `${VIEW[view].short}: ${strongest(views[view])}`);
  const warning = analysis.untrained.length ? "; parts of the model were never trained" : "";
  return `${headline(analysis)} (${parts.join(", ")})${warning}`;
}

export function answerJson(answer: Answer): string {
  return `${JSON.stringify(answer, null, 2)}\n`;
}

/** Returns the answer as CSV: a row for each view, then a row with start and end in seconds for each window of the timeline. */
export function answerCsv(analysis: Analysis): string {
  const views = viewsOf(analysis);
  const { label, status, confidence, text, timeline } = analysis;
  const verdictOf = (view: View): Cell[] => (view === "fused" ? [label, status, confidence, text] : ["", "", "", ""]);
  return csv([
    ["view", "start", "end", ...EMOTIONS, "label", "status", "confidence", "text"],
    ...VIEWS.filter((view) => views[view]).map((view) => [VIEW[view].short, "", "", ...shares(views[view]), ...verdictOf(view)]),
    ...timeline.map(({ start, end, probabilities }) => [VIEW.audio.short, start, end, ...shares(probabilities), ...verdictOf("audio")]),
  ]);
}

/** Returns the emotion of an utterance in words, such as "anger" or "unsure: anger or sadness"; null if it has no answer. */
export function utteranceVerdict({ status, label, probabilities }: Utterance): string | null {
  return label && probabilities ? verdict(status ?? undefined, label, probabilities) : null;
}

/** Returns how many utterances are analysed, such as "97 utterances" or "12 of 97 utterances". */
export function utteranceCount({ total, utterances, complete }: LongAnalysis): string {
  return `${complete ? "" : `${utterances.length} of `}${counted(total)}`;
}

/** Returns a number of utterances in words. */
export function counted(utterances: number): string {
  return `${utterances} ${utterances === 1 ? "utterance" : "utterances"}`;
}

/** Returns a long recording as lines: the shares of the speaking time, then each utterance with its time and emotion. */
export function longSummary(analysis: LongAnalysis): string {
  const { seconds, utterances } = analysis;
  const { shares, speaking } = overviewOf(utterances);
  const parts = EMOTIONS.filter((emotion) => shares[emotion]).map((emotion) => `${emotion} ${percent(shares[emotion])}`);
  const heading = `${utteranceCount(analysis)}, ${clock(speaking)} of speech in ${clock(seconds)}: ${parts.join(", ")}`;
  const lines = utterances.map((one) => {
    const sure = one.status === "ok" && one.confidence !== null ? ` ${percent(one.confidence)}` : "";
    return `${clock(one.start)} ${one.transcript ?? ""} (${utteranceVerdict(one) ?? one.error}${sure})`.replace("  ", " ");
  });
  return [heading, ...lines].join("\n");
}

/** Returns a long recording as CSV, one row for each utterance. */
export function longCsv({ utterances }: LongAnalysis): string {
  return csv([
    ["start", "end", "label", "status", "confidence", ...EMOTIONS, "text", "error"],
    ...utterances.map(({ start, end, label, status, confidence, probabilities, transcript, error }) => [
      start,
      end,
      label,
      status,
      confidence,
      ...shares(probabilities),
      transcript,
      error,
    ]),
  ]);
}

/** Returns the recent analyses as CSV, one row each. */
export function recentCsv(recent: Recent[]): string {
  return csv([
    ["name", "when", "label", "status", "confidence", ...EMOTIONS, "text", "seconds", "utterances"],
    ...recent.map(({ source, when, label, status, confidence, probabilities, text, seconds, utterances, analysis }) => [
      source,
      when,
      label,
      status,
      confidence ?? (analysis && !isLong(analysis) ? analysis.confidence : null),
      ...shares(probabilities),
      text,
      seconds ?? analysis?.seconds,
      utterances,
    ]),
  ]);
}

/** Returns a file name after the input's name, such as "clip-emotions.csv" for "clip.flac". */
export function fileName(source: string, ending: string): string {
  const stem = source.replace(/\.\w{1,5}$/, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${stem.slice(0, 60) || "answer"}-emotions.${ending}`;
}

function shares(probabilities: Probabilities | null): Cell[] {
  return EMOTIONS.map((emotion) => probabilities?.[emotion]);
}
