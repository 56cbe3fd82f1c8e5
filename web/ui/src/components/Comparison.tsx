import { EMOTIONS, percent, verdict } from "../emotions";
import type { Recent } from "../recent";

/** Two recent analyses side by side. */
export function Comparison({ pair }: { pair: [Recent, Recent] }) {
  return (
    <section className="card comparison" aria-labelledby="comparison">
      <h3 id="comparison">Comparison</h3>
      <table>
        <thead>
          <tr>
            <th scope="col">Emotion</th>
            {pair.map(({ id, status, label, probabilities, source, text }) => (
              <th key={id} scope="col">
                <strong>{verdict(status, label, probabilities)}</strong>
                <span dir="auto">{text || source}</span>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {EMOTIONS.map((emotion) => (
            <tr key={emotion}>
              <th scope="row">{emotion}</th>
              {pair.map(({ id, probabilities }) => (
                <td key={id}>
                  <div>
                    <span className="bar" aria-hidden="true">
                      <span style={{ width: `${100 * probabilities[emotion]}%` }} data-emotion={emotion} />
                    </span>
                    {percent(probabilities[emotion])}
                  </div>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
