// The library at work behind the page (preimage explain --serve): it is sent the layer and its numbers, and sends back what it computes.

class Live {
  constructor(app, address) {
    this.app = app;
    this.address = address;
    this.place = byId('live');
    this.turn = 0;
    if (address) this.place.hidden = false;
  }

  /** Ask for the layer as it is now; an answer that comes too late is dropped. */
  async ask() {
    if (!this.address) return;
    const turn = ++this.turn, {layer} = this.app, values = {};
    for (const name of GIVEN) if (name !== 'bias' || layer.hasBias) values[name] = encodeArray(layer.values[name]);
    try {
      const answer = await fetch(this.address.path, {method: 'POST', headers: {'Content-Type': 'application/json', 'X-Preimage-Token': this.address.token}, body: JSON.stringify({layer: layer.spec, values})});
      const body = await answer.json();
      if (turn !== this.turn) return;
      if (!answer.ok) { this.say(`the library refuses: ${body.error}`); return; }
      this.take(body);
    } catch (error) {
      if (turn === this.turn) this.say('the library is not reached; this page computes by itself');
    }
  }

  /** Take the library's numbers, and count those that differ from the page's own. */
  take(body) {
    const {layer} = this.app;
    let count = 0, differ = 0;
    for (const name of COMPUTED) {
      if (!body.values[name]) continue;
      const theirs = decodeArray(body.values[name]), own = new Uint32Array(layer.values[name].buffer), bits = new Uint32Array(theirs.buffer);
      for (let i = 0; i < own.length; i++) { count++; if (own[i] !== bits[i] && !(Number.isNaN(theirs[i]) && Number.isNaN(layer.values[name][i]))) differ++; }
      layer.values[name] = theirs;
    }
    this.say(differ ? `computed by preimage ${body.version}; ${differ} of ${count} numbers differ from this page's own` : `computed by preimage ${body.version}; ${count} numbers, the same bits as this page's`);
    this.plans = body.plans;
    this.showPlans();
    this.app.draw();
  }

  showPlans() {
    const box = byId('sizes');
    for (const old of box.querySelectorAll('details')) old.remove();
    for (const [name, lines] of Object.entries(this.plans)) {
      const details = element('details', {}, box);
      element('summary', {text: `how the library runs it: ${name.replace('_', ' ')}`}, details);
      const table = element('table', {class: 'sizes-table'}, details);
      for (const [key, value] of lines) { const row = element('tr', {}, table); element('td', {text: key}, row); element('td', {text: value}, row); }
    }
  }

  say(text) { setText(this.place, text); }
}
