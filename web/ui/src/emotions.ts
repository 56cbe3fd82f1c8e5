/** The five emotions and the three views of them, as the server has them. */

export const EMOTIONS = ["neutral", "frustration", "anger", "sadness", "excitement"] as const;
export type Emotion = (typeof EMOTIONS)[number];
export type Probabilities = Record<Emotion, number>;
export type Status = "ok" | "unsure" | "no_speech";

export const VIEWS = ["fused", "audio", "text"] as const;
export type View = (typeof VIEWS)[number];

/** Names, and how each is drawn: told apart by colour and by line. Colours are in styles.css. */
export const VIEW: Record<View, { name: string; colour: string; dash?: string; absent: string }> = {
  fused: { name: "Both together", colour: "var(--fused)", absent: "" },
  audio: { name: "What the voice says", colour: "var(--audio)", dash: "7 4", absent: "There is no recording." },
  text: { name: "What the words say", colour: "var(--text-view)", dash: "2 4", absent: "There are no words." },
};

export const COLOUR: Record<Emotion, string> = {
  neutral: "var(--neutral)",
  frustration: "var(--frustration)",
  anger: "var(--anger)",
  sadness: "var(--sadness)",
  excitement: "var(--excitement)",
};

/** "sadness 62 %", or "no sound" */
export function strongest(probabilities: Probabilities | null): string {
  if (!probabilities) return "no sound";
  const emotion = ranked(probabilities)[0]!;
  return `${emotion} ${percent(probabilities[emotion])}`;
}

/** Share of the most probable emotion's probability from which the second one is named beside it. */
const RIVAL = 0.5;

/**
 * What an answer comes to, in a few words: "sadness", "unsure: sadness or anger", "unsure, perhaps sadness",
 * "no speech heard".
 */
export function verdict(status: Status | undefined, label: Emotion, probabilities: Probabilities): string {
  if (status === "no_speech") return "no speech heard";
  if (status !== "unsure") return label;
  const [first, second] = ranked(probabilities) as [Emotion, Emotion];
  const isClose = probabilities[second] >= RIVAL * probabilities[first];
  return isClose ? `unsure: ${first} or ${second}` : `unsure, perhaps ${first}`;
}

/** The most probable first. */
function ranked(probabilities: Probabilities): Emotion[] {
  return [...EMOTIONS].sort((one, other) => probabilities[other] - probabilities[one]);
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** "0:07" */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
