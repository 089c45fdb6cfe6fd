// The endpoint table: sorted, filtered, and never more rows than can be read.

import { byId, el, setClass, setText } from './dom.js';
import { byName } from './charts.js';
import { colorOf } from './color.js';
import { fixed, plural, seconds, text } from './format.js';
import { reasonChip } from './guard.js';

const PAGE = 50;
/** While rows are sorted by something that moves, they change places at most this often. */
const RESORT_MS = 2_000;

const STATES = {
  Active: ['active', '', 'Gets its share.'],
  SlowStart: ['slow start', 'notice', 'New: its share ramps up.'],
  PartlyEjected: ['partly ejected', 'warning', 'Ejected by some of the proxies, because it failed.'],
  Ejected: ['ejected', 'fault', 'Ejected by all proxies, because it failed.'],
  Unhealthy: ['unhealthy', 'fault', 'Its health checks fail: `trimtab weights` says why.'],
  Draining: ['draining', '', 'No new requests; those in flight finish.'],
};

/** The more endpoints, the smaller their shares: so many decimals that they can be told apart. */
let decimals = 1;
const share = (value) => (value === null ? '–' : fixed(value * 100, decimals));
const failing = (value) => (value > 0 && value < 0.0005 ? '<0.1' : fixed(value * 100, 1));
const number = (decimals) => (value) => fixed(value, decimals);

/** `column`: which of the tick's columns; `zero`: a 0 is shown faintly. */
const COLUMNS = [
  { id: 'name', label: 'Endpoint', text: true },
  { id: 'state', label: 'State', text: true },
  { id: 'weight_baseline', label: 'Baseline', unit: '% weight', show: share, tip: 'What the fallback would give it.' },
  { id: 'weight_proposed', label: 'Proposed', unit: '% weight', show: share, tip: 'What the policy proposes.' },
  { id: 'weight_applied', label: 'Applied', unit: '% weight', show: share, tip: 'What the proxies use, after the guard.' },
  { id: 'share', label: 'Share', unit: '% of requests', bar: true, show: share, tip: 'Share of the requests that it really got lately.' },
  { id: 'rps', label: 'Requests', unit: '/s', show: number(0), zero: true, tip: 'Completed requests.' },
  { id: 'in_flight', label: 'In flight', unit: 'requests', show: number(1), zero: true, tip: 'All proxies together, mean over the interval.' },
  { id: 'latency_ms_p50', label: 'p50', unit: 'ms', show: number(1), tip: 'Median latency lately.' },
  { id: 'latency_ms_p99', label: 'p99', unit: 'ms', show: number(1), tip: '99th percentile of latency lately.' },
  { id: 'error', label: 'Errors', unit: '%', show: failing, zero: true, tip: 'Soft error average, pooled over the proxies.' },
  { id: 'capacity_rps', label: 'Capacity', unit: '/s', show: number(0), tip: 'Estimated capacity, where it is known.' },
  { id: 'slots', label: 'Slots', unit: 'requests', show: number(0), tip: 'Requests that it serves at once. ~: learned from its answers, as it does not tell.' },
  { id: 'scrape_age_s', label: 'Metrics', unit: 'age', show: (value) => (value === null ? 'none' : text(seconds(value))), tip: "Age of the endpoint's own metrics." },
];

let body = null;
let note = null;
let more = null;
let redraw = () => {};
const rows = [];
const view = { sort: null, descending: false, limit: PAGE, filter: '', order: [], sortedAt: 0, roster: null };

/** Builds the table; `choose(name)` when an endpoint is chosen, `again()` to draw it again. */
export function buildTable(choose, again) {
  redraw = again;
  const heads = COLUMNS.map((column) => {
    const button = el('button', { type: 'button', data: column.tip ? { tip: column.tip } : {}, on: { click: () => sortBy(column) } });
    button.append(el('span', { class: 'label', text: column.label }), el('small', { text: column.unit ?? '' }));
    return el('th', { scope: 'col', class: classOf(column), data: { id: column.id } }, button);
  });
  body = el('tbody', { on: { click: (event) => {
    const name = event.target.closest('tr')?.dataset.name;
    if (name !== undefined && !event.target.closest('.chip')) choose(name);
  } } });
  const widths = COLUMNS.map((column) => el('col', { class: `col-${column.text ? column.id : column.bar ? 'bar' : 'number'}` }));
  const table = el('table', { class: 'endpoints' }, el('colgroup', {}, ...widths), el('thead', {}, el('tr', {}, ...heads)), body);
  note = el('span');
  more = el('button', { type: 'button', on: { click: () => {
    view.limit += PAGE;
    redraw();
  } } });
  byId('table').append(el('div', { class: 'scroll' }, table), el('div', { class: 'more' }, note, more));
  byId('filter').addEventListener('input', (event) => {
    view.filter = event.target.value.trim().toLowerCase();
    view.limit = PAGE;
    view.sortedAt = 0;
    redraw();
  });
}

const classOf = (column) => [column.id === 'name' ? 'name' : '', column.text ? 'text' : ''].join(' ').trim();

function sortBy(column) {
  // The first click on a number shows the largest first, on a text the first of the alphabet.
  view.descending = view.sort === column.id ? !view.descending : !column.text;
  view.sort = column.id;
  view.sortedAt = 0;
  redraw();
}

/** Few endpoints stay in the order of their names; of many, the heaviest come first. */
function sorting(count) {
  return view.sort ?? (count > PAGE ? 'weight_applied' : 'name');
}

export function showTable(store) {
  const now = performance.now();
  decimals = Math.max(1, 1 + Math.ceil(Math.log10(Math.max(1, store.names.length) / 100)));
  if (view.roster !== store.roster || now - view.sortedAt > RESORT_MS) {
    view.roster = store.roster;
    view.sortedAt = now;
    view.order = order(store);
  }
  const sort = sorting(store.names.length);
  for (const head of byId('table').querySelectorAll('th[data-id]')) {
    if (head.dataset.id !== sort) head.removeAttribute('aria-sort');
    else head.setAttribute('aria-sort', (view.sort === null ? sort !== 'name' : view.descending) ? 'descending' : 'ascending');
  }
  const visible = view.order.slice(0, view.limit);
  while (rows.length < visible.length) rows.push(newRow());
  while (rows.length > visible.length) rows.pop().node.remove();
  visible.forEach((index, place) => fill(rows[place], store, index));
  const all = store.names.length;
  setText(byId('endpoints-note'), all ? plural(all, 'endpoint') : '');
  const found = view.filter ? `${fixed(view.order.length)} of ${plural(all, 'endpoint')} match` : '';
  const part = visible.length < view.order.length ? `showing the first ${fixed(visible.length)}` : '';
  const empty = all ? (view.order.length ? '' : `no endpoint matches “${view.filter}”`) : 'This backend has no endpoints yet.';
  setText(note, empty || [found, part].filter(Boolean).join(', '));
  more.hidden = visible.length >= view.order.length;
  setText(more, `Show ${fixed(Math.min(PAGE, view.order.length - visible.length))} more`);
  note.parentNode.hidden = !note.textContent && more.hidden;
}

function order(store) {
  const { names, addresses, states, tick } = store;
  const columns = tick.backend.endpoints;
  const stateOf = (index) => STATES[states[columns.state[index]]]?.[0] ?? '';
  const matches = (index) =>
    !view.filter ||
    [names[index], addresses[index], stateOf(index), ...store.reasonsOf(index)].some((word) => word.toLowerCase().includes(view.filter));
  const found = names.map((_, index) => index).filter(matches);
  const sort = sorting(names.length);
  const descending = view.sort === null ? sort !== 'name' : view.descending;
  const direction = descending ? -1 : 1;
  const compare = (a, b) => {
    if (sort === 'name') return direction * byName(names[a], names[b]);
    if (sort === 'state') return direction * (columns.state[a] - columns.state[b] || byName(names[a], names[b]));
    const [left, right] = [columns[sort]?.[a] ?? null, columns[sort]?.[b] ?? null];
    // What is not known comes last in both directions.
    if (left === null || right === null) return (left === null) - (right === null);
    return direction * (left - right) || a - b;
  };
  return found.sort(compare);
}

function newRow() {
  const dot = el('span', { class: 'dot' });
  const prefix = el('span', { class: 'prefix' });
  const rest = el('span');
  const button = el('button', { type: 'button' }, dot, el('span', { class: 'whole' }, el('bdi', { dir: 'ltr' }, prefix, rest)));
  const state = el('div', { class: 'state' });
  const fillBar = el('span', { class: 'fill' });
  const figure = el('span', { class: 'figure' });
  const cells = COLUMNS.map((column) => {
    if (column.id === 'name') return el('th', { scope: 'row', class: classOf(column) }, button);
    if (column.id === 'state') return el('td', { class: classOf(column) }, state);
    if (column.bar) return el('td', {}, el('div', { class: 'bar' }, el('span', { class: 'track' }, fillBar), figure));
    return el('td');
  });
  const node = el('tr', {}, ...cells);
  body.append(node);
  return { node, cells, button, dot, prefix, rest, state, fillBar, figure, stateKey: null };
}

function fill(row, store, index) {
  const columns = store.tick.backend.endpoints;
  const name = store.names[index];
  if (row.node.dataset.name !== name) {
    row.node.dataset.name = name;
    const cut = name.startsWith(store.prefix) ? store.prefix.length : 0;
    setText(row.prefix, name.slice(0, cut));
    setText(row.rest, name.slice(cut));
    row.button.title = store.addresses[index] === name ? name : `${name}\n${store.addresses[index]}`;
  }
  row.dot.style.background = store.timeline.series.has(name) ? colorOf(name) : '';
  setClass(row.node, name === store.selected ? 'selected' : '');
  row.button.setAttribute('aria-pressed', String(name === store.selected));
  const largest = (store.tick.largestShare ??= columns.share.reduce((most, value) => Math.max(most, value), 1e-9));
  COLUMNS.forEach((column, place) => {
    if (column.text) return;
    const value = columns[column.id]?.[index] ?? null;
    const learned = column.id === 'slots' && slotsLearned(columns).has(index);
    const shown = (learned ? '~' : '') + column.show(value);
    if (column.bar) {
      setText(row.figure, shown);
      row.fillBar.style.width = `${((100 * (value ?? 0)) / largest).toFixed(1)}%`;
      return;
    }
    const cell = row.cells[place];
    setText(cell, shown);
    setClass(cell, column.zero && value === 0 ? 'zero' : tone(column.id, value, store));
  });
  fillState(row, store, index);
  showScrape(row.cells.at(-1), columns, index);
}

/** Positions of the endpoints whose slots were learned. */
function slotsLearned(columns) {
  return (columns.learnedSlots ??= new Set(columns.slots_learned));
}

function tone(id, value, { tick }) {
  const objective = tick.backend.objective_ms;
  if (id === 'latency_ms_p99' && objective !== null && value !== null && value > objective) return 'warn';
  if (id === 'error' && value >= 0.05) return 'bad';
  if (id === 'error' && value >= 0.005) return 'warn';
  if (id === 'scrape_age_s' && value !== null && value > 3) return 'warn';
  return value === null ? 'zero' : '';
}

function fillState(row, store, index) {
  const columns = store.tick.backend.endpoints;
  const state = store.states[columns.state[index]];
  const ejected = columns.ejected_by[index];
  // A new endpoint's state says the same as its reason.
  const reasons = store.reasonsOf(index).filter((name) => name !== state);
  const key = [state, ejected, ...reasons].join();
  if (row.stateKey === key || row.state.contains(document.activeElement)) return;
  row.stateKey = key;
  const [label, look, meaning] = STATES[state] ?? [state, '', ''];
  const by = ejected > 0 ? ` By ${plural(ejected, 'proxy', 'proxies')} now.` : '';
  const chip = el('span', { class: `chip ${look}`, text: label, data: { tip: meaning + by } });
  const rest = reasons.slice(1);
  const more = rest.length ? el('span', { class: 'chip', text: `+${rest.length}`, data: { tip: `Also: ${rest.join(', ')}` }, tabindex: '0' }) : null;
  row.state.replaceChildren(chip, ...reasons.slice(0, 1).map(reasonChip), ...(more ? [more] : []));
}

function showScrape(cell, columns, index) {
  const failed = (columns.failedScrapes ??= new Map(columns.scrape_errors)).get(index);
  if (failed) {
    cell.dataset.tip = `Cannot be scraped: ${failed}`;
    setClass(cell, 'bad');
  } else delete cell.dataset.tip;
}
