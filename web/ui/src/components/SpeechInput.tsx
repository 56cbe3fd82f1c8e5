import { useCallback } from "react";

import type { Job } from "../App";
import type { Failure } from "../api";
import { clock } from "../emotions";
import { useRecorder } from "../recorder";

interface Props {
  limit: number;
  busy: boolean;
  onJob: (job: Job) => void;
  onFailure: (why: Failure) => void;
}

export function SpeechInput({ limit, busy, onJob, onFailure }: Props) {
  const finished = useCallback((audio: Blob) => onJob({ audio, source: "Spoken" }), [onJob]);
  const recorder = useRecorder(limit, finished, onFailure);
  const recording = recorder.state === "recording";

  return (
    <div className="speak">
      <button
        type="button"
        className="record"
        data-recording={recording}
        disabled={busy || recorder.state === "asking"}
        onClick={recording ? recorder.stop : recorder.start}
      >
        <span className="ring" style={{ transform: `scale(${1 + 0.35 * recorder.level})` }} aria-hidden="true" />
        <span className="dot" aria-hidden="true" />
        <span className="hidden">{recording ? "Stop and analyse" : "Record"}</span>
      </button>
      <p className="time" aria-hidden={!recording}>
        {clock(recorder.seconds)} <span>of {clock(limit)}</span>
      </p>
      <meter min={0} max={1} value={recorder.level} aria-label="Loudness" data-on={recording} />
      <p className="hint" role="status">
        {recording
          ? "Listening. Press again to stop and analyse."
          : recorder.state === "asking"
            ? "Allow the microphone in your browser."
            : "Press the button and speak, in English."}
      </p>
    </div>
  );
}
