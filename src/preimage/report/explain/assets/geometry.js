// The sizes of a layer. A spec is plain data in PyTorch's words (see the contract in report/explain/__init__.py); `frameOf` gives
// the frame that the arithmetic works on; `problemsOf` says what is wrong with a spec and what the nearest valid one is.

const AXES = {1: ['width'], 2: ['height', 'width']};
const MOST = {size: 64, channels: 512, elements: 300000, multiplyAdds: 4000000};
const extentOf = (kernel, dilation) => dilation * (kernel - 1) + 1;

/** The output size along one axis, and the formula with its numbers. */
function sizeAlong(spec, axis) {
  const n = spec.input_size[axis], k = spec.kernel_size[axis], s = spec.stride[axis], d = spec.dilation[axis];
  const [lo, hi] = spec.padding[axis], extra = spec.output_padding[axis];
  if (spec.kind === 'conv_transpose')
    return {
      size: (n - 1) * s - lo - hi + extentOf(k, d) + extra,
      letters: '(in − 1)·stride − before − after + dilation·(kernel − 1) + 1 + output padding',
      numbers: `(${n} − 1)·${s} − ${lo} − ${hi} + ${d}·(${k} − 1) + 1 + ${extra}`,
    };
  return {
    size: Math.floor((n + lo + hi - extentOf(k, d)) / s) + 1,
    letters: '⌊(in + before + after − dilation·(kernel − 1) − 1) / stride⌋ + 1',
    numbers: `⌊(${n} + ${lo} + ${hi} − ${d}·(${k} − 1) − 1) / ${s}⌋ + 1`,
  };
}

const outputSize = spec => spec.kind === 'linear' ? spec.output_size : spec.input_size.map((_, axis) => sizeAlong(spec, axis).size);

/** Over two axes: an axis of length 1 stands before the only one of a 1-D layer. */
const two = (values, one) => values.length === 2 ? values : [one, ...values];

function frameOf(spec) {
  const transposed = spec.kind === 'conv_transpose', out = outputSize(spec);
  if (spec.kind === 'linear') {  // every output has a stencil of its own, as large as the input
    const size = two(spec.input_size, 1), outputs = spec.out_channels * product(out);
    return {large: size, small: [1, 1], kernel: size, stride: [1, 1], dilation: [1, 1], padding: [[0, 0], [0, 0]], largeChannels: spec.in_channels,
      smallChannels: outputs, largePer: spec.in_channels, smallPer: outputs, groups: 1};
  }
  const [large, small] = transposed ? [out, spec.input_size] : [spec.input_size, out];
  const [largeChannels, smallChannels] = transposed ? [spec.out_channels, spec.in_channels] : [spec.in_channels, spec.out_channels];
  return {large: two(large, 1), small: two(small, 1), kernel: two(spec.kernel_size, 1), stride: two(spec.stride, 1), dilation: two(spec.dilation, 1),
    padding: two(spec.padding, [0, 0]), largeChannels, smallChannels, largePer: largeChannels / spec.groups,
    smallPer: smallChannels / spec.groups, groups: spec.groups};
}

const multiplyAdds = f => f.smallChannels * product(f.small) * f.largePer * product(f.kernel);

/** The number nearest to `value` that divides both channel counts. */
function nearestDivisor(value, a, b) {
  let best = 1;
  for (let n = 1; n <= Math.min(a, b); n++)
    if (a % n === 0 && b % n === 0 && Math.abs(n - value) < Math.abs(best - value)) best = n;
  return best;
}

/** What is wrong: [{message, fix: {label, change(spec)}}], first things first; empty when all is well. */
function problemsOf(spec) {
  const found = [], say = (message, label, change, axis = null) => found.push({message, fix: {label, change, axis}});
  const whole = (name, value, least, most, change, axis = null) => {
    if (Number.isInteger(value) && value >= least && value <= most) return;
    const near = Number.isFinite(value) ? Math.min(most, Math.max(least, Math.round(value))) : least;
    say(`${name} is ${Number.isNaN(value) ? 'empty' : value}; this page takes ${least} to ${most}`, `Use ${near}`, s => change(s, near), axis);
  };
  const names = AXES[spec.input_size.length];
  for (const name of ['in_channels', 'out_channels', 'groups'])
    whole(name.replace('_', ' '), spec[name], 1, MOST.channels, (s, n) => { s[name] = n; });
  names.forEach((axisName, axis) => {
    const row = (name, least, most) => whole(`${name.replace('_', ' ')} (${axisName})`, spec[name][axis], least, most, (s, n) => { s[name][axis] = n; }, axis);
    row('input_size', 1, MOST.size);
    if (spec.kind === 'linear') { row('output_size', 1, MOST.size); return; }
    row('kernel_size', 1, 32); row('stride', 1, 32); row('dilation', 1, 32);
    [0, 1].forEach(end => whole(`padding ${end ? 'after' : 'before'} (${axisName})`, spec.padding[axis][end], -32, 64, (s, n) => { s.padding[axis][end] = n; }, axis));
    if (spec.kind === 'conv_transpose') row('output_padding', 0, 64);
  });
  if (found.length) return found;
  if (spec.in_channels % spec.groups || spec.out_channels % spec.groups) {
    const near = nearestDivisor(spec.groups, spec.in_channels, spec.out_channels);
    say(`groups ${spec.groups} must divide both channel counts, ${spec.in_channels} and ${spec.out_channels}`, `Use groups ${near}`, s => { s.groups = near; });
  }
  if (spec.kind !== 'linear') names.forEach((axisName, axis) => axisProblems(spec, axis, axisName, say));
  if (found.length) return found;
  const f = frameOf(spec), work = multiplyAdds(f), biggest = Math.max(f.largeChannels * product(f.large), f.smallChannels * product(f.small),
    f.smallChannels * f.largePer * product(f.kernel));
  if (work > MOST.multiplyAdds || biggest > MOST.elements) {
    const near = spec.input_size.map(n => Math.max(1, Math.floor(n / 2)));
    say(`${work.toLocaleString('en')} multiply-adds and ${biggest.toLocaleString('en')} numbers in one array are more than this page takes (${MOST.multiplyAdds.toLocaleString('en')}; ${MOST.elements.toLocaleString('en')})`,
      `Halve the input to ${near.join(' × ')}`, s => { s.input_size = near; });
  }
  return found;
}

function axisProblems(spec, axis, axisName, say) {
  const n = spec.input_size[axis], k = spec.kernel_size[axis], s = spec.stride[axis], d = spec.dilation[axis];
  const [lo, hi] = spec.padding[axis], extent = extentOf(k, d), size = sizeAlong(spec, axis).size;
  if (spec.kind === 'conv' && n + lo + hi < extent) {
    const room = n + lo + hi, taps = Math.floor((room - 1) / d) + 1;
    const reach = d > 1 ? `${extent} (kernel ${k}, dilation ${d})` : `${extent}`;
    const message = `along the ${axisName} the stencil covers ${reach}, but the padded input only ${n} + ${lo} + ${hi} = ${room}`;
    if (taps >= 1) say(message, `Use kernel ${taps}`, t => { t.kernel_size[axis] = taps; }, axis);
    else say(message, `Use input size ${extent - lo - hi}`, t => { t.input_size[axis] = extent - lo - hi; }, axis);
  } else if (spec.kind === 'conv_transpose') {
    const most = Math.max(s, d) - 1, extra = spec.output_padding[axis];
    if (extra > most)
      say(`output padding ${extra} along the ${axisName} must be below the larger of stride and dilation, ${most + 1}: otherwise one more input would fit`,
        `Use output padding ${most}`, t => { t.output_padding[axis] = most; }, axis);
    else if (size < 1) {
      const cut = 1 - size, after = Math.max(0, hi - cut), before = lo - (cut - (hi - after));
      say(`along the ${axisName} nothing would be left: the output size is ${size}; the padding may cut off at most ${lo + hi - cut} in all`,
        `Use padding ${before} and ${after}`, t => { t.padding[axis] = [before, after]; }, axis);
    }
    if (size > 2 * MOST.size) say(`the output would be ${size} along the ${axisName}; this page shows at most ${2 * MOST.size}`, 'Use stride 1', t => { t.stride[axis] = 1; }, axis);
  }
}

/** How many taps touch each number of the large side along one axis, and what that does in the interior. */
function coverageAlong(f, axis) {
  const counts = new Array(f.large[axis]).fill(0);
  for (let o = 0; o < f.small[axis]; o++) for (let k = 0; k < f.kernel[axis]; k++) {
    const i = o * f.stride[axis] - f.padding[axis][0] + k * f.dilation[axis];
    if (i >= 0 && i < counts.length) counts[i] += 1;
  }
  const phases = new Array(f.stride[axis]).fill(0);
  for (let k = 0; k < f.kernel[axis]; k++) phases[(k * f.dilation[axis]) % f.stride[axis]] += 1;
  return {counts, phases, even: phases.every(n => n === phases[0])};
}

/** The shortest period of the taps per output in the interior. */
function periodOf(phases) {
  for (let p = 1; p < phases.length; p++)
    if (phases.length % p === 0 && phases.every((n, i) => n === phases[i % p])) return p;
  return phases.length;
}
