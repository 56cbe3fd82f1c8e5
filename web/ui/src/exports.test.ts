import { expect, test } from "vitest";

import type { Analysis } from "./api";
import { answerCsv, answerJson, fileName, longCsv, longSummary, recentCsv, summary } from "./exports";
import { long } from "./fakes";
import { toRecent } from "./recent";

const analysis: Analysis = {
  transcript: "=so, it is",
  understood: true,
  text: "=so, it is",
  label: "sadness",
  confidence: 0.93,
  status: "ok",
  probabilities: { neutral: 0.08, frustration: 0.05, anger: 0.02, sadness: 0.83, excitement: 0.02 },
  audio_probabilities: { neutral: 0.1, frustration: 0.1, anger: 0.05, sadness: 0.7, excitement: 0.05 },
  text_probabilities: { neutral: 0.4, frustration: 0.2, anger: 0.1, sadness: 0.2, excitement: 0.1 },
  seconds: 4.2,
  timeline: [
    { start: 0, end: 3, probabilities: { neutral: 0.5, frustration: 0.1, anger: 0.1, sadness: 0.2, excitement: 0.1 } },
    { start: 1.2, end: 4.2, probabilities: null },
  ],
  checkpoint: "3fa9c1d20b7e",
  untrained: [],
  timings: { decode_ms: 1, answer_ms: 100, timeline_ms: 20, total_ms: 121 },
};

test("answerJson equals the answer", () => {
  expect(JSON.parse(answerJson(analysis))).toEqual(analysis);
});

test("answerCsv has a row for each view and each window of the timeline", () => {
  expect(answerCsv(analysis).slice(1).split("\r\n")).toEqual([
    "view,start,end,neutral,frustration,anger,sadness,excitement,label,status,confidence,text",
    `both,,,0.08,0.05,0.02,0.83,0.02,sadness,ok,0.93,"'=so, it is"`,
    "voice,,,0.1,0.1,0.05,0.7,0.05,,,,",
    "words,,,0.4,0.2,0.1,0.2,0.1,,,,",
    "voice,0,3,0.5,0.1,0.1,0.2,0.1,,,,",
    "voice,1.2,4.2,,,,,,,,,",
    "",
  ]);
});

test("answerCsv leaves out a view that the answer does not have", () => {
  const rows = answerCsv({ ...analysis, audio_probabilities: null, timeline: [] }).split("\r\n");
  expect(rows.slice(1).map((row) => row.split(",")[0])).toEqual(["both", "words", ""]);
});

test("recentCsv has a row for each analysis, without a confidence that is not known", () => {
  const { text, label, status, probabilities } = analysis;
  const one = { id: 2, when: "2026-01-01T12:00:00.000Z", source: "@clip.flac", text, label, status, probabilities, analysis };
  const old = { id: 1, when: "2026-01-01T11:00:00.000Z", source: "Typed", text: "", label, probabilities };
  expect(recentCsv([one, old]).slice(1).split("\r\n")).toEqual([
    "name,when,label,status,confidence,neutral,frustration,anger,sadness,excitement,text,seconds,utterances",
    `'@clip.flac,2026-01-01T12:00:00.000Z,sadness,ok,0.93,0.08,0.05,0.02,0.83,0.02,"'=so, it is",4.2,`,
    "Typed,2026-01-01T11:00:00.000Z,sadness,,,0.08,0.05,0.02,0.83,0.02,,,",
    "",
  ]);
});

test("recentCsv has the shares, the words and the length of a long recording", () => {
  const row = recentCsv([toRecent({ source: "talk.flac" }, long)]).split("\r\n")[1]!;
  expect(row.replace(/,[^,]*T[^,]*Z,/, ",when,")).toBe("talk.flac,when,sadness,,,0,0,0.25,0.5,0,so it is =no,70,3");
});

test("longCsv has a row for each utterance", () => {
  expect(longCsv(long).slice(1).split("\r\n")).toEqual([
    "start,end,label,status,confidence,neutral,frustration,anger,sadness,excitement,text,error",
    "1,3,sadness,ok,0.93,0.08,0.13,0.05,0.7,0.04,so it is,",
    "5.5,6.5,anger,unsure,0.4,0.1,0.3,0.45,0.1,0.05,'=no,",
    "63.5,64.5,,,,,,,,,,The answer took too long.",
    "",
  ]);
});

test("longSummary has the shares, and a line for each utterance", () => {
  expect(longSummary(long).split("\n")).toEqual([
    "3 utterances, 0:04 of speech in 1:10: anger 25 %, sadness 50 %",
    "0:01 so it is (sadness 93 %)",
    "0:05 =no (unsure: anger or frustration)",
    "1:03 (The answer took too long.)",
  ]);
});

test("longSummary of an answer that broke off says how much of it there is", () => {
  expect(longSummary({ ...long, total: 9, complete: false })).toMatch(/^3 of 9 utterances, /);
});

test("summary names the answer, the voice and the words", () => {
  expect(summary(analysis)).toBe("sadness 83 % (voice: sadness 70 %, words: neutral 40 %)");
});

test("summary of an unsure answer has no share for it", () => {
  expect(summary({ ...analysis, status: "unsure" })).toBe("unsure, perhaps sadness (voice: sadness 70 %, words: neutral 40 %)");
});

test("summary of an answer without sound names the words alone", () => {
  expect(summary({ ...analysis, status: "no_speech", audio_probabilities: null })).toBe("no speech heard (words: neutral 40 %)");
});

test("summary of an untrained model has a warning", () => {
  expect(summary({ ...analysis, untrained: ["vggish"] })).toMatch(/\); parts of the model were never trained$/);
});

test.each([
  ["clip.flac", "clip-emotions.csv"],
  ["../my talk.2.wav", "my-talk-2-emotions.csv"],
  ["Example: “then leisure”", "Example-then-leisure-emotions.csv"],
  ["Größe.m4a", "Größe-emotions.csv"],
  ["?.wav", "answer-emotions.csv"],
])("fileName of %j is %s", (source, name) => {
  expect(fileName(source, "csv")).toBe(name);
});
