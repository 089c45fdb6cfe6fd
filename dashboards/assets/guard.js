// What the guard did: a lane a reason over time, and the same as a list with the details.

import { byId, el, setText } from './dom.js';
import { themed } from './color.js';
import { clock, plural, seconds, text, words } from './format.js';
import { fit } from './scale.js';

const LANE = 26;
const LOG_MAX = 60;
/** An action that was seen this lately is still going on: two or three ticks. */
const NOW_MS = 1_600;
/** Actions that begin within this time began together. */
const TOGETHER_MS = 2_100;

const COLORS = { information: 'faint', notice: 'accent', warning: 'warn' };

let explained = new Map();
let parts = null;

/** Takes up the server's explanations of the reasons. */
export function explain(reasons) {
  explained = new Map(reasons.map((reason) => [reason.name, reason]));
}

/** A reason's name with its meaning as a tooltip; reachable with the keyboard. */
export function reasonChip(name) {
  const reason = explained.get(name);
  return el('button', {
    type: 'button',
    class: `chip ${reason?.weight ?? ''}`,
    text: name,
    data: { tip: reason?.meaning ?? words(name) },
  });
}

function build() {
  parts = {
    labels: el('div', { class: 'labels' }),
    canvas: el('canvas', { 'aria-hidden': 'true' }),
    log: el('ol', { class: 'log', tabindex: '0', 'aria-label': "The guard's actions, newest first" }),
    quiet: el('p', { class: 'quiet' }),
  };
  parts.lanes = el('div', { class: 'lanes' }, parts.labels, el('div', { class: 'spans' }, parts.canvas));
  byId('guard').append(parts.lanes, parts.log, parts.quiet);
}

export function showGuard(store, { from, to }) {
  if (!parts) build();
  const { episodes, timeline } = store;
  const shown = episodes.filter((episode) => episode.to_ms >= from);
  const going = (episode) => episode.to_ms >= (timeline.times.at(-1) ?? to) - NOW_MS;
  const now = shown.filter(going).length;
  setText(byId('guard-note'), now ? `${plural(now, 'action')} in force now` : 'nothing in force now');
  parts.lanes.hidden = parts.log.hidden = shown.length === 0;
  parts.quiet.hidden = shown.length > 0;
  if (!shown.length) {
    setText(parts.quiet, 'The guard had nothing to change or refuse in the time shown.');
    return;
  }
  showLanes(shown, from, to);
  showLog(store, shown, going);
}

function showLanes(shown, from, to) {
  const reasons = [...explained.keys()].filter((name) => shown.some((episode) => episode.reason === name));
  const key = reasons.join();
  if (parts.labels.dataset.key !== key) {
    parts.labels.dataset.key = key;
    parts.labels.replaceChildren(...reasons.map(reasonChip));
  }
  const height = `${reasons.length * LANE}px`;
  if (parts.canvas.parentNode.style.height !== height) parts.canvas.parentNode.style.height = height;
  const { context, width } = fit(parts.canvas);
  const x = (time) => Math.max(0, ((time - from) / (to - from)) * width);
  reasons.forEach((name, lane) => {
    const middle = lane * LANE + LANE / 2;
    context.globalAlpha = 1;
    context.fillStyle = themed('grid');
    context.fillRect(0, Math.round(middle), width, 1);
    context.fillStyle = themed(COLORS[explained.get(name)?.weight] ?? 'faint');
    context.globalAlpha = 0.7;
    for (const episode of shown) {
      if (episode.reason !== name) continue;
      const left = x(episode.from_ms);
      context.beginPath();
      context.roundRect(left, middle - 5, Math.max(3, x(episode.to_ms) - left), 10, 3);
      context.fill();
    }
  });
  context.globalAlpha = 1;
}

/** Episodes of one reason that began together are one row: a change of load moves many weights at once. */
function grouped(shown) {
  const rows = [];
  const open = new Map();
  for (const episode of [...shown].sort((a, b) => a.from_ms - b.from_ms)) {
    const row = open.get(episode.reason);
    if (row && episode.endpoint !== null && row[0].endpoint !== null && episode.from_ms - row[0].from_ms <= TOGETHER_MS) row.push(episode);
    else {
      const next = [episode];
      rows.push(next);
      open.set(episode.reason, next);
    }
  }
  return rows
    .map((episodes) => ({
      first: episodes[0],
      from: episodes[0].from_ms,
      to: Math.max(...episodes.map((episode) => episode.to_ms)),
      names: [...new Set(episodes.map((episode) => episode.endpoint))],
      latest: episodes.reduce((a, b) => (b.to_ms > a.to_ms ? b : a)),
    }))
    .sort((a, b) => b.to - a.to || b.from - a.from)
    .slice(0, LOG_MAX);
}

function showLog(store, shown, going) {
  const rows = grouped(shown);
  const key = JSON.stringify(rows.map((row) => [row.first.reason, row.names, row.from, going(row.latest) ? row.latest.detail : row.to]));
  if (parts.log.dataset.key === key) return;
  // A reader who has scrolled or is on a chip is not disturbed.
  if (parts.log.dataset.key && (parts.log.scrollTop > 0 || parts.log.contains(document.activeElement) || parts.log.matches(':hover'))) return;
  parts.log.dataset.key = key;
  parts.log.replaceChildren(...rows.map((row) => logRow(store, row, going(row.latest))));
}

function logRow(store, { first, from, to, names, latest }, now) {
  const lasted = text(seconds((to - from) / 1000));
  const span = el('span', { class: 'span' }, el('time', { text: clock(from) }), to > from ? ` for ${lasted}` : ' one tick');
  if (now) span.append(el('span', { class: 'now', text: ' now' }));
  let who = names[0] ?? 'all endpoints';
  let detail = latest.detail;
  if (names.length > 1) {
    const few = names.slice(0, 3).map((name) => store.short(name)).join(', ');
    who = plural(names.length, 'endpoint');
    detail = `${few}${names.length > 3 ? ` and ${names.length - 3} more` : ''}; ${store.short(latest.endpoint)}: ${detail}`;
  } else if (first.endpoints > 1) who = plural(latest.endpoints, 'endpoint');
  return el('li', {}, span, el('span', {}, reasonChip(first.reason)), el('span', { class: 'who', text: who }), el('span', { class: 'detail', text: detail }));
}
