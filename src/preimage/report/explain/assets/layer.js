// One layer with its numbers: input, weight, bias, the gradient of its output, and everything computed from them.
// All views meet in one product, a term [large, weight, small]. Fixing one of its three indices and adding up gives each mode:
//   slide        the output fixed      paint        the input fixed, spread over outputs
//   grad_input   the input fixed, gathered     grad_weight  the weight fixed     grad_bias  a channel of the output fixed

const MODES = ['paint', 'slide', 'grad_input', 'grad_weight', 'grad_bias'];
const GIVEN = ['input', 'weight', 'bias', 'grad_output'];
const COMPUTED = ['output', 'grad_input', 'grad_weight', 'grad_bias'];

class Layer {
  constructor(spec, values) {
    this.spec = spec;
    this.frame = frameOf(spec);
    const out = outputSize(spec), two1 = sizes => two(sizes, 1);
    this.transposed = spec.kind === 'conv_transpose';
    this.inputFace = this.transposed ? SMALL : LARGE;
    this.outputFace = this.transposed ? LARGE : SMALL;
    const f = this.frame, weightShape = [f.smallChannels, f.largePer, ...f.kernel];
    this.shapes = {
      input: [spec.in_channels, ...two1(spec.input_size)], output: [spec.out_channels, ...two1(out)], weight: weightShape,
      bias: [spec.kind === 'linear' ? f.smallChannels : spec.out_channels],
    };
    for (const name of ['input', 'output', 'weight', 'bias']) this.shapes['grad_' + name] = this.shapes[name];
    this.values = values;
    this.recompute();
  }

  size(name) { return product(this.shapes[name]); }
  get hasBias() { return this.spec.bias; }
  /** Channels that the bias has one number for. */
  biasOf(output) { return this.spec.kind === 'linear' ? output : Math.floor(output / product(this.shapes.output.slice(1))); }

  recompute() {
    const {input, weight, bias, grad_output: g} = this.values, f = this.frame, b = this.hasBias ? bias : null;
    const forward = this.transposed ? transpose : convolve, back = this.transposed ? convolve : transpose;
    Object.assign(this.values, {
      output: forward(f, input, weight, b), grad_input: back(f, g, weight, null),
      grad_weight: this.transposed ? weightGradient(f, g, input) : weightGradient(f, input, g),
      grad_bias: biasGradient(g, this.shapes.bias[0]),
    });
    this.painted = null;
  }

  /** How many steps a mode has, and which array its steps fill or walk over. */
  walk(mode) { return {paint: 'input', slide: 'output', grad_input: 'grad_input', grad_weight: 'grad_weight', grad_bias: 'grad_bias'}[mode]; }
  steps(mode) { return this.size(this.walk(mode)); }

  termsOfInput(i) { return this.transposed ? termsOfSmall(this.frame, i) : termsOfLarge(this.frame, i); }
  termsOfOutput(o) { return this.transposed ? termsOfLarge(this.frame, o) : termsOfSmall(this.frame, o); }

  /** The sum behind number `index` of `name`: its terms as {a, ai, b, bi, to, toIndex}, the result, and the running sums. */
  sum(mode, index) {
    const v = this.values, I = this.inputFace, O = this.outputFace;
    if (mode === 'grad_bias') return this.biasSum(index);
    const [terms, a, aFace, b, bFace] = {
      slide: () => [this.termsOfOutput(index), 'input', I, 'weight', WEIGHT],
      paint: () => [this.termsOfInput(index), 'input', I, 'weight', WEIGHT],
      grad_input: () => [this.termsOfInput(index), 'grad_output', O, 'weight', WEIGHT],
      grad_weight: () => [termsOfWeight(this.frame, index), 'input', I, 'grad_output', O],
    }[mode]();
    const running = [];
    const total = mode === 'paint' ? null : addUp(terms, v[a], aFace, v[b], bFace, null, (t, s) => { running[t] = s; });
    const rows = [];
    for (let t = 0; t < terms.length; t += 3) {
      const ai = terms[t + aFace], bi = terms[t + bFace];
      rows.push({a, ai, av: ai < 0 ? 0 : v[a][ai], b, bi, bv: bi < 0 ? 0 : v[b][bi], padded: ai < 0 || bi < 0, running: running[t / 3],
        input: terms[t + I], weight: terms[t + WEIGHT], output: terms[t + O]});
    }
    for (const row of rows) row.product = Math.fround(row.av * row.bv);
    const bias = mode === 'slide' && this.hasBias ? v.bias[this.biasOf(index)] : null;
    return {mode, index, rows, total, bias, result: total === null ? null : withBias(total, bias), to: this.walk(mode)};
  }

  biasSum(channel) {
    const g = this.values.grad_output, per = g.length / this.shapes.bias[0], rows = [];
    for (let p = 0; p < per; p++) {
      const i = channel * per + p;
      rows.push({a: 'grad_output', ai: i, av: g[i], b: null, bi: -1, bv: 1, product: g[i], padded: false, input: -1, weight: -1, output: i});
    }
    const total = this.values.grad_bias[channel];
    return {mode: 'grad_bias', index: channel, rows, total, bias: null, result: total, to: 'grad_bias'};
  }

  /** What a number is, wherever it lies: the mode and the step whose sum shows it best. */
  sumAt(name, index, mode) {
    const of = {output: 'slide', grad_input: 'grad_input', grad_weight: 'grad_weight', grad_bias: 'grad_bias', weight: 'grad_weight', input: 'paint'};
    if (name === 'grad_output') return this.sum('slide', index);
    if (name === 'bias') return this.sum('grad_bias', index);
    if (name === 'input' && mode && mode.startsWith('grad')) return this.sum('grad_input', index);
    return this.sum(of[name], index);
  }

  /** The output as painted by the first `steps` inputs: the layer applied to an input whose other numbers are still zero. */
  paintedBy(steps) {
    const v = this.values, out = this.painted && this.painted.steps <= steps ? this.painted.out : null;
    if (out && steps - this.painted.steps <= 4) {
      for (let i = this.painted.steps; i < steps; i++) {
        const terms = this.termsOfInput(i);
        for (let t = 0; t < terms.length; t += 3) if (terms[t + this.outputFace] >= 0) this.paintCell(out, terms[t + this.outputFace], i + 1);
      }
      this.painted.steps = steps;
      return out;
    }
    const fresh = steps >= v.input.length ? v.output.slice() : new Float32Array(v.output.length);
    if (steps < v.input.length) for (let o = 0; o < fresh.length; o++) this.paintCell(fresh, o, steps);
    this.painted = {steps, out: fresh};
    return fresh;
  }

  paintCell(out, o, steps) {
    const face = this.inputFace, terms = this.termsOfOutput(o);
    const sum = addUp(terms, this.values.input, face, this.values.weight, WEIGHT, (list, t) => list[t + face] < steps);
    out[o] = withBias(sum, this.hasBias ? this.values.bias[this.biasOf(o)] : null);
  }

  /** [channel, row, column] of a flat index, as text without the axes that say nothing. */
  place(name, index) {
    if (index < 0) return 'padding';
    const shape = this.shapes[name];
    if (shape.length === 1) return `[${index}]`;
    const rest = [];
    for (let axis = shape.length - 1, left = index; axis >= 0; axis--) { rest.unshift(left % shape[axis]); left = Math.floor(left / shape[axis]); }
    const space = this.spec.input_size.length === 1 ? [rest[rest.length - 1]] : rest.slice(-2);
    const channels = rest.slice(0, -2).filter((_, axis) => shape[axis] > 1 || shape.length === 4 && product(shape.slice(0, 2)) > 1);
    return `[${[...channels, ...space].join(', ')}]`;
  }
}

/** Numbers to begin with, for an array of any shape (the last two axes are space). */
function preset(name, shape, seed) {
  const [H, W] = shape.length > 1 ? shape.slice(-2) : [1, shape[0]], planes = product(shape) / (H * W);
  const out = new Float32Array(product(shape)), random = generator(seed);
  const cy = (H - 1) / 2, cx = (W - 1) / 2;
  const at = {
    small: () => Math.floor(random() * 5) - 1,
    random: () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
    ones: () => 1,
    zeros: () => 0,
    ramp: (p, r, c) => (p + 1) * (r * W + c + 1) / (H * W),
    impulse: (p, r, c) => r === Math.floor(cy) && c === Math.floor(cx) ? 1 : 0,
    photo: (p, r, c) => scene((r + .5) / H, (c + .5) / W, p),
    ring: (p, r, c) => { const d = Math.hypot((r - cy) / Math.max(cy, .5), (c - cx) / Math.max(cx, .5)); return d > 1.2 ? 0 : d > .6 ? 1 : -.5; },
    stamp: (p, r, c) => r === c ? 1 : c === W - 1 - r ? -1 : (r + c) % 2 ? .5 : 0,
    bilinear: (p, r, c) => tent(r, H) * tent(c, W),
    box: () => 1 / (H * W),
    edge: (p, r, c) => W === 1 ? r - cy : (c - cx) / Math.max(cx, .5) * (H === 1 ? 1 : 1 + (r === Math.round(cy) ? 1 : 0)),
  }[name] || (() => 0);
  // the planes of a patterned array differ: each is the pattern, moved on
  const moved = name === 'stamp' || name === 'impulse';
  for (let p = 0, i = 0; p < planes; p++) for (let r = 0; r < H; r++) for (let c = 0; c < W; c++, i++)
    out[i] = moved ? at(0, (r + Math.floor(p / W)) % H, (c + p) % W) : at(p, r, c);
  return out;
}

/** A triangle along one axis of a stencil: what up-sampling by half its length interpolates with. */
function tent(i, size) {
  const factor = Math.ceil(size / 2), centre = size % 2 ? factor - 1 : factor - .5;
  return 1 - Math.abs(i - centre) / factor;
}

/** Something like a photograph: a soft sun over hills, 0 to 1. */
function scene(y, x, plane) {
  const sun = Math.exp(-((y - .32) ** 2 + (x - .68) ** 2) / .02), hill = y > .62 + .12 * Math.sin(5 * x + plane);
  return Math.min(1, (hill ? .2 + .35 * (1 - y) + .08 * Math.sin(40 * x) * Math.sin(31 * y) : .35 + .35 * y) + .8 * sun * (1 - .3 * plane));
}

/** The mulberry32 generator: the same numbers from the same seed everywhere. */
function generator(seed) {
  let a = seed >>> 0;
  return () => {
    a = a + 0x6D2B79F5 | 0;
    let t = Math.imul(a ^ a >>> 15, 1 | a);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}
