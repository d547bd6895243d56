// Cost against work, both axes logarithmic: what does not depend on history is a level line.

interface Point {
  size: number;
  incremental: number;
  full: number;
}

const WIDTH = 640;
const HEIGHT = 360;
const MARGIN = 60;

export function plot(points: readonly Point[]): string {
  const times = points.flatMap(({ incremental, full }) => [incremental, full]);
  const scale = (from: number, to: number, low: number, high: number) => (value: number) =>
    low + ((Math.log(value) - Math.log(from)) / (Math.log(to) - Math.log(from))) * (high - low);
  const x = scale(points[0]!.size, points.at(-1)!.size, MARGIN, WIDTH - MARGIN);
  const [bottom, top] = [
    10 ** Math.floor(Math.log10(Math.min(...times))),
    10 ** Math.ceil(Math.log10(Math.max(...times))),
  ];
  const y = scale(bottom, top, HEIGHT - MARGIN, MARGIN / 2);
  const text = (at: number, to: number, anchor: string, content: string): string =>
    `<text x="${at.toFixed(0)}" y="${to.toFixed(0)}" text-anchor="${anchor}">${content}</text>`;
  const line = (colour: string, pick: (point: Point) => number, name: string): string => {
    const path = points.map((point) => `${x(point.size).toFixed(1)},${y(pick(point)).toFixed(1)}`).join(" ");
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>
${text(WIDTH - MARGIN, y(pick(points.at(-1)!)) - 8, "end", name)}`;
  };
  const levels = Array.from({ length: Math.round(Math.log10(top / bottom)) + 1 }, (_, i) => bottom * 10 ** i);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${levels.map((level) => `<line x1="${MARGIN}" x2="${WIDTH - MARGIN}" y1="${y(level).toFixed(1)}" y2="${y(level).toFixed(1)}" stroke="#ddd"/>${text(MARGIN - 6, y(level) + 4, "end", `${level} ms`)}`).join("\n")}
${points.map(({ size }) => text(x(size), HEIGHT - MARGIN + 20, "middle", size.toLocaleString("en"))).join("\n")}
${text(WIDTH / 2, HEIGHT - 15, "middle", "transactions in history")}
${line("#c33", ({ full }) => full, "full")}
${line("#36c", ({ incremental }) => incremental, "one changed day")}
</svg>
`;
}
