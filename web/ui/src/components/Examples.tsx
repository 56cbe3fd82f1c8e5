import { type ApiError, UNREACHABLE } from "../api";
import type { Job } from "../job";
import leisure from "../../../../examples/speech/austen-0870.flac?url";
import disposed from "../../../../examples/speech/austen-0880.flac?url";
import selfish from "../../../../examples/speech/austen-0890.flac?url";
import amiable from "../../../../examples/speech/austen-0930.flac?url";
import angry from "../../../../examples/speech/emodb-08b01Wa.flac?url";
import happy from "../../../../examples/speech/emodb-08b01Fe.flac?url";
import transcripts from "../../../../examples/speech/transcripts.tsv?raw";

const SENTENCES: Record<string, string> = Object.fromEntries(transcripts.split("\n").map((line) => line.split("\t")));
const GERMAN = "German: “Was sind denn das für Tüten, die da unter dem Tisch stehen?” (what are those bags under the table?)";
const CLIPS = [
  { name: "An angry voice", words: GERMAN, url: angry },
  { name: "A joyful voice", words: GERMAN, url: happy },
  { name: "“ill-disposed”", words: SENTENCES["austen-0880.flac"], url: disposed },
  { name: "“rather selfish”", words: SENTENCES["austen-0890.flac"], url: selfish },
  { name: "“made amiable”", words: SENTENCES["austen-0930.flac"], url: amiable },
  { name: "“then leisure”", words: SENTENCES["austen-0870.flac"], url: leisure },
];

interface Props {
  busy: boolean;
  onJob: (job: Job) => void;
  onError: (error: ApiError) => void;
}

export function Examples({ busy, onJob, onError }: Props) {
  async function analyseExample(name: string, url: string) {
    try {
      const response = await fetch(url);
      if (!response.ok) throw UNREACHABLE;
      onJob({ audio: await response.blob(), source: `Example: ${name}` });
    } catch {
      onError(UNREACHABLE);
    }
  }

  return (
    <div className="examples">
      <h3>Or try an example</h3>
      <ul>
        {CLIPS.map(({ name, words, url }) => (
          <li key={name}>
            <button type="button" disabled={busy} onClick={() => void analyseExample(name, url)}>
              {name} <small>{words}</small>
            </button>
          </li>
        ))}
      </ul>
      <small>
        English: Jane Austen, Sense and Sensibility, read by a volunteer for LibriVox; public domain. German: an actress of
        the Berlin Database of Emotional Speech; CC0.
      </small>
    </div>
  );
}
