import { useEffect, useState } from "react";

import { ApiError, type Limits } from "../api";
import { duration } from "../duration";
import { span } from "../emotions";
import type { Job } from "../job";
import { idOf } from "../recent";
import { GRACE_S } from "../run";
import { trim } from "../trim";
import { Download } from "./Download";
import { Player } from "./Player";

interface Props {
  jobs: Job[];
  limits: Limits;
  onJobs: (jobs: Job[]) => void;
  onDiscard: (jobs: Job[]) => void;
  onError: (error: ApiError) => void;
}

/** The user's recordings that have no answer yet. */
export function KeptRecordings({ jobs, ...rest }: Props) {
  const { onJobs, onDiscard } = rest;
  const [only] = jobs;
  if (!only) return null;
  return (
    <section className="card kept" aria-labelledby="kept">
      <h2 id="kept">{jobs.length === 1 ? "Your recording" : "Your recordings"}</h2>
      {jobs.length === 1 ? (
        <>
          <p dir="auto">{only.source === "Spoken" ? "It is not analysed yet." : `${only.source} is not analysed yet.`}</p>
          <Kept job={only} {...rest} />
        </>
      ) : (
        <>
          <p>{jobs.length} recordings are not analysed yet.</p>
          <div className="row">
            <button
              type="button"
              className="primary"
              onClick={() => {
                onDiscard(jobs); // they are kept again if they fail
                onJobs(jobs);
              }}
            >
              Analyse all
            </button>
            <button type="button" onClick={() => onDiscard(jobs)}>
              Discard all
            </button>
          </div>
          <ul>
            {jobs.map((job) => (
              <Item key={idOf(job)} job={job} {...rest} />
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

type KeptProps = Omit<Props, "jobs"> & { job: Job };

/** One of several recordings; its player is loaded once it is opened. */
function Item(props: KeptProps) {
  const [open, setOpen] = useState(false);
  return (
    <li>
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary dir="auto">{props.job.source}</summary>
        {open && <Kept {...props} />}
      </details>
    </li>
  );
}

/** What can be done with a recording: listen to it, analyse it, shorten it, download it, or discard it. */
function Kept({ job, limits, onJobs, onDiscard, onError }: KeptProps) {
  const audio = job.audio!;
  const [seconds, setSeconds] = useState<number | null>(null);
  const isOver = (limit: number) => seconds !== null && seconds > limit + GRACE_S;

  useEffect(() => {
    let wanted = true;
    void duration(audio).then((found) => wanted && setSeconds(found));
    return () => {
      wanted = false;
    };
  }, [audio]);

  function analyse(given: Job) {
    onDiscard([job]); // it is kept again if it fails
    onJobs([given]);
  }

  async function shorten() {
    try {
      analyse({ ...job, audio: await trim(audio, limits.seconds) });
    } catch {
      onError(new ApiError("undecodable", "Your browser can't read this kind of recording, so it can't shorten it."));
    }
  }

  return (
    <>
      <Player audio={audio} label="Your recording" />
      <div className="row">
        {!isOver(limits.long_seconds) && (
          <button type="button" className="primary" onClick={() => analyse(job)}>
            Analyse the recording
          </button>
        )}
        {isOver(limits.seconds) && (
          <button type="button" className={isOver(limits.long_seconds) ? "primary" : undefined} onClick={() => void shorten()}>
            Analyse the first {span(limits.seconds)}
          </button>
        )}
        <Download audio={audio} />
        <button type="button" onClick={() => onDiscard([job])}>
          Discard
        </button>
      </div>
    </>
  );
}
