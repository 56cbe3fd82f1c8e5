import { type ReactEventHandler, type RefObject, useCallback } from "react";

interface Props {
  audio: Blob;
  label: string;
  playerRef?: RefObject<HTMLAudioElement | null>;
  onTimeUpdate?: ReactEventHandler<HTMLAudioElement>;
  onError?: () => void;
}

/** The browser's own player for a recording. */
export function Player({ audio, label, playerRef, onTimeUpdate, onError }: Props) {
  const load = useCallback(
    (element: HTMLAudioElement) => {
      const url = URL.createObjectURL(audio);
      element.src = url;
      if (playerRef) playerRef.current = element;
      return () => URL.revokeObjectURL(url);
    },
    [audio, playerRef],
  );
  // eslint-disable-next-line jsx-a11y/media-has-caption -- nobody has written down what was said
  return <audio controls ref={load} aria-label={label} onTimeUpdate={onTimeUpdate} onError={onError} />;
}
