import { useCallback } from "react";

import type { ApiError } from "../api";
import { clock } from "../emotions";
import type { Job } from "../job";
import { useRecorder } from "../recorder";

interface Props {
  limit: number;
  busy: boolean;
  onJob: (job: Job) => void;
  onError: (error: ApiError) => void;
}

export function SpeechInput({ limit, busy, onJob, onError }: Props) {
  const onFinish = useCallback((audio: Blob) => onJob({ audio, source: "Spoken" }), [onJob]);
  const recorder = useRecorder(limit, onFinish, onError);
  const recording = recorder.state === "recording";

  return (
    <div className="speak">
      <button
        type="button"
        className="record"
        data-recording={recording}
        disabled={!recording && (busy || recorder.state === "asking")}
        onClick={recording ? recorder.stop : recorder.start}
      >
        <span className="ring" style={{ transform: `scale(${1 + 0.35 * recorder.level})` }} aria-hidden="true" />
        <svg viewBox="0 0 24 24" aria-hidden="true">
          {recording ? (
            <rect x="7" y="7" width="10" height="10" rx="1.5" />
          ) : (
            <path d="M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3Zm-6.5 8a1 1 0 0 1 2 0 4.5 4.5 0 0 0 9 0 1 1 0 0 1 2 0 6.5 6.5 0 0 1-5.5 6.42V20h2a1 1 0 0 1 0 2H9a1 1 0 0 1 0-2h2v-2.58A6.5 6.5 0 0 1 5.5 11Z" />
          )}
        </svg>
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
