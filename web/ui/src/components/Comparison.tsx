import { EMOTIONS, percent } from "../emotions";
import { type Recent, title } from "../recent";
import { Bar } from "./EmotionBars";

/** Two recent analyses side by side. */
export function Comparison({ pair }: { pair: [Recent, Recent] }) {
  return (
    <section className="card comparison" aria-labelledby="comparison">
      <h3 id="comparison">Comparison</h3>
      <table>
        <thead>
          <tr>
            <th scope="col">Emotion</th>
            {pair.map((one) => (
              <th key={one.id} scope="col">
                <strong>{title(one)}</strong>
                <span dir="auto">{one.utterances === undefined ? one.text || one.source : `${one.source}, share of the speaking time`}</span>
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
                    <Bar emotion={emotion} share={probabilities[emotion]} />
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
