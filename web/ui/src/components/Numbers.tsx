import { EMOTIONS, percent, VIEW, type Views, VIEWS } from "../emotions";

/** Table of the numbers in the radar chart. */
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
