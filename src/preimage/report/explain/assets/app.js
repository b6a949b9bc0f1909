// The page: one state, everything drawn from it. build() when the layer or the mode changes, draw() for a step.

const LEADS = {
  conv_transpose: {paint: 'A deconvolution paints. Each input number stamps the stencil onto the output, scaled by that number; where stamps overlap, they add up. The stride says how far apart the stamps land.',
    slide: 'The same output, read from the other end: one output number adds up the few input numbers whose stamps reach it, each times the weight that lands there.',
    grad_input: 'Going back, an input number gathers from everything it painted: the gradient under its stamp, times the same stencil. That is an ordinary convolution.'},
  conv: {paint: 'A convolution seen from its input: one input number is spread over all the windows that contain it, each time through another weight.',
    slide: 'A convolution slides a stencil over its input. Each output number is the sum of the numbers under the window, times the weights: the degree of match.',
    grad_input: 'Going back, each input number gathers from all the windows that contained it. Adding those up is a transposed convolution: a deconvolution is exactly this, used forward.'},
  linear: {paint: 'In a fully connected layer one input number reaches every output, through a weight of its own for each.', slide: 'A fully connected output adds up all inputs, with weights that no other output uses.',
    grad_input: 'Going back, each input number gathers from all outputs.'},
  shared: {grad_weight: 'One weight is used at every position, so its gradient is a sum over all of them: input times output gradient, wherever that weight was used.', grad_bias: 'The bias is added to every output of its channel, so its gradient is the sum of the output gradient over all positions.'},
};

class App {
  constructor(data) {
    this.embedded = {};
    for (const [name, array] of Object.entries(data.values || {})) this.embedded[name] = decodeArray(array);
    this.first = copy(DEFAULT);
    if (data.layer) {
      this.first.spec = data.layer;
      for (const name of GIVEN) if (this.embedded[name]) this.first.from[name] = 'given';
    }
    this.channels = data.channels || [];  // of a slice: what its input channels are
    if (data.view) Object.assign(this.first, data.view);
    if (data.note) { byId('note').textContent = data.note; byId('note').hidden = false; }
    this.version = 0;
    this.opened = false;  // what lies below the first screen is drawn after the first paint
    this.layer = null;
    this.hovered = null;
    this.stage = new Stage(byId('stage'), this);
    this.formula = new Formula(this);
    this.matrix = new MatrixView(this);
    this.controls = new Controls(this);
    this.trio = new Trio(this);
    this.transport = new Transport(this);
    this.live = new Live(this, data.live);
    const linked = location.hash.length > 1 ? fromHash(location.hash, this.first) : null;
    this.start(linked || copy(this.first));
    listenToPage(this);
    if (!linked && !matchMedia('(prefers-reduced-motion: reduce)').matches && document.visibilityState !== 'hidden') this.transport.play();
  }

  /** Draw what lies below the first screen. */
  open() {
    this.opened = true;
    this.draw();
    this.controls.drawSizes();
    this.learning = new Learning();
  }

  /** Begin with a state; one that is no layer gives way to the first. */
  start(state) {
    const problems = problemsOf(state.spec);
    const wanted = state.spec;
    if (problems.length) state.spec = this.layer ? this.layer.spec : copy(this.first.spec);
    this.state = state;
    this.relayer();
    this.controls.showProblems(problems, wanted);
  }

  relayer() {
    const {state} = this;
    if (state.mode === 'grad_bias') state.spec.bias = true;
    this.layer = new Layer(state.spec, valuesFor(state, shapesOf(state.spec), this.embedded));
    this.hovered = null;
    this.revalue();
    this.controls.build();
    this.stage.build();
    this.trio.build();
    this.draw();
    if (this.opened) this.controls.drawSizes();
    this.summarise();
    this.live.ask();
  }

  /** Things that follow from the numbers. */
  revalue() {
    const {layer} = this;
    this.version += 1;
    this.scales = {stamp: scaleOf(layer.values.weight) * scaleOf(layer.values.input)};
    for (const name of [...GIVEN, ...COMPUTED]) this.scales[name] = scaleOf(layer.values[name]);
    this.clip();
  }

  get steps() { return this.layer.steps(this.state.mode); }

  /** Keep step and product inside the layer, and find the sum of this step. */
  clip() {
    const {state, layer} = this;
    state.step = Math.max(0, Math.min(this.steps - 1, Math.round(state.step) || 0));
    this.sum = layer.sum(state.mode, state.step);
    const count = this.sum.rows.length;
    this.term = Math.max(0, Math.min(count - 1, state.term));
    if (count && this.sum.rows[this.term].padded) {
      let best = -1;
      this.sum.rows.forEach((r, i) => { if (!r.padded && (best < 0 || Math.abs(i - this.term) < Math.abs(best - this.term))) best = i; });
      if (best >= 0) this.term = best;
    }
  }

  setStep(step) {
    this.state.step = step;
    this.hovered = this.hovered && this.hovered.pinned ? this.hovered : null;
    this.clip();
    this.draw();
    if (!this.transport.playing) { this.summarise(); this.remember(); }
  }

  setTerm(term) {
    this.state.term = Math.max(0, Math.min(this.sum.rows.length - 1, term));
    this.term = this.state.term;
    this.draw();
    this.remember();
  }

  /** Another mode, at a step, with the product that `same` recognises. */
  setMode(mode, step = 0, same = null) {
    this.transport.pause();
    this.hovered = null;
    Object.assign(this.state, {mode, step, term: 0});
    if (mode === 'grad_bias' && !this.state.spec.bias) { this.relayer(); this.remember(); return; }
    this.clip();
    if (same) { const at = this.sum.rows.findIndex(same); if (at >= 0) this.state.term = this.term = at; }
    this.stage.build();
    this.draw();
    this.summarise();
    this.remember();
  }

  /** Change the layer: `change` edits a copy of the spec (or of `wanted`); what is no layer is said, and nothing else happens. */
  changeSpec(change, from = null, wanted = null) {
    const spec = copy(wanted || this.wanted || this.state.spec);
    restoreNumbers(spec);
    change(spec);
    const problems = problemsOf(spec);
    this.wanted = problems.length ? spec : null;
    if (problems.length) { this.showWanted(spec); this.controls.showProblems(problems, spec); return; }
    this.transport.pause();
    if (from) Object.assign(this.state.from, from);
    const before = this.layer.shapes;
    this.state.spec = spec;
    const after = shapesOf(spec);
    for (const name of GIVEN) if (String(before[name]) !== String(after[name])) delete this.state.edits[name];
    this.controls.showProblems([], null);
    this.relayer();
    this.remember();
  }

  /** The fields show what was asked for, also where it is no layer. */
  showWanted(spec) {
    const held = this.state.spec;
    this.state.spec = spec;
    this.controls.build();
    this.state.spec = held;
  }

  changeValues(change) {
    change(this.state);
    this.relayer();
    this.remember();
  }

  /** Set one given number. */
  change(name, index, text) {
    const value = Math.fround(Number(String(text).trim().replace('−', '-').replace('∞', 'Infinity')));
    if (String(text).trim() === '' || Number.isNaN(value) && !/^nan$/i.test(String(text).trim())) { this.say(`${text || 'nothing'} is not a number; the value stays ${shortest(this.layer.values[name][index])}`); return false; }
    (this.state.edits[name] = this.state.edits[name] || {})[index] = value;
    this.layer.values[name][index] = value;
    this.layer.recompute();
    this.revalue();
    if (this.hovered) this.hovered.sum = this.layer.sumAt(this.hovered.name, this.hovered.index, this.state.mode);
    this.controls.build();
    this.draw();
    this.summarise();
    this.remember();
    this.live.ask();
    this.say(`${TITLES[name]} ${this.layer.place(name, index)} is now ${shortest(value)}`);
    return true;
  }

  hover(name, index) {
    if (this.hovered && this.hovered.pinned) return;
    if (this.hovered ? this.hovered.name === name && this.hovered.index === index : index < 0) return;
    this.point(name, index, false);
  }

  pick(name, index) {
    this.transport.pause();
    const again = this.hovered && this.hovered.pinned && this.hovered.name === name && this.hovered.index === index;
    this.point(name, again ? -1 : index, true);
  }

  point(name, index, pinned) {
    this.hovered = index < 0 ? null : {name, index, pinned, sum: this.layer.sumAt(name, index, this.state.mode)};
    this.draw();
    if (this.hovered) this.say(this.describe(name, index));
  }

  describe(name, index) {
    const {layer} = this, value = shortest(layer.values[name][index]), sum = this.hovered.sum, live = sum.rows.filter(r => !r.padded).length;
    return `${TITLES[name]} ${layer.place(name, index)}: ${value}. ` + (sum.mode === 'paint' ? `Feeds ${live} outputs.` : name === 'weight' ? `Used at ${live} positions.` : `Made of ${live} products.`) + (GIVEN.includes(name) ? ' Enter edits it.' : '');
  }

  edit(name, index) {
    const grid = this.stage.grids.get(name);
    if (!GIVEN.includes(name)) { this.say('This number is computed; edit the input, the stencil, the bias or the gradient of the output.'); return; }
    openEditor(this, grid, name, index);
  }

  draw() {
    this.stage.draw();
    this.formula.draw();
    this.transport.draw();
    if (this.opened) { this.matrix.draw(); this.trio.draw(); }
    const {state} = this, lead = LEADS.shared[state.mode] || LEADS[state.spec.kind][state.mode];
    setText(byId('lead'), state.spec.kind === 'linear' && state.mode === 'grad_weight' ? 'A weight of a fully connected layer is used once, so its gradient is one product: its input times the gradient of its output.' : lead);
    for (const button of byId('modes').children) button.setAttribute('aria-pressed', String(button.dataset.mode === state.mode));
    if (this.transport.playing) this.summarise(true);
    if (byId('tables').open && !this.transport.playing) fillTables(this);
  }

  /** The step in words. */
  summarise() {
    const {layer, sum, state} = this, live = sum.rows.filter(r => !r.padded).length, at = (name, i) => `${TITLES[name].replace(' (weights)', '')} ${layer.place(name, i)}`, v = layer.values;
    const words = {
      paint: () => `Input ${layer.place('input', sum.index)} is ${brief(v.input[sum.index])}. ${v.input[sum.index] === 0 ? 'Zero times the stencil adds nothing to the picture.' : `The stencil times ${brief(v.input[sum.index])} is added to ${live} output${live === 1 ? '' : 's'}.`} ${sum.index + 1} of ${v.input.length} stamps are painted.`,
      slide: () => `Output ${layer.place('output', sum.index)} adds ${live} product${live === 1 ? '' : 's'} of input and weight${layer.hasBias ? ', and the bias' : ''}: ${shortest(sum.result)}.`,
      grad_input: () => `At input ${layer.place('input', sum.index)} meet ${live} product${live === 1 ? '' : 's'} of output gradient and weight: ${shortest(sum.result)}. So much the loss grows when this input grows by one.`,
      grad_weight: () => `${at('weight', sum.index)} was used at ${live} position${live === 1 ? '' : 's'}. The products of input and output gradient there add up to ${shortest(sum.result)}.`,
      grad_bias: () => `Bias ${layer.place('bias', sum.index)} was added to ${sum.rows.length} output${sum.rows.length === 1 ? '' : 's'}; their gradients add up to ${shortest(sum.result)}.`,
    }[state.mode]();
    setText(byId('summary'), words[0].toUpperCase() + words.slice(1));
  }

  say(text) { setText(byId('spoken'), text); }

  /** Put the state into the address, at most every so often. */
  remember() {
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => { try { history.replaceState(null, '', toHash(this.state)); } catch (error) { /* a page inside a frame may not */ } }, 120);
  }
}

/** The shapes of a layer without its numbers. */
function shapesOf(spec) {
  const f = frameOf(spec), out = two(outputSize(spec), 1);
  return {input: [spec.in_channels, ...two(spec.input_size, 1)], weight: [f.smallChannels, f.largePer, ...f.kernel], bias: [spec.kind === 'linear' ? f.smallChannels : spec.out_channels], grad_output: [spec.out_channels, ...out]};
}

/** JSON has no NaN: an empty field comes back as null. */
function restoreNumbers(spec) {
  const number = v => Array.isArray(v) ? v.map(number) : v === null ? NaN : v;
  for (const name of Object.keys(spec)) spec[name] = number(spec[name]);
}
