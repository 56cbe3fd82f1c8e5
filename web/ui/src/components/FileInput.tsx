import { useState } from "react";

import type { Limits } from "../api";
import { span } from "../emotions";

interface Props {
  limits: Limits;
  busy: boolean;
  onFiles: (files: File[]) => void;
}

/** Chooses files. The page itself takes dropped files, wherever they are dropped. */
export function FileInput({ limits, busy, onFiles }: Props) {
  const [over, setOver] = useState(false);

  return (
    <label
      className="drop"
      data-over={over}
      onDragOver={() => setOver(true)}
      onDragLeave={() => setOver(false)}
      onDrop={() => setOver(false)}
    >
      <input
        type="file"
        multiple
        accept="audio/*,video/webm,video/mp4,.flac,.ogg,.opus,.m4a"
        disabled={busy}
        onChange={(event) => {
          onFiles([...(event.target.files ?? [])]);
          event.target.value = ""; // the same file can be chosen again
        }}
      />
      <strong>Choose recordings</strong>
      <span>or drop them on the page</span>
      <small>
        WAV, FLAC, MP3, Ogg, M4A or WebM; up to {span(limits.long_seconds)} and {megabytes(limits.bytes)} each
      </small>
    </label>
  );
}

/** Returns a size, such as "20 MiB". */
export function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
