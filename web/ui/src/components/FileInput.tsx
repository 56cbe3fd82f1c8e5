import { type DragEvent, useState } from "react";

import { ApiError, type Health } from "../api";
import type { Job } from "../job";

interface Props {
  limits: Health["limits"];
  busy: boolean;
  onJob: (job: Job) => void;
  onError: (error: ApiError) => void;
}

export function FileInput({ limits, busy, onJob, onError }: Props) {
  const [over, setOver] = useState(false);
  const maxSize = `${Math.round(limits.bytes / 2 ** 20)} MiB`;

  function submit(files: FileList | null) {
    const file = files?.[0];
    if (!file) return;
    if (file.size > limits.bytes) {
      onError(new ApiError("too_large", `${file.name} is too large; at most ${maxSize} are accepted.`));
    } else if (!file.size) {
      onError(new ApiError("empty", `${file.name} is empty. Choose another recording.`));
    } else onJob({ audio: file, source: file.name });
  }

  function drop(event: DragEvent) {
    event.preventDefault();
    setOver(false);
    if (!busy) submit(event.dataTransfer.files);
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
          submit(event.target.files);
          event.target.value = ""; // the same file can be chosen again
        }}
      />
      <strong>Choose a recording</strong>
      <span>or drop it here</span>
      <small>
        WAV, FLAC, MP3, Ogg, M4A or WebM; up to {limits.seconds} s and {maxSize}
      </small>
    </label>
  );
}
