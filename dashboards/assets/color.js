// Colours: the theme's from the style sheet, and one for each endpoint, decided by its name alone as far as possible.

const HUES = 12;
const SLOTS = HUES * 2;
const STRIDE = 5; // Coprime with HUES: a name whose colour is taken gets one that is far away.
const dark = window.matchMedia('(prefers-color-scheme: dark)');

const taken = new Map(); // name -> slot
const owners = new Array(SLOTS).fill(0);

/** FNV-1a. */
function hash(name) {
  let value = 0x811c9dc5;
  for (let index = 0; index < name.length; index++) {
    value = Math.imul(value ^ name.charCodeAt(index), 0x01000193) >>> 0;
  }
  return value;
}

/** The first twelve names get hues of their own, the next twelve the shades between them; then it begins again. */
function slot(name) {
  const known = taken.get(name);
  if (known !== undefined) return known;
  const first = owners.slice(0, HUES);
  const second = owners.slice(HUES);
  const tier = Math.min(...first) <= Math.min(...second) ? 0 : 1;
  const least = Math.min(...(tier ? second : first));
  let place = hash(name) % HUES;
  while (owners[tier * HUES + place] > least) place = (place + STRIDE) % HUES;
  owners[tier * HUES + place] += 1;
  taken.set(name, tier * HUES + place);
  return tier * HUES + place;
}

/** Gives colours to `names` in the order of the alphabet, so that a reload gives them the same ones. */
export function assign(names) {
  if (names.every((name) => taken.has(name))) return;
  [...names].sort().forEach(slot);
}

/** An endpoint's colour in the present theme: neighbouring hues differ in lightness too. */
export function colorOf(name) {
  const place = slot(name);
  const second = place >= HUES;
  const hue = ((place % HUES) + (second ? 0.5 : 0)) * (360 / HUES) + 10;
  const deep = place % 2 === (second ? 0 : 1);
  if (dark.matches) return `oklch(${deep ? 0.62 : 0.8} ${deep ? 0.13 : 0.11} ${hue})`;
  return `oklch(${deep ? 0.48 : 0.7} ${deep ? 0.12 : 0.14} ${hue})`;
}

let theme = null;

/** A colour of the theme by the name of its custom property, e.g. `muted`. */
export function themed(name) {
  theme ??= new Map();
  if (!theme.has(name)) theme.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return theme.get(name);
}

/** Reads the theme anew: called before everything is drawn, so that no change of it can be missed for longer than a tick. */
export function freshTheme() {
  theme = null;
}

/** Calls back when the theme changes. */
export function onTheme(redraw) {
  dark.addEventListener('change', redraw);
}
