// An orbit camera, and the mouse, fingers and keys that move it.

const CENTRE = [0, -0.015, -0.02]; // of head space: between chin and crown, face and nape
const DISTANCE = 1.2, FIELD = 18 * Math.PI / 180; // metres; across the shorter side: those of `mvp4d render`

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Orbit {
  constructor(canvas, changed) {
    this.changed = changed;
    this.fingers = new Map();
    this.lift = 0; // share of the height that the picture is moved up by, to clear the bar
    this.reset();
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const kind of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(kind, (event) => this.fingers.delete(event.pointerId));
    }
    canvas.addEventListener('pointermove', (event) => this.drag(event, canvas.clientHeight));
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.zoom(Math.exp(event.deltaY * (event.deltaMode ? 0.03 : 0.001)));
    }, { passive: false });
    canvas.addEventListener('dblclick', () => this.reset());
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('keydown', (event) => this.key(event));
  }

  reset() {
    Object.assign(this, { azimuth: 0, elevation: 0, distance: DISTANCE, target: [...CENTRE], fixed: null });
    this.changed();
  }

  turn(right, up) {
    this.azimuth += right;
    this.elevation = clamp(this.elevation + up, -1.5, 1.5);
    this.changed();
  }

  zoom(factor) {
    this.distance = clamp(this.distance * factor, 0.25, 8);
    this.changed();
  }

  pan(right, down, height) {
    const metres = 2 * this.distance * Math.tan(FIELD / 2) / height, { view } = this.look(1, 1);
    for (let k = 0; k < 3; k++) this.target[k] -= metres * (right * view[k] + down * view[4 + k]);
    this.changed();
  }

  // One finger or button turns; two, the right button or shift move; two that part zoom.
  drag(event, height) {
    const last = this.fingers.get(event.pointerId);
    if (!last) return;
    const [x, y] = [event.clientX, event.clientY], others = [...this.fingers.entries()];
    const other = others.find(([id]) => id !== event.pointerId)?.[1];
    const move = [x - last[0], y - last[1]];
    this.fingers.set(event.pointerId, [x, y]);
    if (other) {
      const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) + 1;
      this.zoom(apart(last) / apart([x, y]));
      this.pan(move[0] / 2, move[1] / 2, height);
    } else if (event.buttons & 2 || event.shiftKey) this.pan(...move, height);
    else this.turn(-move[0] * 0.008, move[1] * 0.008);
  }

  key(event) {
    const step = 0.1, moves = {
      ArrowLeft: () => this.turn(-step, 0), ArrowRight: () => this.turn(step, 0),
      ArrowUp: () => this.turn(0, step), ArrowDown: () => this.turn(0, -step),
      '+': () => this.zoom(0.9), '=': () => this.zoom(0.9), '-': () => this.zoom(1.1), 0: () => this.reset(),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  }

  /** World to camera, 12 numbers [R | t] row by row, OpenCV axes; and the lens [fx, fy, cx, cy] in pixels. */
  look(width, height) {
    if (this.fixed) return this.fixed;
    const { azimuth, elevation, distance, target } = this;
    const back = [Math.sin(azimuth) * Math.cos(elevation), Math.sin(elevation), Math.cos(azimuth) * Math.cos(elevation)];
    const right = [Math.cos(azimuth), 0, -Math.sin(azimuth)], ahead = back.map((value) => -value);
    const down = [ahead[1] * right[2] - ahead[2] * right[1], ahead[2] * right[0] - ahead[0] * right[2],
      ahead[0] * right[1] - ahead[1] * right[0]];
    const place = target.map((value, k) => value + distance * back[k]);
    const view = [right, down, ahead].flatMap((row) => [...row, -row.reduce((sum, value, k) => sum + value * place[k], 0)]);
    const focal = Math.min(width, height) / 2 / Math.tan(FIELD / 2);
    return { view, lens: [focal, focal, width / 2, height * (0.5 - this.lift)] };
  }
}
