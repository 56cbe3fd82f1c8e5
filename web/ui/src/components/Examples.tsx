import type { Job } from "../App";
import { AWAY, type Failure } from "../api";
import leisure from "../../../../examples/speech/austen-0870.flac?url";
import disposed from "../../../../examples/speech/austen-0880.flac?url";
import selfish from "../../../../examples/speech/austen-0890.flac?url";
import amiable from "../../../../examples/speech/austen-0930.flac?url";
import transcripts from "../../../../examples/speech/transcripts.tsv?raw";

const CLIPS = [
  { name: "ill-disposed", file: "austen-0880.flac", url: disposed },
  { name: "rather selfish", file: "austen-0890.flac", url: selfish },
  { name: "made amiable", file: "austen-0930.flac", url: amiable },
  { name: "then leisure", file: "austen-0870.flac", url: leisure },
];
const SENTENCES = Object.fromEntries(transcripts.split("\n").map((line) => line.split("\t")));

interface Props {
  busy: boolean;
  onJob: (job: Job) => void;
  onFailure: (why: Failure) => void;
}

export function Examples({ busy, onJob, onFailure }: Props) {
  async function take(name: string, url: string) {
    try {
      const response = await fetch(url);
      if (!response.ok) throw AWAY;
      onJob({ audio: await response.blob(), source: `Example: ${name}` });
    } catch {
      onFailure(AWAY);
    }
  }

  return (
    <div className="examples">
      <h3>Or try an example</h3>
      <ul>
        {CLIPS.map(({ name, file, url }) => (
          <li key={name}>
            <button type="button" disabled={busy} onClick={() => void take(name, url)}>
              “{name}” <small>{SENTENCES[file]}</small>
            </button>
          </li>
        ))}
      </ul>
      <small>Jane Austen, Sense and Sensibility, read by a volunteer for LibriVox; public domain.</small>
    </div>
  );
}
