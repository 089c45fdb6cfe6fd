// The key numbers: large, with what they mean below and their course as a sparkline.

import { byId, el, setQuantity, setText } from './dom.js';
import { latency, percent, rate, text, fixed } from './format.js';
import { sparkline } from './sparkline.js';

const within = (backend) => (backend.rps > 0 ? Math.min(1, backend.goodput_rps / backend.rps) : null);

const NUMBERS = [
  {
    id: 'p50',
    title: 'p50',
    tip: 'Half of the answers are faster. Measured by the proxies over the last ticks.',
    series: 'latency_ms_p50',
    value: (backend) => latency(backend.latency_ms_p50),
    aside: () => 'median latency',
  },
  {
    id: 'p99',
    title: 'p99',
    tip: '99 of 100 answers are faster. Measured by the proxies over the last 5 s.',
    series: 'latency_ms_p99',
    value: (backend) => latency(backend.latency_ms_p99),
    aside: ({ latency_ms_p99: p99, objective_ms: objective }) => {
      if (objective === null) return 'no objective yet';
      if (p99 === null) return `objective ${text(latency(objective))}`;
      return `${p99 <= objective ? 'within' : 'above'} the objective`;
    },
    tone: ({ latency_ms_p99: p99, objective_ms: objective }) => (p99 !== null && objective !== null && p99 > objective ? 'warn' : ''),
  },
  {
    id: 'requests',
    title: 'Requests',
    tip: 'Completed requests, by all proxies.',
    series: 'rps',
    value: (backend) => rate(backend.rps),
    aside: ({ endpoints, concurrency_limit: limit }) => {
      const inFlight = endpoints.in_flight.reduce((sum, value) => sum + value, 0);
      return `${fixed(inFlight)} in flight${limit === null ? '' : `, limit ${fixed(limit)}`}`;
    },
  },
  {
    id: 'goodput',
    title: 'Goodput',
    tip: 'Answers within the latency objective.',
    series: 'goodput_rps',
    value: (backend) => rate(backend.goodput_rps),
    aside: (backend) => {
      if (backend.objective_ms === null) return 'no objective yet';
      return within(backend) === null ? 'no requests yet' : `${text(percent(within(backend)))} of answers`;
    },
  },
  {
    id: 'errors',
    title: 'Errors',
    tip: 'Share of 5xx answers and failures; shed requests do not count.',
    series: 'error_share',
    color: 'bad',
    floor: 0.01,
    value: (backend) => (backend.rps > 0 || backend.error_share > 0 ? percent(backend.error_share) : { number: '–', unit: '' }),
    aside: () => 'of all answers',
    tone: (backend) => (backend.error_share >= 0.005 ? 'bad' : ''),
  },
  {
    id: 'shed',
    title: 'Shed',
    tip: 'Requests that admission control answered with 503 at once, because more would have made all of them late.',
    series: 'shed_rps',
    color: 'warn',
    floor: 1,
    value: (backend) => rate(backend.shed_rps),
    aside: (backend) => {
      if (backend.concurrency_limit === null && backend.shed_rps === 0) return 'admission control is off';
      const all = backend.rps + backend.shed_rps;
      return all > 0 ? `${text(percent(backend.shed_rps / all))} of all requests` : 'nothing to shed';
    },
    tone: (backend) => (backend.shed_rps > 0 ? 'warn' : ''),
  },
];

const nodes = new Map();

function build() {
  for (const { id, title, tip } of NUMBERS) {
    const value = el('p', { class: 'value', id: `number-${id}` });
    const aside = el('p', { class: 'aside' });
    const canvas = el('canvas', { 'aria-hidden': 'true' });
    nodes.set(id, { value, aside, canvas });
    byId('numbers').append(el('div', { class: 'panel number', data: { tip } }, el('h3', { text: title }), value, aside, canvas));
  }
}

export function showNumbers({ tick: { backend }, timeline }, { from, to }) {
  if (!nodes.size) build();
  for (const { id, value, aside, tone, series, color, floor } of NUMBERS) {
    const node = nodes.get(id);
    setQuantity(node.value, value(backend));
    setText(node.aside, aside(backend));
    node.aside.className = `aside ${id === 'p99' ? (tone?.(backend) ?? '') : ''}`;
    node.value.className = `value ${id === 'p99' ? '' : (tone?.(backend) ?? '')}`;
    sparkline(node.canvas, { times: timeline.times, values: timeline.totals[series], from, to, color, floor });
  }
}
