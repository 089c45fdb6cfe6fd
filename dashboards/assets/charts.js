// Which charts there are, and what each of them draws.

import { byId, el, setText } from './dom.js';
import { Chart } from './chart.js';
import { assign, colorOf, themed } from './color.js';
import { count, fixed, latency, percent, plural, rate, text } from './format.js';
import { TRACKED_MAX } from './store.js';

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
    selected: new Chart({ title: 'Weight of one endpoint', format: percent, least: 1e-4, most: 1, wide: true }),
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

  // With more endpoints than lines, a band shows where nine of ten of them lie.
  const many = store.names.length > TRACKED_MAX;
  const linesOf = (field) =>
    names
      .map((name) => ({
        name: store.short(name),
        color: colorOf(name),
        values: series.get(name)[field],
        faint: highlighted !== null && name !== highlighted,
        width: name === selected || name === highlighted ? 2.2 : many ? 1.1 : 1.5,
        last: name === selected,
      }))
      .sort((a, b) => a.last - b.last);
  const draw = (chart, field, format, empty) => {
    const lines = linesOf(field);
    if (chart.options.kind === 'stack' && !many) lines.sort((a, b) => byName(a.name, b.name));
    const band = many ? timeline.spread[field] : null;
    chart.draw({ ...common, series: lines, band, empty: hasAny(lines) ? null : empty, summary: extreme(series, field, format) });
  };
  const by = many ? 'nine of ten endpoints are within the band' : null;
  setText(charts.weights.note, by ?? 'share of the traffic, by endpoint');
  draw(charts.weights, 'weight_applied', percent, 'no endpoints yet');
  showLatency(charts.latency, common, totals, tick.backend);
  draw(charts.inFlight, 'in_flight', count, 'nothing in flight yet');
  draw(charts.capacity, 'capacity_rps', rate, 'capacity is not known yet');
  draw(charts.errors, 'error', percent, 'no requests yet');
  draw(charts.tails, 'latency_ms_p99', latency, 'no requests yet');
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
function showLegend(store, names, choose) {
  const { names: present, selected } = store;
  const lead =
    present.length > names.length
      ? `${fixed(names.length)} of ${fixed(present.length)} endpoints: the heaviest, busiest, slowest and most failing`
      : plural(present.length, 'endpoint');
  const key = [lead, store.prefix, ...names, themed('bg')].join('\n');
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
        return el('li', {}, el('button', { type: 'button', title: name, data: { name }, on }, dot, store.short(name)));
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
