import { useCallback, useId, useState } from "react";

import { ApiError } from "../api";
import type { Job } from "../job";
import { trim } from "../trim";
import { Download } from "./Download";

const GRACE_S = 1; // by which the service accepts longer recordings

interface Props {
  job: Job;
  limit: number;
  onJob: (job: Job) => void;
  onDiscard: () => void;
  onError: (error: ApiError) => void;
}

/** The user's recording that has no answer yet: listen to it, analyse it, shorten it, download it, or discard it. */
export function Kept({ job, limit, onJob, onDiscard, onError }: Props) {
  const [seconds, setSeconds] = useState(0);
  const heading = useId();

  const play = useCallback(
    (player: HTMLAudioElement) => {
      const url = URL.createObjectURL(job.audio!);
      player.src = url;
      return () => URL.revokeObjectURL(url);
    },
    [job],
  );

  async function shorten() {
    try {
      onJob({ ...job, audio: await trim(job.audio!, limit) });
    } catch {
      onError(new ApiError("undecodable", "Your browser can't read this kind of recording, so it can't shorten it."));
    }
  }

  return (
    <section className="card kept" aria-labelledby={heading}>
      <h2 id={heading}>Your recording</h2>
      <p>{job.source === "Spoken" ? "It is not analysed yet." : `${job.source} is not analysed yet.`}</p>
      {/* eslint-disable-next-line jsx-a11y/media-has-caption -- nobody has written down what was said */}
      <audio controls ref={play} onLoadedMetadata={(event) => setSeconds(event.currentTarget.duration)} aria-label="Your recording" />
      <div className="row">
        {Number.isFinite(seconds) && seconds > limit + GRACE_S ? (
          <button type="button" className="primary" onClick={() => void shorten()}>
            Analyse the first {limit} s
          </button>
        ) : (
          <button type="button" className="primary" onClick={() => onJob(job)}>
            Analyse the recording
          </button>
        )}
        <Download audio={job.audio!} />
        <button type="button" onClick={onDiscard}>
          Discard
        </button>
      </div>
    </section>
  );
}
