import { type ApiError, UNREACHABLE } from "../api";
import type { Emotion } from "../emotions";
import { EXAMPLE, type Job } from "../job";
import neutral from "../../../../examples/speech/austen-0870.flac?url";
import sad from "../../../../examples/speech/emodb-08a07Tb.flac?url";
import joyful from "../../../../examples/speech/emodb-08b01Fe.flac?url";
import angry from "../../../../examples/speech/emodb-08b01Wa.flac?url";

interface Example {
  emotion: Emotion;
  /** What the button says about a recording, or the sentence that is sent. */
  words: string;
  /** Address of the recording; a sentence has none. */
  url?: string;
}

const EXAMPLES: Example[] = [
  { emotion: "neutral", words: "English: “And Mr. John Dashwood had then leisure to consider…”", url: neutral },
  { emotion: "anger", words: "German: “What are those bags under the table?”", url: angry },
  { emotion: "sadness", words: "German: “In seven hours it will be time.”", url: sad },
  { emotion: "excitement", words: "German: “What are those bags under the table?”", url: joyful },
  { emotion: "frustration", words: "It is so annoying that this form never works." },
  { emotion: "excitement", words: "I got the job! I am so happy, I can't wait to start!" },
];

interface Props {
  busy: boolean;
  onJob: (job: Job) => void;
  onError: (error: ApiError) => void;
}

/** Recordings and sentences that the demo model answers with the emotion they are named after. */
export function Examples({ busy, onJob, onError }: Props) {
  async function analyseExample({ words, url }: Example, name: string) {
    const source = `${EXAMPLE}${name}`;
    if (!url) return onJob({ text: words, source });
    try {
      const response = await fetch(url);
      if (!response.ok) throw UNREACHABLE;
      onJob({ audio: await response.blob(), source });
    } catch {
      onError(UNREACHABLE);
    }
  }

  return (
    <div className="examples">
      <h3>Or try an example</h3>
      <ul>
        {EXAMPLES.map((example) => {
          const name = `${example.emotion} (${example.url ? "voice" : "words"})`;
          return (
            <li key={name}>
              <button type="button" disabled={busy} onClick={() => void analyseExample(example, name)}>
                <span className="label" data-emotion={example.emotion}>
                  {name}
                </span>{" "}
                <small>{example.url ? example.words : `“${example.words}”`}</small>
              </button>
            </li>
          );
        })}
      </ul>
      <small>
        They were picked because the demo model names their emotion; it is often wrong about others. English: Jane Austen,
        Sense and Sensibility, read by a volunteer for LibriVox; public domain. German: an actress of the Berlin Database of
        Emotional Speech; CC0.
      </small>
    </div>
  );
}
