// Numbers as people read them: a fixed number of digits, a unit, and a dash where there is no number.

const NONE = { number: '–', unit: '' };
const known = (value) => typeof value === 'number' && Number.isFinite(value);

const formats = new Map();
/** A number with exactly `decimals` decimals and thousands separated. */
export function fixed(value, decimals = 0) {
  if (!known(value)) return NONE.number;
  let format = formats.get(decimals);
  if (!format) {
    format = new Intl.NumberFormat('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    formats.set(decimals, format);
  }
  return format.format(value === 0 ? 0 : value);
}

/** Three significant digits, but never fewer than the whole number. */
function three(value) {
  const size = Math.abs(value);
  return fixed(value, size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : 2);
}

export function latency(ms) {
  if (!known(ms)) return NONE;
  if (ms >= 59_500) return { number: three(ms / 60_000), unit: 'min' };
  return ms >= 999.5 ? { number: three(ms / 1000), unit: 's' } : { number: three(ms), unit: 'ms' };
}

export function rate(perSecond) {
  if (!known(perSecond)) return NONE;
  if (perSecond >= 99_950) return { number: three(perSecond / 1000), unit: 'k/s' };
  return { number: fixed(perSecond, perSecond < 9.95 && perSecond > 0 ? 1 : 0), unit: '/s' };
}

export function percent(share) {
  if (!known(share)) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.0005) return { number: '<0.001', unit: '%' };
  const decimals = value === 0 || value >= 99.95 ? 0 : value < 0.0995 ? 3 : value < 0.995 ? 2 : 1;
  return { number: fixed(value, decimals), unit: '%' };
}

export function count(value) {
  return known(value) ? { number: fixed(value, value > 0 && value < 9.95 ? 1 : 0), unit: '' } : NONE;
}

export function seconds(value) {
  if (!known(value)) return NONE;
  if (value < 60) return { number: fixed(value, value < 9.95 ? 1 : 0), unit: 's' };
  if (value < 3600) return { number: fixed(value / 60, 0), unit: 'min' };
  return { number: fixed(value / 3600, value < 36_000 ? 1 : 0), unit: 'h' };
}

/** A quantity as one string, with a thin space before the unit. */
export function text({ number, unit }) {
  return unit ? `${number}\u202f${unit}` : number;
}

const clocks = {
  seconds: new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' }),
  minutes: new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' }),
};

/** The time of day. */
export function clock(ms, precision = 'seconds') {
  return clocks[precision].format(ms);
}

export function plural(number, one, many = `${one}s`) {
  return `${fixed(number)} ${number === 1 ? one : many}`;
}

/** "ShareFloor" as "share floor". */
export function words(name) {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, ' ').toLowerCase();
}
