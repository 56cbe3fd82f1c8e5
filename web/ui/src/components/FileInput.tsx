import { type DragEvent, useState } from "react";

import type { Job } from "../App";
import { Failure, type Health } from "../api";

interface Props {
  limits: Health["limits"];
  busy: boolean;
  onJob: (job: Job) => void;
  onFailure: (why: Failure) => void;
}

export function FileInput({ limits, busy, onJob, onFailure }: Props) {
  const [over, setOver] = useState(false);
  const most = `${Math.round(limits.bytes / 2 ** 20)} MiB`;

  function take(files: FileList | null) {
    const file = files?.[0];
    if (!file) return;
    if (file.size > limits.bytes) {
      onFailure(new Failure("too_large", `${file.name} is too large; at most ${most} are accepted.`));
    } else if (!file.size) {
      onFailure(new Failure("empty", `${file.name} is empty. Choose another recording.`));
    } else onJob({ audio: file, source: file.name });
  }

  function drop(event: DragEvent) {
    event.preventDefault();
    setOver(false);
    if (!busy) take(event.dataTransfer.files);
  }

  return (
    <label
      className="drop"
      data-over={over}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
    >
      <input
        type="file"
        accept="audio/*,video/webm,video/mp4,.flac,.ogg,.opus,.m4a"
        disabled={busy}
        onChange={(event) => {
          take(event.target.files);
          event.target.value = ""; // so that the same file can be chosen again
        }}
      />
      <strong>Choose a recording</strong>
      <span>or drop it here</span>
      <small>
        WAV, FLAC, MP3, Ogg, M4A or WebM; up to {limits.seconds} s and {most}
      </small>
    </label>
  );
}
