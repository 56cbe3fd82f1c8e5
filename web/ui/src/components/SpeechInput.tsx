import { clock } from "../emotions";
import type { Recorder } from "../recorder";

interface Props {
  recorder: Recorder;
  limit: number;
  busy: boolean;
  /** Whether the emotion is shown, and the sound therefore sent, while somebody records. */
  live: boolean;
  onLive: (live: boolean) => void;
}

export function SpeechInput({ recorder, limit, busy, live, onLive }: Props) {
  const recording = recorder.state === "recording";

  return (
    <div className="speak">
      <button
        type="button"
        className="record"
        data-recording={recording}
        disabled={!recording && (busy || recorder.state === "asking")}
        onClick={recording ? () => recorder.stop(true) : recorder.start}
      >
        <span className="ring" style={{ transform: `scale(${1 + 0.35 * (recorder.level ?? 0)})` }} aria-hidden="true" />
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
      <meter
        min={0}
        max={1}
        value={recorder.level ?? 0}
        aria-label="Loudness"
        data-on={recording && recorder.level !== null}
      />
      <p className="hint" role="status">
        {recording
          ? recorder.quiet
            ? "Too quiet to hear. Move closer to the microphone, or check that it is the right one."
            : "Listening. Press again to stop and analyse."
          : recorder.state === "asking"
            ? "Allow the microphone in your browser."
            : "Press the button and speak, in English."}
      </p>
      {recording ? (
        <button type="button" onClick={() => recorder.stop(false)}>
          Stop and listen first
        </button>
      ) : (
        <>
          <label className="switch">
            <input type="checkbox" checked={live} onChange={(event) => onLive(event.target.checked)} />
            Show the emotion while I speak
          </label>
          <small>
            {live
              ? "The sound is sent to the service while you record, and the whole recording when you analyse it."
              : "Nothing is sent while you record, or when you press “Stop and listen first”. Otherwise the recording is sent when it ends."}{" "}
            The service infers emotions from voice and words, and stores no recording without your consent.
          </small>
        </>
      )}
    </div>
  );
}
