import { EMOTIONS, percent, type View, VIEW, type Views, VIEWS } from "../emotions";

const GRID = [0, 0.5, 1]; // shares with a label and a line

/** Table of the numbers in the radar chart, with a bar on one axis from 0 to 100 % beside each number. */
export function Numbers({ views }: { views: Views }) {
  const present = VIEWS.filter((view) => views[view]);
  return (
    <table className="numbers">
      <caption>How likely each emotion is</caption>
      <thead>
        <tr>
          <th scope="col">
            <span className="hidden">Emotion and view</span>
          </th>
          <th scope="col">
            <span className="hidden">Probability</span>
            <span className="axis" aria-hidden="true">
              {GRID.map((share) => (
                <span key={share} style={{ left: `${100 * share}%` }}>
                  {percent(share)}
                </span>
              ))}
            </span>
          </th>
        </tr>
      </thead>
      {EMOTIONS.map((emotion) => (
        <tbody key={emotion}>
          <tr>
            <th colSpan={2} scope="rowgroup">
              {emotion}
            </th>
          </tr>
          {present.map((view) => (
            <tr key={view}>
              <th scope="row">{VIEW[view].short}</th>
              <td>
                <div>
                  <Bar view={view} share={views[view]![emotion]} />
                  {percent(views[view]![emotion])}
                </div>
              </td>
            </tr>
          ))}
        </tbody>
      ))}
    </table>
  );
}

/** SVG paths around 0, 0: each view has an end of its own for people who cannot tell the colours apart. */
const ENDS: Record<View, string> = {
  fused: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",
  audio: "M-4.5 -4.5h9v9h-9z",
  text: "M0 -6L6 0L0 6L-6 0z",
};

/** Line as in the radar chart from 0 to a share, with a mark at its end. */
function Bar({ view, share }: { view: View; share: number }) {
  const { colour, dash } = VIEW[view];
  const end = `${100 * share}%`;
  return (
    <svg aria-hidden="true">
      {GRID.map((one) => (
        <line key={one} x1={`${100 * one}%`} x2={`${100 * one}%`} y1="0" y2="100%" stroke="var(--line)" />
      ))}
      <line x1="0" x2={end} y1="50%" y2="50%" stroke={colour} strokeWidth="2.5" strokeDasharray={dash} />
      <svg x={end} y="50%" overflow="visible">
        <path d={ENDS[view]} fill={colour} />
      </svg>
    </svg>
  );
}
