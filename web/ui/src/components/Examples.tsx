import type { Job } from "../App";
import { AWAY, type Failure } from "../api";
import leisure from "../../../../examples/speech/austen-0870.flac?url";
import disposed from "../../../../examples/speech/austen-0880.flac?url";
import selfish from "../../../../examples/speech/austen-0890.flac?url";
import amiable from "../../../../examples/speech/austen-0930.flac?url";

const CLIPS = { "ill-disposed": disposed, "rather selfish": selfish, "made amiable": amiable, "then leisure": leisure };

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
        {Object.entries(CLIPS).map(([name, url]) => (
          <li key={name}>
            <button type="button" disabled={busy} onClick={() => void take(name, url)}>
              “{name}”
            </button>
          </li>
        ))}
      </ul>
      <small>Jane Austen, read by a volunteer of LibriVox; public domain.</small>
    </div>
  );
}
