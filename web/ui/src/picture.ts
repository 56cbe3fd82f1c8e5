/** Draws the radar chart as a PNG image of its own. */

import { VIEW, type View } from "./emotions";

const SVG = "http://www.w3.org/2000/svg";
const SCALE = 2; // pixels of the image for each unit of the drawing
const WIDTH = 480;
const TOP = 92; // below the title and the label
const LEGEND_ROW = 22;
const MARGIN = 24;
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const MAX_CHART_HEIGHT = 360;
const MAX_CHART_SCALE = 1.3; // keeps the letters of a small chart in proportion
const MAX_TITLE = 52; // characters that fit on a line
const LONG_LABEL = 22; // characters: a longer label is written smaller

export interface Picture {
  title: string;
  label: string;
  shown: View[];
  /** Lines below the legend. */
  notes: string[];
}

/**
 * Returns the chart as a PNG image on a white background.
 *
 * @param chart element that contains the chart's SVG
 * @throws if the browser cannot draw it
 */
export async function draw(chart: HTMLElement, picture: Picture): Promise<Blob> {
  const drawing = compose(chart.querySelector("svg")!, picture);
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(drawing))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = SCALE * Number(drawing.getAttribute("width"));
  canvas.height = SCALE * Number(drawing.getAttribute("height"));
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the canvas is empty"))), "image/png");
  });
}

/** Returns an SVG that needs nothing from the page: title, label, chart, legend and notes. */
export function compose(chart: SVGSVGElement, { title, label, shown, notes }: Picture): SVGSVGElement {
  const box = chart.getBBox(); // without the empty space around the chart
  const scale = Math.min((WIDTH - 2 * MARGIN) / box.width, MAX_CHART_HEIGHT / box.height, MAX_CHART_SCALE);
  const [width, height] = [scale * box.width, scale * box.height];
  const legend = TOP + height + MARGIN;
  const below = legend + LEGEND_ROW * shown.length + 8;
  const copy = chart.cloneNode(true) as SVGSVGElement;
  copy.removeAttribute("style"); // its size on the page
  set(copy, { x: (WIDTH - width) / 2, y: TOP, width, height, viewBox: `${box.x} ${box.y} ${box.width} ${box.height}` });
  const short = title.length > MAX_TITLE ? `${title.slice(0, MAX_TITLE - 1)}…` : title;
  const drawing = element("svg", { width: WIDTH, height: Math.ceil(below + LEGEND_ROW * notes.length + MARGIN / 2), "font-family": FONT }) as SVGSVGElement;
  drawing.append(
    element("rect", { width: "100%", height: "100%", fill: "#ffffff" }),
    text(short, { x: MARGIN, y: 36, "font-size": 14, fill: "var(--soft)" }),
    text(label, { x: MARGIN, y: 70, "font-size": label.length > LONG_LABEL ? 18 : 26, "font-weight": 600, fill: "var(--ink)" }),
    copy,
    ...shown.flatMap((view, index) => {
      const y = legend + LEGEND_ROW * (index + 0.5);
      const line = { x1: MARGIN, x2: MARGIN + 36, y1: y, y2: y, "stroke-width": 3, stroke: VIEW[view].colour };
      return [
        element("line", { ...line, "stroke-dasharray": VIEW[view].dash ?? "none" }),
        text(VIEW[view].name, { x: MARGIN + 48, y: y + 5, "font-size": 14, fill: "var(--ink)" }),
      ];
    }),
    ...notes.map((note, index) =>
      text(note, { x: MARGIN, y: below + LEGEND_ROW * (index + 0.5) + 4, "font-size": 12, fill: "var(--soft)" }),
    ),
  );
  replaceVariables(drawing);
  return drawing;
}

/** Replaces the CSS variables in the attributes by their values in the light theme, since the background is white. */
function replaceVariables(drawing: SVGSVGElement): void {
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  const light = rules.find((rule): rule is CSSStyleRule => rule instanceof CSSStyleRule && rule.selectorText === ":root");
  const value = (name: string) => light?.style.getPropertyValue(name).trim() || "black";
  for (const one of drawing.querySelectorAll("*")) {
    for (const attribute of one.attributes) attribute.value = attribute.value.replace(/var\((--[\w-]+)\)/g, (_, name: string) => value(name));
  }
}

function text(content: string, attributes: Record<string, string | number>): SVGElement {
  const one = element("text", attributes);
  one.textContent = content;
  return one;
}

function element(name: string, attributes: Record<string, string | number>): SVGElement {
  return set(document.createElementNS(SVG, name), attributes);
}

function set(one: SVGElement, attributes: Record<string, string | number>): SVGElement {
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, String(value));
  return one;
}
