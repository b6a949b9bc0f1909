// The state of the page: the layer's spec, where its numbers come from, the view. All of it goes into location.hash and back.

const INPUT_PRESETS = ['small', 'photo', 'random', 'ramp', 'impulse', 'ones', 'zeros'];
const WEIGHT_PRESETS = ['stamp', 'ring', 'bilinear', 'edge', 'box', 'random', 'small', 'ramp', 'impulse', 'ones'];
const PRESETS = {input: INPUT_PRESETS, weight: WEIGHT_PRESETS, bias: ['small', 'zeros', 'ones', 'random'], grad_output: ['small', 'ones', 'random', 'ramp', 'impulse']};
const PRESET_NAMES = {small: 'small whole numbers', photo: 'photo-like', random: 'random', ramp: 'ramp', impulse: 'impulse', ones: 'ones', zeros: 'zeros',
  stamp: 'stamp', ring: 'ring', bilinear: 'bilinear', edge: 'edge', box: 'box (mean)', given: 'your own'};
const MODE_LETTER = {paint: 'p', slide: 's', grad_input: 'x', grad_weight: 'w', grad_bias: 'b'};
const KIND_LETTER = {conv: 'c', conv_transpose: 't', linear: 'l'};
const MOST_EDITS = 400;

const DEFAULT = {
  spec: {kind: 'conv_transpose', in_channels: 1, out_channels: 1, groups: 1, input_size: [4, 4], output_size: [4, 4], kernel_size: [4, 4], stride: [2, 2],
    padding: [[1, 1], [1, 1]], dilation: [1, 1], output_padding: [0, 0], bias: false},
  from: {input: 'small', weight: 'stamp', bias: 'small', grad_output: 'small'},
  seed: 3, edits: {}, mode: 'paint', step: 0, term: 0,
};

const copy = value => JSON.parse(JSON.stringify(value));

/** Numbers of an embedded array: {shape, float32: base64, little-endian}. */
function decodeArray(data) {
  const bytes = Uint8Array.from(atob(data.float32), c => c.charCodeAt(0));
  return new Float32Array(bytes.buffer, 0, bytes.length / 4);
}

function encodeArray(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = '';
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return {shape: [array.length], float32: btoa(text)};
}

/** The arrays that a state begins with: embedded ones where they fit, presets, then the edits. */
function valuesFor(state, shapes, embedded) {
  const values = {};
  for (const name of GIVEN) {
    const shape = shapes[name], given = embedded[name], count = product(shape);
    if (state.from[name] === 'given' && given && given.length === count) values[name] = given.slice();
    else {
      if (state.from[name] === 'given') state.from[name] = DEFAULT.from[name];
      values[name] = preset(state.from[name], shape, state.seed * 4 + GIVEN.indexOf(name));
    }
    for (const [index, value] of Object.entries(state.edits[name] || {})) if (+index < count) values[name][index] = value;
  }
  return values;
}

const same = values => values.every(v => String(v) === String(values[0]));
const short = (values, separator) => (same(values) ? [values[0]] : values).join(separator);

/** The whole state as a short text, what is as usual left out. */
function toHash(state) {
  const s = state.spec, parts = [KIND_LETTER[s.kind] + s.input_size.length];
  const add = (key, text, usual) => { if (String(text) !== String(usual)) parts.push(`${key}=${text}`); };
  add('n', s.input_size.join('x'), '');
  if (s.kind === 'linear') add('m', s.output_size.join('x'), '');
  else {
    add('k', short(s.kernel_size, 'x'), ''); add('s', short(s.stride, 'x'), 1); add('d', short(s.dilation, 'x'), 1);
    add('p', short(s.padding.map(p => short(p, '~')), 'x'), 0);
    if (s.kind === 'conv_transpose') add('o', short(s.output_padding, 'x'), 0);
    add('g', s.groups, 1);
  }
  add('c', `${s.in_channels}-${s.out_channels}`, '1-1');
  if (s.bias) parts.push('b=1');
  for (const name of GIVEN) add('v' + name[0], state.from[name], DEFAULT.from[name]);
  add('r', state.seed, DEFAULT.seed);
  for (const name of GIVEN) {
    const edits = Object.entries(state.edits[name] || {});
    if (edits.length) parts.push(`e${name[0]}=${edits.map(([i, v]) => `${i}:${shortest(v)}`).join(',')}`);
  }
  add('mode', MODE_LETTER[state.mode], 'p'); add('t', state.step, 0); add('q', state.term, 0);
  return '#' + parts.join('&');
}

/** A state from such a text; null where it is none. What cannot be read is left as usual. */
function fromHash(hash, base) {
  let text = hash.replace(/^#/, '');
  try { text = decodeURIComponent(text); } catch (error) { return null; }
  const [head, ...rest] = text.split('&');
  const kind = Object.keys(KIND_LETTER).find(k => KIND_LETTER[k] === head[0]), ndim = +head[1];
  if (!kind || !(ndim === 1 || ndim === 2) || head.length !== 2 || !rest.some(part => part.startsWith('n='))) return null;
  const at = Object.fromEntries(rest.map(part => { const cut = part.indexOf('='); return [part.slice(0, cut), part.slice(cut + 1)]; }));
  const number = text => /^-?\d{1,6}$/.test(text) ? +text : NaN;
  const list = (text, usual) => {
    const values = (text === undefined ? String(usual) : text).split('x').map(number);
    return Array.from({length: ndim}, (_, axis) => values.length === 1 ? values[0] : values[axis]);
  };
  const pads = (at.p === undefined ? '0' : at.p).split('x').map(p => { const v = p.split('~').map(number); return v.length === 1 ? [v[0], v[0]] : v; });
  const [cin, cout] = (at.c || '1-1').split('-').map(number);
  const state = copy(base);
  state.spec = {kind, in_channels: cin, out_channels: cout, groups: number(at.g || '1'), input_size: list(at.n, 4), output_size: list(at.m, 4),
    kernel_size: list(at.k, 3), stride: list(at.s, 1), dilation: list(at.d, 1), output_padding: list(at.o, 0),
    padding: Array.from({length: ndim}, (_, axis) => (pads.length === 1 ? pads[0] : pads[axis]) || [NaN, NaN]).map(p => [...p]), bias: at.b === '1'};
  state.edits = {};
  for (const name of GIVEN) {
    const from = at['v' + name[0]] || DEFAULT.from[name];
    state.from[name] = from === 'given' || PRESETS[name].includes(from) ? from : DEFAULT.from[name];
    for (const pair of (at['e' + name[0]] || '').split(',').slice(0, MOST_EDITS)) {
      const [index, value] = pair.split(':');
      if (/^\d+$/.test(index) && value && (value === 'NaN' || !Number.isNaN(+value))) (state.edits[name] = state.edits[name] || {})[index] = Math.fround(+value);
    }
  }
  state.seed = number(at.r || String(DEFAULT.seed)) || 0;
  state.mode = MODES.find(m => MODE_LETTER[m] === at.mode) || 'paint';
  state.step = number(at.t || '0') || 0;
  state.term = number(at.q || '0') || 0;
  return state;
}

/** The shortest text that is this float32 again. */
function shortest(value) {
  if (!Number.isFinite(value)) return String(value);
  for (let digits = 1; digits < 10; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(+text) === value) return Object.is(value, -0) ? '-0' : String(+text);
  }
  return String(value);
}

/** A number for the eye: about three digits. */
function brief(value) {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value < 0 ? '−∞' : '∞';
  const size = Math.abs(value);
  const text = size !== 0 && (size < .001 || size >= 1e5) ? value.toExponential(1).replace('e+', 'e') : String(+value.toPrecision(size >= 1000 ? 5 : 3));
  return text.replace('-', '−');
}
