// Axes: where the ticks go, and how a canvas is made sharp.

/** A step of 1, 2, 2.5 or 5 times a power of ten that gives at most `count` steps up to `max`. */
export function niceStep(max, count) {
  const rough = max / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].find((step) => step * power >= rough * 0.999) * power;
}

/** Values of the ticks from 0 to the first at or above `max`. */
export function valueTicks(max, count) {
  const step = niceStep(max, count);
  const steps = Math.ceil(max / step - 1e-9);
  return Array.from({ length: steps + 1 }, (_, index) => index * step);
}

const TIME_STEPS_S = [5, 10, 15, 30, 60, 120, 300];

/** Times of the ticks between two times, at round seconds of the local clock, at most `count`. */
export function timeTicks(from, to, count) {
  const stepMs = 1000 * (TIME_STEPS_S.find((step) => (to - from) / (step * 1000) <= count) ?? 300);
  const ticks = [];
  for (let time = Math.ceil(from / stepMs) * stepMs; time <= to; time += stepMs) ticks.push(time);
  return { ticks, precision: stepMs < 60_000 ? 'seconds' : 'minutes' };
}

// Sizes are observed and not read: reading one in the middle of drawing would make the browser lay out the page each time.
const sizes = new WeakMap();
let resized = () => {};
const observer = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) sizes.set(target, contentRect);
  resized();
});

/** Calls back when a canvas has another size. */
export function onResize(redraw) {
  resized = redraw;
}

/** Matches a canvas to its size on the screen; returns its context and size in CSS pixels. Until that is known, it is 0. */
export function fit(canvas) {
  if (!sizes.has(canvas)) {
    sizes.set(canvas, { width: 0, height: 0 });
    observer.observe(canvas);
  }
  const { width, height } = sizes.get(canvas);
  const ratio = window.devicePixelRatio || 1;
  const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Index of the entry of a sorted list that is nearest to `value`. */
export function nearest(list, value) {
  let low = 0;
  let high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle;
    else high = middle;
  }
  return value - list[low] <= list[high] - value ? low : high;
}
