import { memo, type RefObject, useEffect, useId, useRef } from "react";

import { clock, percent } from "../emotions";
import { utteranceVerdict } from "../exports";
import { emotionOf } from "../overview";
import type { Utterance } from "../utterances";
import { UtteranceWords } from "./UtteranceWords";

interface Props {
  utterances: Utterance[];
  /** The utterance that is being played. */
  current: Utterance | undefined;
  /** Plays the recording from an utterance; absent if it can't be played. */
  onPlay?: (from: Utterance) => void;
}

/** Table of the utterances in a box that scrolls. */
export function UtteranceTable({ utterances, current, onPlay }: Props) {
  const box = useFollow(current);
  const caption = useId();

  return (
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- the box is scrolled with the arrow keys
    <div className="scroll" role="region" aria-labelledby={caption} tabIndex={0} ref={box}>
      <table className="utterance-table">
        <caption id={caption}>Utterances</caption>
        <thead>
          <tr>
            <th scope="col">Time</th>
            <th scope="col">Words</th>
            <th scope="col">Emotion and confidence</th>
          </tr>
        </thead>
        <tbody>
          {utterances.map((one) => (
            <Row key={one.start} utterance={one} isCurrent={one === current} onPlay={onPlay} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

const Row = memo(function Row({ utterance, isCurrent, onPlay }: { utterance: Utterance; isCurrent: boolean; onPlay?: Props["onPlay"] }) {
  const time = clock(utterance.start);
  const { status, confidence } = utterance;
  return (
    <tr aria-current={isCurrent || undefined}>
      <th scope="row">
        {onPlay ? (
          <button type="button" aria-label={`Play from ${time}`} onClick={() => onPlay(utterance)}>
            {time}
          </button>
        ) : (
          time
        )}
      </th>
      <td>
        <UtteranceWords utterance={utterance} />
      </td>
      <td>
        <span className="label" data-emotion={emotionOf(utterance) ?? undefined}>
          {utteranceVerdict(utterance)}
        </span>
        {status === "ok" && confidence !== null && <span className="confidence"> {percent(confidence)}</span>}
      </td>
    </tr>
  );
});

/** Returns the ref of a box that scrolls along with the row that is being played, unless the user has scrolled away from it. */
function useFollow(current: Utterance | undefined): RefObject<HTMLDivElement | null> {
  const box = useRef<HTMLDivElement>(null);
  const followed = useRef<Element>(null);
  useEffect(() => {
    const row = box.current!.querySelector("[aria-current]");
    if (!row) return;
    const top = box.current!.querySelector("thead th")!.getBoundingClientRect().bottom; // it stays in place
    const { bottom } = box.current!.getBoundingClientRect();
    const before = followed.current?.getBoundingClientRect();
    followed.current = row;
    if (before && (before.bottom < top || before.top > bottom)) return;
    const now = row.getBoundingClientRect();
    if (now.bottom > bottom) box.current!.scrollTop += now.bottom - bottom;
    else if (now.top < top) box.current!.scrollTop -= top - now.top;
  }, [current]);
  return box;
}
