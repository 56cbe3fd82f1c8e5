import { PolarAngleAxis, PolarGrid, PolarRadiusAxis, Radar, RadarChart, ResponsiveContainer } from "recharts";

import { EMOTIONS, percent, strongest, type View, VIEW, type Views } from "../emotions";

const STEP = 0.25; // share between two rings

/** Radar chart of the five emotions; the table next to it has the same numbers. */
export function EmotionRadar({ views, shown }: { views: Views; shown: View[] }) {
  const data = EMOTIONS.map((emotion) => ({
    emotion,
    ...Object.fromEntries(shown.map((view) => [view, views[view]![emotion]])),
  }));
  // includes hidden views: the scale stays the same when a view is hidden
  const largest = Math.max(...Object.values(views).flatMap((view) => (view ? Object.values(view) : [])));
  const end = Math.ceil(largest / STEP) * STEP;
  const rings = Array.from({ length: end / STEP + 1 }, (_, index) => index * STEP);
  const summary = shown.map((view) => `${VIEW[view].name}: ${strongest(views[view]!)}`).join("; ");

  return (
    <figure className="radar">
      <div role="img" aria-label={`Radar chart. ${summary || "No view is shown."}`}>
        <ResponsiveContainer width="100%" height={300}>
          <RadarChart data={data} outerRadius="80%" accessibilityLayer={false}>
            <PolarGrid stroke="var(--grid)" />
            <PolarAngleAxis dataKey="emotion" tick={Label} />
            <PolarRadiusAxis domain={[0, end]} ticks={rings} allowDecimals tick={false} axisLine={false} />
            {shown.map((view) => (
              <Radar
                key={view}
                dataKey={view}
                stroke={VIEW[view].colour}
                strokeWidth={2.5}
                strokeDasharray={VIEW[view].dash}
                fill={VIEW[view].colour}
                fillOpacity={view === "fused" ? 0.16 : 0}
                isAnimationActive={false}
              />
            ))}
          </RadarChart>
        </ResponsiveContainer>
      </div>
      <figcaption>The outer ring is {percent(end)}; rings are {percent(STEP)} apart.</figcaption>
    </figure>
  );
}

/** Name of an emotion at its corner. Names at the sides stand above the corner, because phones are narrow. */
function Label({ x, y, index, payload }: { x: number | string; y: number | string; index: number; payload: { value: string } }) {
  const side = [0, 1, 0, 0, -1][index] ?? 0;
  return (
    <text
      x={Number(x) + 26 * side}
      y={Number(y) + (side ? -14 : index ? 8 : 0)}
      textAnchor={side ? (side > 0 ? "end" : "start") : "middle"}
      fill="var(--ink)"
      stroke="var(--surface)"
      strokeWidth={5}
      paintOrder="stroke"
      fontSize={13}
    >
      {payload.value}
    </text>
  );
}
