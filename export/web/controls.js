// The panel: sliders by name, motions, background. Names come from files: they are set as text, never as markup.

const GROUPS = { brow: 'Brows', eye: 'Eyes', jaw: 'Jaw', mouth: 'Mouth', cheek: 'Cheeks', nose: 'Nose', tongue: 'Tongue' };
const ANGLES = [ // label, joint, component, lowest, highest (radians)
  ['neck turn', 'neck', 1, -0.8, 0.8], ['neck nod', 'neck', 0, -0.5, 0.5], ['neck tilt', 'neck', 2, -0.5, 0.5],
  ['gaze sideways', 'eyes', 1, -0.6, 0.6], ['gaze up, down', 'eyes', 0, -0.5, 0.5],
  ['jaw open', 'jaw', 0, 0, 0.5], ['jaw sideways', 'jaw', 1, -0.2, 0.2],
];

export const find = (id) => document.getElementById(id);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Sliders for a head's expressions and joints: values that are added to the motion's. */
export class Sliders {
  constructor(parent, expressions, changed) {
    this.changed = changed;
    this.inputs = new Map();
    const groups = new Map([['Head and gaze', []]]);
    for (const [label, joint, component, low, high] of ANGLES) {
      groups.get('Head and gaze').push({ key: label, label, low, high, joint, component });
    }
    expressions.forEach((name, index) => {
      const prefix = Object.keys(GROUPS).find((word) => name.toLowerCase().startsWith(word));
      const group = prefix ? GROUPS[prefix] : 'Expressions';
      const label = name.replace(/_L$/, 'Left').replace(/_R$/, 'Right').replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase();
      const numbered = /\d/.test(name); // principal components go both ways
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push({ key: name, label: prefix ? label.slice(prefix.length).trim() || label : name,
        low: numbered ? -3 : 0, high: numbered ? 3 : 1, index });
    });
    for (const [title, rows] of groups) this.group(parent, title, rows);
  }

  group(parent, title, rows) {
    const box = element('details', { open: title === 'Head and gaze' }, element('summary', { textContent: title }));
    for (const row of rows) {
      const input = element('input', { type: 'range', min: row.low, max: row.high, step: 0.01, value: 0, title: row.key });
      input.setAttribute('aria-label', row.key === row.label ? row.key : `${title}: ${row.label}`);
      const shown = element('output', { textContent: '0' });
      input.addEventListener('input', () => {
        shown.textContent = String(Number(input.value));
        this.changed();
      });
      const label = element('label', { className: 'row' }, element('span', { textContent: row.label, title: row.key }), input, shown);
      label.addEventListener('dblclick', () => this.set(row.key, 0));
      this.inputs.set(row.key, { input, ...row });
      box.append(label);
    }
    parent.append(box);
  }

  set(key, value) {
    if (!this.inputs.has(key)) throw new Error(`no slider is called ${key}`);
    const { input } = this.inputs.get(key);
    input.value = value;
    input.dispatchEvent(new Event('input'));
  }

  reset() {
    for (const key of this.inputs.keys()) this.set(key, 0);
  }

  /** Adds what the sliders say to a pose. */
  addTo(pose) {
    for (const { input, index, joint, component } of this.inputs.values()) {
      const value = Number(input.value);
      if (!value) continue;
      if (joint) pose[joint][component] += value;
      else pose.expression[index] += value;
      if (joint === 'eyes') pose.eyes[component + 3] += value;
    }
    return pose;
  }
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, '0')}`;

/** Play, scrub, speed and choice of motions. */
export class Bar {
  constructor(player, motions, chosen, still) {
    this.player = player;
    this.motions = motions;
    this.names = find('motion');
    this.names.append(element('option', { textContent: still, value: -1 }));
    motions.forEach((motion, index) => this.offer(motion, index));
    this.names.addEventListener('change', () => this.choose(Number(this.names.value)));
    find('play').addEventListener('click', () => this.toggle());
    find('scrub').addEventListener('input', (event) => {
      const position = Number(event.target.value); // before the bar shows where the player paused
      player.pause();
      player.seek(position);
    });
    find('speed').addEventListener('change', (event) => player.setSpeed(Number(event.target.value)));
    find('mute').addEventListener('click', () => {
      player.sound.muted = !player.sound.muted;
      this.show();
    });
    this.choose(chosen);
  }

  offer(motion, index) {
    this.names.append(element('option', { textContent: motion.sound ? `${motion.name} (sound)` : motion.name, value: index }));
  }

  add(motion) {
    this.motions.push(motion);
    this.offer(motion, this.motions.length - 1);
    this.choose(this.motions.length - 1);
    this.player.play();
  }

  choose(index) {
    this.names.value = index;
    this.player.choose(this.motions[index] || null);
    find('scrub').max = Math.max(1, (this.motions[index]?.frames || 1) - 1);
  }

  toggle() {
    if (this.player.playing) this.player.pause();
    else this.player.play();
  }

  show() {
    const { motion, position, playing, sound } = this.player;
    const seconds = motion ? position / motion.fps : 0, total = motion ? (motion.frames - 1) / motion.fps : 0;
    find('play').setAttribute('aria-label', playing ? 'Pause' : 'Play');
    find('play').classList.toggle('playing', playing);
    find('play').disabled = find('scrub').disabled = !motion || motion.frames < 2;
    find('scrub').value = position;
    find('scrub').setAttribute('aria-valuetext', `${clock(seconds)} of ${clock(total)}`);
    find('time').textContent = `${clock(seconds)} / ${clock(total)}`;
    find('mute').hidden = !motion?.sound;
    find('mute').textContent = sound.muted ? 'Sound off' : 'Sound on';
    find('mute').setAttribute('aria-pressed', String(!sound.muted));
  }
}
