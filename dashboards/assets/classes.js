// The classes of requests: few rows, so they are written anew where anything changed.

import { byId, el, setText } from './dom.js';
import { fixed, latency, percent, plural, text } from './format.js';

const COLUMNS = [
  ['Class', 'What the requests have in common: method, path with values folded, size of the body.'],
  ['Share', 'Share of the requests.'],
  ['Cost', 'What one takes at the average endpoint when nothing is queued.'],
  ['Factors', 'What one takes at the endpoint that finds it easiest, and at the one that finds it hardest, relative to that.'],
  ['Priority', 'Share of the concurrency limit that the class may fill, whatever it costs.'],
  ['Shed', 'Share of the requests that admission control turned away over the last seconds.'],
];

let shown = '';

/** Shows the classes of the selected backend; nothing where its requests are not told apart. */
export function showClasses({ tick }) {
  const classes = [...(tick.backend.classes ?? [])].sort((a, b) => b.share - a.share || a.name.localeCompare(b.name));
  byId('classes').hidden = classes.length === 0;
  setText(byId('classes-note'), classes.length ? plural(classes.length, 'class', 'classes') : '');
  const rows = classes.map(cells);
  const key = JSON.stringify(rows);
  if (key === shown) return;
  shown = key;
  const heads = COLUMNS.map(([title, tip]) => el('th', { scope: 'col', text: title, tabindex: 0, data: { tip } }));
  const body = rows.map(([name, ...numbers]) =>
    el('tr', {}, el('th', { scope: 'row', text: name }), ...numbers.map((number) => el('td', { text: number }))),
  );
  const table = el('table', { class: 'classes' }, el('thead', {}, el('tr', {}, ...heads)), el('tbody', {}, ...body));
  byId('classes-table').replaceChildren(el('div', { class: 'scroll' }, table));
}

function cells({ name, share, cost_ms: cost, factor_min: min, factor_max: max, priority, shed_share: shed }) {
  const factors = min === null || max === null ? '–' : `${fixed(min, 2)}–${fixed(max, 2)}`;
  return [name, text(percent(share)), text(latency(cost)), factors, text(percent(priority)), text(percent(shed))];
}
