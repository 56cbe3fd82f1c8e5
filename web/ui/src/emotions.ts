/** The five emotions and three views of the server's answer, with their names and styles on the page. */

export const EMOTIONS = ["neutral", "frustration", "anger", "sadness", "excitement"] as const;
export type Emotion = (typeof EMOTIONS)[number];
export type Probabilities = Record<Emotion, number>;
export type Status = "ok" | "unsure" | "no_speech";

export const VIEWS = ["fused", "audio", "text"] as const;
export type View = (typeof VIEWS)[number];
/** Probabilities of each view; null if the input has no audio or no text. */
export type Views = Record<View, Probabilities | null>;

/** Names and line style of each view; lines differ in colour and in dashes. Colours are in styles.css. */
export const VIEW: Record<View, { name: string; short: string; colour: string; dash?: string; absent: string }> = {
  fused: { name: "Both together", short: "both", colour: "var(--fused)", absent: "" },
  audio: { name: "What the voice says", short: "voice", colour: "var(--audio)", dash: "7 4", absent: "There is no recording." },
  text: { name: "What the words say", short: "words", colour: "var(--text-view)", dash: "2 4", absent: "There are no words." },
};

export const COLOUR: Record<Emotion, string> = {
  neutral: "var(--neutral)",
  frustration: "var(--frustration)",
  anger: "var(--anger)",
  sadness: "var(--sadness)",
  excitement: "var(--excitement)",
};

/** Returns the most probable emotion with its share, such as "sadness 62 %", or "no sound". */
export function strongest(probabilities: Probabilities | null): string {
  if (!probabilities) return "no sound";
  const emotion = strongestEmotion(probabilities);
  return `${emotion} ${percent(probabilities[emotion])}`;
}

/** The second emotion is named too if its probability is at least this share of the first one's. */
const RUNNER_UP_RATIO = 0.5;

/**
 * Returns the headline of an answer: "sadness", "unsure: sadness or anger", "unsure, perhaps sadness" or
 * "no speech heard".
 */
export function verdict(status: Status | undefined, label: Emotion, probabilities: Probabilities): string {
  if (status === "no_speech") return "no speech heard";
  if (status !== "unsure") return label;
  const [first, second] = ranked(probabilities) as [Emotion, Emotion];
  const isClose = probabilities[second] >= RUNNER_UP_RATIO * probabilities[first];
  return isClose ? `unsure: ${first} or ${second}` : `unsure, perhaps ${first}`;
}

/** Returns the most probable emotion. */
export function strongestEmotion(probabilities: Probabilities): Emotion {
  return ranked(probabilities)[0]!;
}

/** Returns the emotions, most probable first. */
function ranked(probabilities: Probabilities): Emotion[] {
  return [...EMOTIONS].sort((one, other) => probabilities[other] - probabilities[one]);
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** Returns a time in minutes and seconds, such as "0:07". */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Returns a length of time in words, such as "60 s" or "10 min". */
export function span(seconds: number): string {
  return seconds > 60 && seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}
