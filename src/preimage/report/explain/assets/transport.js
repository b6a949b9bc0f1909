// Stepping through time: play, pause, forward, back, speed, the scrubber. Steps are drawn once a frame at most.

const SPEEDS = [.5, 1, 2, 4, 8, 16, 30, 60, 240];

class Transport {
  constructor(app) {
    this.app = app;
    this.playing = false;
    this.speed = SPEEDS[2];
    byId('first').onclick = () => this.go(0);
    byId('last').onclick = () => this.go(app.steps - 1);
    byId('back').onclick = () => this.go(app.state.step - 1);
    byId('forward').onclick = () => this.go(app.state.step + 1);
    byId('play').onclick = () => this.playing ? this.pause() : this.play();
    this.scrubber = byId('scrubber');
    this.scrubber.oninput = () => this.go(+this.scrubber.value);
    byId('speed').oninput = event => this.setSpeed(+event.target.value);
    this.setSpeed(2);
  }

  setSpeed(level) {
    this.speed = SPEEDS[level];
    byId('speed').value = level;
    byId('speed-text').textContent = `${this.speed} / s`;
    byId('speed').setAttribute('aria-valuetext', `${this.speed} steps a second`);
  }

  go(step) { this.pause(); this.app.setStep(step); }

  play() {
    const {app} = this;
    if (app.state.step >= app.steps - 1) app.setStep(0);
    this.playing = true;
    this.show();
    let last = performance.now(), owed = 0;
    const frame = now => {
      if (!this.playing) return;
      owed += Math.min(.25, (now - last) / 1000) * this.speed;
      last = now;
      if (owed >= 1) {
        const count = Math.floor(owed);
        owed -= count;
        app.setStep(Math.min(app.steps - 1, app.state.step + count));
        if (app.state.step >= app.steps - 1) return this.pause();
      }
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.show();
    this.app.summarise();
    this.app.remember();
  }

  show() {
    const button = byId('play');
    button.querySelector('path').setAttribute('d', this.playing ? 'M5 3.5h3.5v13H5zM11.5 3.5H15v13h-3.5z' : 'M5 3.5v13l11-6.5z');
    button.querySelector('span').textContent = this.playing ? 'Pause' : 'Play';
    button.setAttribute('aria-label', this.playing ? 'Pause' : 'Play');
    byId('summary').setAttribute('aria-live', this.playing ? 'off' : 'polite');
  }

  draw() {
    const {steps, state} = this.app;
    if (+this.scrubber.max !== steps - 1) this.scrubber.max = steps - 1;
    this.scrubber.value = state.step;
    const text = `step ${state.step + 1} / ${steps}`;
    setText(byId('step-count'), text);
    this.scrubber.setAttribute('aria-valuetext', text);
    byId('first').disabled = byId('back').disabled = state.step === 0;
    byId('last').disabled = byId('forward').disabled = state.step >= steps - 1;
  }
}
