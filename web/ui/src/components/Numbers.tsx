import { EMOTIONS, percent, VIEW, VIEWS } from "../emotions";
import type { Views } from "./Result";

/** The numbers of the radar chart. */
export function Numbers({ views }: { views: Views }) {
  return (
    <table>
      <caption>How likely each emotion is</caption>
      <thead>
        <tr>
          <th scope="col">Emotion</th>
          {VIEWS.map((view) => (
            <th key={view} scope="col">
              {VIEW[view].name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {EMOTIONS.map((emotion) => (
          <tr key={emotion}>
            <th scope="row">{emotion}</th>
            {VIEWS.map((view) => (
              <td key={view}>{views[view] ? percent(views[view][emotion]) : "–"}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
