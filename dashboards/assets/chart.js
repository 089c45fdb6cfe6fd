// One chart on a canvas: lines or a stack over time, axes with units, a crosshair that all charts share, a read-out.

import { el, setText } from './dom.js';
import { themed } from './color.js';
import { clock, text } from './format.js';
import { fit, nearest, timeTicks, valueTicks } from './scale.js';

const LEFT = 52;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 22;
const READOUT_ROWS_MAX = 12;

const charts = new Set();

/**
 * `options`: title, note, kind ('lines' | 'stack'), format (value -> {number, unit}), least (the axis goes at least up to
 * this), most (never beyond this), wide.
 */
export class Chart {
  constructor(options) {
    this.options = options;
    this.title = el('h3', { text: options.title });
    this.note = el('p', { class: 'note', text: options.note ?? '' });
    this.keys = el('div', { class: 'keys' });
    this.canvas = el('canvas', { role: 'img' });
    this.empty = el('p', { class: 'empty', hidden: true });
    this.crosshair = el('div', { class: 'crosshair', hidden: true });
    this.readout = el('div', { class: 'readout', hidden: true });
    this.plot = el('div', { class: 'plot' }, this.canvas, this.empty, this.crosshair, this.readout);
    this.figure = el(
      'figure',
      { class: `panel chart${options.wide ? ' wide' : ''}` },
      el('figcaption', {}, this.title, this.note, this.keys),
      this.plot,
    );
    this.model = null;
    this.plot.addEventListener('pointermove', (event) => this.#point(event));
    this.plot.addEventListener('pointerdown', (event) => this.#point(event));
    this.plot.addEventListener('pointerleave', () => showCursor(null, null));
    charts.add(this);
  }

  /**
   * `model`: from, to, times, gapMs, series [{name, color, values, dash, width, faint}],
   * band ({low, middle, high}), rule ({value, label}), empty (text), summary.
   */
  draw(model) {
    this.model = model;
    const { context, width, height } = fit(this.canvas);
    if (width < LEFT + 40) return;
    this.area = { left: LEFT, top: TOP, right: width - RIGHT, bottom: height - BOTTOM };
    this.empty.hidden = !model.empty;
    if (model.empty) setText(this.empty, model.empty);
    this.canvas.setAttribute('aria-label', `${this.options.title}. ${model.summary ?? model.empty ?? ''}`);
    const first = Math.max(0, lowerBound(model.times, model.from) - 1);
    this.stack = this.options.kind === 'stack' && !model.band ? cumulate(model.series, model.times.length, first) : null;
    const max = this.#max(first);
    this.#axes(context, model, max);
    if (model.empty) return;
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, this.area.right - LEFT, this.area.bottom + 1);
    context.clip();
    if (this.stack) this.#bands(context, first);
    else {
      if (model.band) this.#spread(context, first);
      this.#lines(context, first);
    }
    context.restore();
  }

  x = (time) => LEFT + ((time - this.model.from) / (this.model.to - this.model.from)) * (this.area.right - LEFT);
  y = (value) => this.area.bottom - (value / this.top) * (this.area.bottom - TOP);

  #max(first) {
    const { series, rule, band } = this.model;
    let max = this.options.least ?? 0;
    if (rule && !this.model.empty) max = Math.max(max, rule.value * 1.08);
    if (this.stack) return 1;
    for (const { values } of band ? [...series, { values: band.high }] : series) {
      for (let index = first; index < values.length; index++) if (values[index] > max) max = values[index];
    }
    return Math.min(max || 1, this.options.most ?? Infinity);
  }

  #axes(context, model, max) {
    const { left, right, bottom } = this.area;
    const values = valueTicks(max, this.area.bottom - TOP > 190 ? 5 : 4);
    this.top = this.options.most ? Math.min(values.at(-1), this.options.most) : values.at(-1);
    context.font = `11.5px ${themed('sans')}`;
    context.fillStyle = themed('muted');
    context.strokeStyle = themed('grid');
    context.lineWidth = 1;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (const value of values) {
      if (value > this.top * 1.001) continue;
      const y = Math.round(this.y(value)) + 0.5;
      line(context, left, y, right, y);
      context.fillText(axisText(this.options.format, value, values.at(-1)), left - 7, y);
    }
    context.textBaseline = 'alphabetic';
    const { ticks, precision } = timeTicks(model.from, model.to, Math.max(2, Math.floor((right - left) / 78)));
    context.textAlign = 'center';
    for (const time of ticks) {
      const x = Math.round(this.x(time)) + 0.5;
      line(context, x, bottom, x, bottom + 4);
      const label = clock(time, precision);
      const half = context.measureText(label).width / 2;
      context.fillText(label, Math.min(Math.max(x, left + half - 8), right - half + 6), bottom + 16);
    }
    if (model.rule && !model.empty) {
      const y = Math.round(this.y(model.rule.value)) + 0.5;
      context.save();
      context.setLineDash([5, 4]);
      context.strokeStyle = themed('muted');
      line(context, left, y, right, y);
      context.restore();
      context.textAlign = 'left';
      context.fillText(model.rule.label, left + 6, y - 5);
    }
    context.strokeStyle = themed('line-strong');
    line(context, left, bottom + 0.5, right, bottom + 0.5);
  }

  /** The range that holds nine of ten endpoints, with their median. */
  #spread(context, first) {
    const { times, band, gapMs } = this.model;
    const known = (index) => band.low[index] !== null && band.low[index] !== undefined;
    const median = { name: 'median', color: themed('muted'), values: band.middle, width: 1.2, dash: [2, 3] };
    context.fillStyle = themed('band');
    let from = first;
    for (let index = first; index <= times.length; index++) {
      if (index < times.length && known(index) && (index === from || times[index] - times[index - 1] <= gapMs)) continue;
      context.beginPath();
      for (let i = from; i < index; i++) context.lineTo(this.x(times[i]), this.y(band.high[i]));
      for (let i = index - 1; i >= from; i--) context.lineTo(this.x(times[i]), this.y(band.low[i]));
      context.fill();
      from = known(index) ? index : index + 1;
    }
    this.#lines(context, first, [median]);
  }

  #lines(context, first, series = this.model.series) {
    const { times, gapMs } = this.model;
    context.lineJoin = 'round';
    for (const { values, color, width = 1.6, dash = [], faint = false } of series) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.globalAlpha = faint ? 0.16 : 1;
      context.setLineDash(dash);
      context.beginPath();
      let last = null;
      let drawnX = -Infinity;
      for (let index = first; index < times.length; index++) {
        const value = values[index];
        // What is missing for less than a gap is bridged.
        if (value === null || value === undefined) continue;
        const x = this.x(times[index]);
        // Two points on one pixel say no more than one; the last is always drawn.
        if (last !== null && x - drawnX < 0.7 && index < times.length - 1) continue;
        if (last === null || times[index] - last > gapMs) context.moveTo(x, this.y(value));
        else context.lineTo(x, this.y(value));
        last = times[index];
        drawnX = x;
      }
      context.stroke();
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  #bands(context, first) {
    const { times, series, gapMs } = this.model;
    const seam = themed('panel');
    for (let band = series.length - 1; band >= 0; band--) {
      const upper = this.stack[band];
      const lower = band > 0 ? this.stack[band - 1] : null;
      context.globalAlpha = series[band].faint ? 0.22 : 0.92;
      context.fillStyle = series[band].color;
      let from = first;
      for (let index = first + 1; index <= times.length; index++) {
        if (index < times.length && times[index] - times[index - 1] <= gapMs) continue;
        context.beginPath();
        for (let i = from; i < index; i++) context.lineTo(this.x(times[i]), this.y(upper[i]));
        for (let i = index - 1; i >= from; i--) context.lineTo(this.x(times[i]), this.y(lower ? lower[i] : 0));
        context.fill();
        context.globalAlpha = 1;
        context.strokeStyle = seam;
        context.lineWidth = 0.75;
        context.beginPath();
        for (let i = from; i < index; i++) context.lineTo(this.x(times[i]), this.y(upper[i]));
        context.stroke();
        context.globalAlpha = series[band].faint ? 0.22 : 0.92;
        from = index;
      }
    }
    context.globalAlpha = 1;
  }

  #point(event) {
    if (!this.model || !this.area || this.model.empty) return;
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    if (x < LEFT || x > this.area.right) return showCursor(null, null);
    const time = this.model.from + ((x - LEFT) / (this.area.right - LEFT)) * (this.model.to - this.model.from);
    showCursor(time, this);
  }

  /** Moves the crosshair to `time`; the chart that is pointed at also lists the values there. */
  mark(time, pointedAt) {
    const { model } = this;
    const visible = time !== null && model && this.area && !model.empty && model.times.length > 0;
    this.crosshair.hidden = !visible;
    this.readout.hidden = !(visible && pointedAt);
    if (!visible) return;
    const index = nearest(model.times, time);
    const x = this.x(model.times[index]);
    this.crosshair.style.transform = `translate(${Math.round(x)}px, ${TOP}px)`;
    this.crosshair.style.height = `${this.area.bottom - TOP}px`;
    if (pointedAt) this.#list(index, x);
  }

  #list(index, x) {
    const { series, times } = this.model;
    const rows = series.filter(({ values }) => values[index] !== null && values[index] !== undefined);
    if (series.length > 3) rows.sort((a, b) => b.values[index] - a.values[index]);
    const nodes = rows.slice(0, READOUT_ROWS_MAX).map(({ name, color, values }) => {
      const dot = el('span', { class: 'dot' });
      dot.style.background = color;
      return el('div', { class: 'row' }, dot, el('span', { text: name }), el('b', { text: text(this.options.format(values[index])) }));
    });
    if (rows.length > READOUT_ROWS_MAX) nodes.push(el('div', { class: 'when', text: `and ${rows.length - READOUT_ROWS_MAX} more` }));
    this.readout.replaceChildren(el('div', { class: 'when', text: clock(times[index]) }), ...nodes);
    const { width, height } = this.readout.getBoundingClientRect();
    const left = x + 14 + width > this.area.right ? x - width - 14 : x + 14;
    const y = Math.max(0, Math.min(TOP, this.area.bottom - height));
    this.readout.style.transform = `translate(${Math.round(Math.max(0, left))}px, ${Math.round(y)}px)`;
  }
}

let pending = null;

function showCursor(time, chart) {
  if (!pending) requestAnimationFrame(() => {
    for (const each of charts) each.mark(pending.time, each === pending.chart);
    pending = null;
  });
  pending = { time, chart };
}

/** Sums of the series up to each one; a missing value adds nothing. */
function cumulate(series, length, first) {
  const sum = new Float64Array(length);
  return series.map(({ values }) => {
    for (let index = first; index < length; index++) sum[index] += values[index] ?? 0;
    return sum.slice();
  });
}

function lowerBound(list, value) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** All labels of an axis in the unit of the largest, so that they compare at a glance. */
function axisText(format, value, largest) {
  if (value === 0) return '0';
  const { unit } = format(largest);
  const own = format(value);
  if (own.unit === unit) return `${Number(own.number.replace(/,/g, '')).toLocaleString('en')}\u202f${unit}`.trim();
  return text({ number: String(+(Number(format(largest).number.replace(/,/g, '')) * (value / largest)).toPrecision(3)), unit });
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}
