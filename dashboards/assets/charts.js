// Which charts there are, and what each of them draws.

import { byId, el, setText } from './dom.js';
import { Chart } from './chart.js';
import { assign, colorOf, themed } from './color.js';
import { count, fixed, latency, percent, plural, rate, text } from './format.js';

const REST = 'all others';

let charts = null;
let legend = null;
let highlighted = null;

function build() {
  charts = {
    weights: new Chart({ title: 'Applied weight', note: 'share of the traffic, by endpoint', kind: 'stack', format: percent, wide: true }),
    latency: new Chart({ title: 'Latency', note: 'of all requests, as clients see it', format: latency, least: 1, wide: true }),
    inFlight: new Chart({ title: 'In flight', note: 'by endpoint, all proxies', format: count, least: 2 }),
    capacity: new Chart({ title: 'Capacity', note: 'estimated, by endpoint', format: rate, least: 10 }),
    errors: new Chart({ title: 'Errors', note: 'soft average, by endpoint', format: percent, least: 0.01, most: 1 }),
    selected: new Chart({ title: 'Weight of one endpoint', format: percent, least: 0.01, most: 1, wide: true }),
    tails: new Chart({ title: 'p99', note: 'by endpoint', format: latency, least: 1, wide: true }),
  };
  legend = el('ul', { class: 'legend', 'aria-label': 'Endpoints in the charts' });
  const order = ['weights', 'latency', null, 'inFlight', 'capacity', 'errors', 'selected', 'tails'];
  byId('charts').append(...order.map((name) => (name ? charts[name].figure : legend)));
}

/** Draws all charts; `choose(name)` is called when an endpoint of the legend is chosen. */
export function showCharts(store, { from, to }, choose) {
  if (!charts) build();
  const { timeline, tick, selected } = store;
  const { times, totals, series } = timeline;
  const common = { from, to, times, gapMs: Math.max(3_000, timeline.spacingMs * 3) };
  const names = [...series.keys()].sort(byName);
  assign(names);
  showLegend(store, names, choose);

  const faint = (name) => highlighted !== null && name !== highlighted;
  const linesOf = (field) =>
    names
      .map((name) => ({ name, color: colorOf(name), values: series.get(name)[field], faint: faint(name), width: name === selected ? 2.6 : 1.5 }))
      .sort((a, b) => (a.name === selected) - (b.name === selected));
  const draw = (chart, field, empty, summary) => {
    const lines = linesOf(field);
    chart.draw({ ...common, series: lines, empty: hasAny(lines) ? null : empty, summary: summary(field) });
  };
  const top = (format) => (field) => extreme(series, field, format);

  const bands = names.map((name) => ({ name, color: colorOf(name), values: series.get(name).weight_applied, faint: faint(name) }));
  if (store.names.length > names.length) bands.push({ name: REST, color: themed('line-strong'), values: remainder(bands, times.length) });
  charts.weights.draw({ ...common, series: bands, empty: hasAny(bands) ? null : 'no endpoints yet', summary: extreme(series, 'weight_applied', percent) });

  showLatency(charts.latency, common, totals, tick.backend);
  draw(charts.inFlight, 'in_flight', 'nothing in flight yet', top(count));
  draw(charts.capacity, 'capacity_rps', 'capacity is not known yet', top(rate));
  draw(charts.errors, 'error', 'no requests yet', top(percent));
  draw(charts.tails, 'latency_ms_p99', 'no requests yet', top(latency));
  showSelected(charts.selected, common, store);
}

function showLatency(chart, common, totals, backend) {
  const series = [
    { name: 'p99', color: themed('accent'), values: totals.latency_ms_p99, width: 2 },
    { name: 'p50', color: themed('faint'), values: totals.latency_ms_p50, width: 2 },
  ];
  const objective = backend.objective_ms;
  const highest = Math.max(0, ...totals.latency_ms_p99.filter((value) => value !== null));
  // An objective far above everything measured would press the lines flat; then it is only named.
  const rule = objective !== null && objective < highest * 4 ? { value: objective, label: `objective ${text(latency(objective))}` } : null;
  const parts = series.map(({ name, values }) => `${name} ${text(latency(values.at(-1)))}`);
  chart.draw({ ...common, series, rule, empty: hasAny(series) ? null : 'no requests yet', summary: parts.join(', ') });
  keys(chart, series.map(({ name, color, values }) => ({ name, color, value: text(latency(values.at(-1))) })));
}

function showSelected(chart, common, { selected, timeline, indexOf, addresses }) {
  const fields = timeline.series.get(selected);
  setText(chart.title, selected ?? 'Weight of one endpoint');
  const address = addresses[indexOf.get(selected)];
  setText(chart.note, selected === null ? 'choose one below' : `weight${address && address !== selected ? `, ${address}` : ''}`);
  const color = selected === null ? themed('muted') : colorOf(selected);
  const series = fields
    ? [
        { name: 'baseline', color: themed('faint'), values: fields.weight_baseline, dash: [2, 3], width: 1.8 },
        { name: 'proposed', color: themed('muted'), values: fields.weight_proposed, dash: [6, 4] },
        { name: 'applied', color, values: fields.weight_applied, width: 2.4 },
      ]
    : [];
  const parts = series.map(({ name, values }) => `${name} ${text(percent(values.at(-1)))}`);
  chart.draw({ ...common, series, empty: hasAny(series) ? null : 'loading its history', summary: `${selected}: ${parts.join(', ')}` });
  keys(chart, series.map(({ name, color, values, dash }) => ({ name, color, dashed: Boolean(dash), value: text(percent(values.at(-1))) })));
}

/** The legend inside one chart, with the present values. */
function keys(chart, entries) {
  const key = entries.map(({ name, value, color }) => name + value + color).join();
  if (chart.keys.dataset.key === key) return;
  chart.keys.dataset.key = key;
  chart.keys.replaceChildren(
    ...entries.map(({ name, color, dashed, value }) => {
      const sample = el('i', { class: dashed ? 'dashed' : '' });
      sample.style.setProperty('--key', color);
      return el('span', {}, sample, name, el('b', { text: value }));
    }),
  );
}

/** The legend of all charts: hovering one endpoint dims the others, choosing it shows its weights. */
function showLegend({ names: present, selected }, names, choose) {
  const lead =
    present.length > names.length
      ? `${plural(names.length, 'endpoint')} of ${fixed(present.length)}: the heaviest, slowest, busiest and most failing`
      : plural(present.length, 'endpoint');
  const key = [lead, ...names, themed('bg')].join('\n');
  if (legend.dataset.key !== key) {
    legend.dataset.key = key;
    legend.replaceChildren(
      el('li', { class: 'lead', text: lead }),
      ...names.map((name) => {
        const dot = el('span', { class: 'dot' });
        dot.style.background = colorOf(name);
        const on = {
          click: () => choose(name),
          pointerenter: () => highlight(name, choose),
          pointerleave: () => highlight(null, choose),
        };
        return el('li', {}, el('button', { type: 'button', data: { name }, on }, dot, name));
      }),
    );
  }
  for (const button of legend.querySelectorAll('button')) {
    button.setAttribute('aria-pressed', String(button.dataset.name === selected));
  }
}

/** Dims all but `name` in the charts; `null` ends it. */
export function highlight(name, redraw) {
  if (highlighted === name) return;
  highlighted = name;
  redraw(null);
}

function remainder(bands, length) {
  return Array.from({ length }, (_, index) => {
    const known = bands.filter(({ values }) => values[index] !== null);
    return known.length ? Math.max(0, 1 - known.reduce((sum, { values }) => sum + values[index], 0)) : null;
  });
}

function extreme(series, field, format) {
  let most = null;
  for (const [name, fields] of series) {
    const value = fields[field].at(-1);
    if (value !== null && value !== undefined && (most === null || value > most.value)) most = { name, value };
  }
  return most ? `Highest now: ${most.name}, ${text(format(most.value))}` : '';
}

const hasAny = (series) => series.some(({ values }) => values.some((value) => value !== null && value !== undefined));

const collator = new Intl.Collator('en', { numeric: true });
export const byName = (a, b) => collator.compare(a, b);
