// The small line under a key number: its course over the time shown, without axes.

import { themed } from './color.js';
import { fit } from './scale.js';

/** Draws `values` over `times` from `from` to `to`; the area below is tinted. */
export function sparkline(canvas, { times, values, from, to, color = 'accent', floor = 0 }) {
  const { context, width, height } = fit(canvas);
  if (!width || to <= from) return;
  let max = floor;
  const points = [];
  for (let index = 0; index < times.length; index++) {
    if (times[index] < from || values[index] === null || values[index] === undefined) continue;
    if (values[index] > max) max = values[index];
    points.push([times[index], values[index]]);
  }
  if (points.length < 2) return;
  const x = (time) => ((time - from) / (to - from)) * width;
  const y = (value) => height - 1 - (value / (max || 1)) * (height - 5);
  context.beginPath();
  for (const [time, value] of points) context.lineTo(x(time), y(value));
  context.strokeStyle = themed(color);
  context.lineWidth = 1.5;
  context.lineJoin = 'round';
  context.stroke();
  context.lineTo(x(points.at(-1)[0]), height);
  context.lineTo(x(points[0][0]), height);
  context.globalAlpha = 0.12;
  context.fillStyle = themed(color);
  context.fill();
  context.globalAlpha = 1;
}
