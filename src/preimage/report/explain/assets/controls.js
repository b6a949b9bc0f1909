// The layer's controls, its sizes with their formulas, and the coverage map.

const LAYERS = {
  'deconvolution 4, stride 2 (even)': {kind: 'conv_transpose', kernel_size: 4, stride: 2, padding: 1},
  'deconvolution 3, stride 2 (checkerboard)': {kind: 'conv_transpose', kernel_size: 3, stride: 2, padding: 1, output_padding: 1},
  'deconvolution 2, stride 2 (no overlap)': {kind: 'conv_transpose', kernel_size: 2, stride: 2},
  'deconvolution 3, stride 1': {kind: 'conv_transpose', kernel_size: 3, padding: 1},
  'convolution 3, same size': {kind: 'conv', kernel_size: 3, padding: 1, input_size: 6},
  'convolution 3, stride 2': {kind: 'conv', kernel_size: 3, stride: 2, padding: 1, input_size: 8},
  'convolution 3, dilation 2': {kind: 'conv', kernel_size: 3, dilation: 2, padding: 2, input_size: 7},
  'convolution 1 × 1, channels mixed': {kind: 'conv', kernel_size: 1, input_size: 4, in_channels: 2, out_channels: 2},
  'depthwise convolution 3': {kind: 'conv', kernel_size: 3, padding: 1, input_size: 5, in_channels: 2, out_channels: 2, groups: 2},
  'fully connected': {kind: 'linear', input_size: 4, output_size: 4},
  'photograph, 32 × 32 to 64 × 64': {kind: 'conv_transpose', kernel_size: 4, stride: 2, padding: 1, input_size: 32, values: {input: 'photo', weight: 'bilinear'}},
};
const ROWS = [['input_size', 'input size', 1], ['output_size', 'output size', 1], ['kernel_size', 'kernel', 1], ['stride', 'stride', 1], ['padding', 'padding before', -32, 0], ['padding', 'padding after', -32, 1], ['dilation', 'dilation', 1],
  ['output_padding', 'output padding', 0]];

class Controls {
  constructor(app) {
    this.app = app;
    this.box = byId('controls');
    this.problem = byId('problem');
    this.linked = true;
    this.coverageGrid = null;
  }

  /** A spec in full from a few words. */
  static full(words, ndim) {
    const each = (name, usual) => Array.from({length: ndim}, () => words[name] === undefined ? usual : words[name]);
    return {kind: words.kind, in_channels: words.in_channels || 1, out_channels: words.out_channels || 1, groups: words.groups || 1, input_size: each('input_size', 4),
      output_size: each('output_size', 4), kernel_size: each('kernel_size', 3), stride: each('stride', 1), padding: each('padding', 0).map(p => [p, p]),
      dilation: each('dilation', 1), output_padding: each('output_padding', 0), bias: false};
  }

  build() {
    const {app, box} = this, {spec} = app.state, ndim = spec.input_size.length;
    const held = document.activeElement && box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    box.textContent = '';
    const kinds = element('div', {class: 'kinds', role: 'group', 'aria-label': 'Kind of layer'}, box);
    for (const [kind, text] of [['conv_transpose', 'Deconvolution'], ['conv', 'Convolution'], ['linear', 'Fully connected']])
      element('button', {type: 'button', text, 'data-key': kind, 'aria-pressed': spec.kind === kind, onclick: () => app.changeSpec(s => { s.kind = kind; })}, kinds);
    const line = element('div', {class: 'line'}, box), label = element('label', {text: 'Example '}, line);
    const select = element('select', {'data-key': 'example', 'aria-label': 'Example layer'}, label);
    element('option', {value: '', text: 'choose …'}, select);
    for (const name of Object.keys(LAYERS)) element('option', {value: name, text: name}, select);
    select.onchange = () => { const words = LAYERS[select.value]; if (words) app.changeSpec(s => Object.assign(s, Controls.full(words, ndim)), words.values); };
    const axes = element('div', {class: 'line'}, box);
    for (const n of [1, 2]) element('button', {type: 'button', text: `${n}-D`, 'data-key': 'd' + n, 'aria-pressed': ndim === n, onclick: () => app.changeSpec(s => this.setAxes(s, n))}, axes);
    if (ndim === 2) {
      const both = element('label', {}, axes), check = element('input', {type: 'checkbox', 'data-key': 'linked'}, both);
      check.checked = this.linked = this.linked && ROWS.every(([name]) => String(spec[name][0]) === String(spec[name][1]));
      both.append(' height and width alike');
      check.onchange = () => { this.linked = check.checked; if (this.linked) app.changeSpec(s => ROWS.forEach(([name]) => { s[name][1] = copy(s[name][0]); })); else this.build(); };
    }
    const columns = ndim === 2 && !this.linked ? [0, 1] : [0];
    if (columns.length === 2) { const heads = element('div', {class: 'controls-row axis-heads'}, box); element('span', {}, heads); for (const a of columns) element('span', {text: AXES[2][a]}, heads); }
    for (const [name, text, least, end] of ROWS) {
      if (name === 'output_size' ? spec.kind !== 'linear' : spec.kind === 'linear' && name !== 'input_size' || name === 'output_padding' && spec.kind !== 'conv_transpose') continue;
      const row = element('div', {class: 'controls-row'}, box);
      element('span', {text}, row);
      for (const axis of columns) {
        const get = s => end === undefined ? s[name][axis] : s[name][axis][end];
        const set = (s, value) => { for (const a of columns.length === 1 ? s[name].keys() : [axis]) if (end === undefined) s[name][a] = value; else s[name][a][end] = value; };
        this.number(row, name + axis + (end ?? ''), columns.length === 2 ? `${text}, ${AXES[2][axis]}` : text, get(spec), least, set);
      }
    }
    for (const [name, text] of [['in_channels', 'input channels'], ['out_channels', 'output channels'], ['groups', 'groups']]) {
      if (name === 'groups' && spec.kind === 'linear') continue;
      const row = element('div', {class: 'controls-row'}, box);
      element('span', {text}, row);
      this.number(row, name, text, spec[name], 1, (s, value) => { s[name] = value; });
    }
    this.valueControls();
    if (held) { const again = box.querySelector(`[data-key="${held}"]`); if (again) again.focus(); }
  }

  setAxes(spec, n) {
    for (const [name] of ROWS) spec[name] = n === 1 ? [spec[name][spec[name].length - 1]] : [copy(spec[name][0]), spec[name][0]];
    if (n === 1 && spec.kind !== 'linear') spec.input_size = [Math.max(spec.input_size[0], 6)];
  }

  number(parent, key, text, value, least, set) {
    const box = element('span', {class: 'number'}, parent), {app} = this;
    const move = by => app.changeSpec(s => set(s, Math.max(least, (Number.isFinite(value) ? value : least) + by)));
    element('button', {type: 'button', text: '−', 'aria-label': `${text}: one less`, 'data-key': key + '-', onclick: () => move(-1)}, box);
    const field = element('input', {type: 'number', value, 'aria-label': text, 'data-key': key, step: 1, min: least}, box);
    element('button', {type: 'button', text: '+', 'aria-label': `${text}: one more`, 'data-key': key + '+', onclick: () => move(1)}, box);
    field.onchange = () => app.changeSpec(s => set(s, field.value.trim() === '' ? NaN : Number(field.value)));
    return field;
  }

  valueControls() {
    const {app, box} = this, {state} = app;
    element('h3', {text: 'Its numbers'}, box);
    for (const name of GIVEN) {
      if (name === 'bias' && !state.spec.bias) continue;
      const line = element('div', {class: 'controls-row'}, box);
      element('span', {text: {input: 'input', weight: 'stencil', bias: 'bias', grad_output: 'output gradient'}[name]}, line);
      const select = element('select', {'aria-label': `numbers of the ${TITLES[name]}`, 'data-key': 'v' + name}, line);
      const names = app.embedded[name] && app.embedded[name].length === app.layer.size(name) ? ['given', ...PRESETS[name]] : PRESETS[name];
      for (const value of names) element('option', {value, text: PRESET_NAMES[value]}, select);
      select.value = state.from[name];
      select.onchange = () => app.changeValues(s => { s.from[name] = select.value; delete s.edits[name]; });
    }
    const line = element('div', {class: 'line'}, box);
    const label = element('label', {}, line), check = element('input', {type: 'checkbox', 'data-key': 'bias'}, label);
    check.checked = state.spec.bias;
    label.append(' with a bias');
    check.onchange = () => app.changeSpec(s => { s.bias = check.checked; });
    element('button', {type: 'button', text: 'Other random numbers', 'data-key': 'dice', onclick: () => app.changeValues(s => { s.seed = (s.seed + 1) % 1000; })}, line);
    const edits = Object.values(state.edits).reduce((n, e) => n + Object.keys(e).length, 0);
    element('button', {type: 'button', text: edits ? `Undo ${edits} edit${edits === 1 ? '' : 's'}` : 'Undo edits', 'data-key': 'undo', disabled: !edits, onclick: () => app.changeValues(s => { s.edits = {}; })}, line);
  }

  /** What is wrong with the numbers in the fields; the picture stays that of the last valid layer. */
  showProblems(problems, wanted) {
    this.problem.textContent = '';
    if (!problems.length) return;
    const {message, fix} = problems[0];
    this.problem.append(`Not a layer: ${message}. `);
    element('button', {type: 'button', text: fix.label, onclick: () => this.app.changeSpec(s => this.cure(s, fix), null, wanted)}, this.problem);
  }

  /** Make a layer valid; where height and width are alike they stay so. */
  cure(spec, fix) {
    fix.change(spec);
    if (this.linked && fix.axis !== null) for (const [name] of ROWS) if (spec[name].length === 2) spec[name][1 - fix.axis] = copy(spec[name][fix.axis]);
  }

  drawSizes() {
    const {layer} = this.app, {spec, frame: f} = layer, box = byId('sizes'), out = outputSize(spec), n = spec.input_size.length;
    box.textContent = '';
    const table = element('table', {class: 'sizes-table'}, box), row = (name, ...parts) => { const line = element('tr', {}, table); element('td', {text: name}, line); element('td', {}, line).append(...parts); };
    row('input → output', element('b', {text: `${spec.in_channels} × ${spec.input_size.join(' × ')}  →  ${spec.out_channels} × ${out.join(' × ')}`}));
    if (spec.kind === 'linear') row('output size', 'chosen freely: nothing ties the outputs to places of the input');
    else {
      row('output size', element('code', {text: 'out = ' + sizeAlong(spec, 0).letters}));
      AXES[n].forEach((name, axis) => { const s = sizeAlong(spec, axis); row(n === 1 ? '' : name, element('code', {text: `${s.numbers} = `}), element('b', {text: String(s.size)})); });
      row('stencil covers', spec.kernel_size.map((k, axis) => extentOf(k, spec.dilation[axis])).join(' × '), ' (dilation·(kernel − 1) + 1)');
    }
    row('weights', `${layer.values.weight.length.toLocaleString('en')}${layer.hasBias ? ` + ${layer.values.bias.length} bias` : ''}`);
    const dense = product(layer.shapes.input) * product(layer.shapes.output);
    if (spec.kind !== 'linear') row('fully connected', `would have ${dense.toLocaleString('en')} weights between the same sizes`);
    row('work', `${multiplyAdds(f).toLocaleString('en')} multiply-adds each: forward, input gradient, weight gradient`);
    if (spec.kind === 'conv') { const lost = spec.input_size.map((size, axis) => (size + spec.padding[axis][0] + spec.padding[axis][1] - extentOf(spec.kernel_size[axis], spec.dilation[axis])) % spec.stride[axis]);
      row('its transpose', lost.some(r => r) ? `needs output padding ${lost.join(', ')} to give the input size back` : 'gives the input size back'); }
    this.drawCoverage();
  }

  drawCoverage() {
    const {layer} = this.app, {spec, frame: f} = layer, deconv = layer.transposed, linear = spec.kind === 'linear';
    setText(byId('coverage-title'), linear ? 'Coverage: every input meets every output' : deconv ? 'Coverage: how many stencil weights land on each output' : 'Coverage: how many windows read each input');
    const box = byId('coverage'), counts = linear ? [] : [0, 1].map(axis => coverageAlong(f, axis));
    box.hidden = linear;
    byId('coverage-text').textContent = linear ? 'Nothing is local and nothing is shared.' : this.verdict(counts, f, deconv, spec);
    if (linear) return;
    if (!this.coverageGrid) { this.coverageGrid = new Grid(box, {name: 'coverage', title: 'coverage', quiet: true}); }
    const values = new Float32Array(product(f.large));
    for (let r = 0, i = 0; r < f.large[0]; r++) for (let c = 0; c < f.large[1]; c++, i++) values[i] = counts[0].counts[r] * counts[1].counts[c];
    const cell = Math.max(2, Math.min(30, (box.clientWidth - 6) / f.large[1], 240 / f.large[0]));
    this.coverageGrid.layout([1, ...f.large], [0], [0, 0, 0, 0], cell >= 5 ? Math.floor(cell) : cell, 1);
    this.coverageGrid.draw({values, scale: scaleOf(values)});
    this.coverageGrid.canvas.setAttribute('aria-label', byId('coverage-text').textContent);
  }

  verdict(counts, f, deconv, spec) {
    const axes = AXES[spec.input_size.length], uneven = [], start = 2 - axes.length;
    axes.forEach((name, i) => { const c = counts[i + start]; if (!c.even) uneven.push(`${axes.length > 1 ? `along the ${name} ` : ''}${Math.min(...c.phases)} or ${Math.max(...c.phases)}, repeating every ${periodOf(c.phases)}`); });
    const unseen = counts.some(c => c.phases.some(n => n === 0)), inner = counts.reduce((n, c) => n * c.phases[0], 1);
    if (!uneven.length) return `Even: away from the borders every ${deconv ? 'output receives' : 'input is read through'} ${inner} weight${inner === 1 ? '' : 's'}${deconv ? ' per input channel; the borders receive fewer' : ''}. No checkerboard.`;
    const why = 'the taps do not fall evenly on the places between two strides (kernel not a multiple of stride)';
    return `Uneven away from the borders: ${uneven.join('; ')}, because ${why}. ${unseen ? (deconv ? 'Some outputs receive nothing at all. ' : 'Some inputs are never read. ') : ''}${deconv ? 'A constant input gives a checkerboard; a kernel that is a multiple of the stride avoids it.' : 'Its transpose, and so the gradient of its input, shows a checkerboard.'}`;
  }
}
