import type { Utterance } from "../utterances";

/** The words of an utterance, or why there are none. */
export function UtteranceWords({ utterance: { transcript, label, error } }: { utterance: Utterance }) {
  if (error || !label) return <p className="fine">Not analysed: {error}</p>;
  if (transcript) return <p dir="auto">{transcript}</p>;
  return <p className="fine">{transcript === null ? "Voice only" : "No words understood"}</p>;
}
