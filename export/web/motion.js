// Motions: what was packed, what is dropped on the page (Live Link Face CSV), and their playback.
import { multiply, rotationMatrix } from './rig.js';

const BYTES = 32 << 20, FRAMES = 100000; // of a recording that is dropped on the page
const RIGID = 18; // numbers a frame: rotation, translation, neck, jaw, two eyes

/** A pose of `count` expressions, at rest. */
export function restPose(count) {
  const zero = () => [0, 0, 0];
  return { expression: new Float32Array(count), rotation: zero(), translation: zero(), neck: zero(), jaw: zero(),
    eyes: new Array(6).fill(0) };
}

/** The pose at a position (in frames, between two of them mixed). */
export function poseAt(motion, position, count) {
  const last = motion.frames - 1, first = Math.min(Math.floor(position), last), share = position - first;
  const mix = (values, width) => {
    const a = first * width, b = Math.min(first + 1, last) * width;
    return Float32Array.from({ length: width }, (_, k) => values[a + k] * (1 - share) + values[b + k] * share);
  };
  const rigid = mix(motion.rigid, RIGID), part = (from, to) => Array.from(rigid.subarray(from, to));
  return { expression: mix(motion.expression, count), rotation: part(0, 3), translation: part(3, 6),
    neck: part(6, 9), jaw: part(9, 12), eyes: part(12, 18) };
}

const canonical = (name) => name.replace(/_L$/, 'Left').replace(/_R$/, 'Right').replace(/_/g, '').toLowerCase();

/** A Live Link Face recording as a motion; throws an Error with one line for the reader. */
export async function readRecording(file, expressions) {
  if (file.size > BYTES) throw new Error(`is larger than ${BYTES >> 20} MB`);
  const lines = (await file.text()).replace(/^\uFEFF/, '').split(/\r\n?|\n/);
  const columns = lines[0].slice(0, 65536).split(',').map((name) => canonical(name.trim())), many = columns.length;
  const angles = ['head', 'lefteye', 'righteye'].map((part) => ['yaw', 'pitch', 'roll'].map((turn) => part + turn));
  for (const name of ['jawopen', 'eyeblinkleft', 'headyaw']) {
    if (!columns.includes(name)) throw new Error(`is no Live Link Face recording: it lacks the column ${name}`);
  }
  const jaw = columns.indexOf('jawopen');
  const rows = lines.slice(1).map((line) => line.split(',', many)).filter((row) => (row[jaw] || '').trim());
  if (!rows.length || rows.length > FRAMES) throw new Error(`has ${rows.length} frames; 1 to ${FRAMES} are read`);
  const places = expressions.map((name) => columns.indexOf(canonical(name)));
  const turns = angles.map((names) => names.map((name) => columns.indexOf(name)));
  const motion = { name: file.name, frames: rows.length, fps: rateOf(rows, columns.indexOf('timecode')),
    expression: new Float32Array(rows.length * expressions.length), rigid: new Float32Array(rows.length * RIGID) };
  rows.forEach((row, frame) => {
    const value = (column) => {
      const number = column < 0 ? 0 : Number(row[column]);
      if (!Number.isFinite(number)) throw new Error(`frame ${frame}, column ${columns[column]}: not a number`);
      return number;
    };
    places.forEach((column, k) => { motion.expression[frame * expressions.length + k] = value(column); });
    const [head, ...eyes] = turns.map((three) => axisAngle(three.map(value)));
    motion.rigid.set(head, frame * RIGID);
    motion.rigid.set(eyes.flat(), frame * RIGID + 12);
  });
  return motion;
}

// R_y(yaw) R_x(pitch) R_z(roll) as an axis-angle vector.
function axisAngle([yaw, pitch, roll]) {
  const m = multiply(multiply(rotationMatrix([0, yaw, 0]), rotationMatrix([pitch, 0, 0])), rotationMatrix([0, 0, roll]));
  const angle = Math.acos(Math.min(1, Math.max(-1, (m[0] + m[4] + m[8] - 1) / 2)));
  const factor = angle < 1e-6 ? 0.5 : angle / 2 / Math.sin(angle);
  return [m[7] - m[5], m[2] - m[6], m[3] - m[1]].map((value) => value * factor);
}

// Frames a second told by HH:MM:SS:FF timecodes; 60, the app's own, where they do not tell.
function rateOf(rows, column) {
  const codes = rows.map((row) => /^(\d+):(\d+):(\d+)[:;](\d+)/.exec((row[column] || '').trim()));
  if (rows.length < 2 || codes.some((code) => !code)) return 60;
  const seconds = codes.map((code) => Number(code[1]) * 3600 + Number(code[2]) * 60 + Number(code[3]));
  const whole = seconds[rows.length - 1] - seconds[0];
  if (whole < 1) return 60;
  const rate = (rows.length - 1 - (codes[rows.length - 1][4] - codes[0][4])) / whole;
  return [24, 25, 30, 50, 60].reduce((best, next) => (Math.abs(next - rate) < Math.abs(best - rate) ? next : best));
}

/** Playback of one motion at a time; position in frames. Sound leads where a motion has it. */
export class Player {
  constructor(changed) {
    Object.assign(this, { changed, motion: null, position: 0, playing: false, speed: 1, last: null });
    this.sound = new Audio();
    this.sound.preservesPitch = true;
  }

  choose(motion) {
    this.pause();
    this.motion = motion;
    this.sound.removeAttribute('src');
    if (motion?.sound) this.sound.src = motion.sound;
    this.seek(0);
  }

  /** Starts or goes on; the answer is told through `changed`. */
  async play() {
    if (!this.motion || this.motion.frames < 2) return;
    if (this.position >= this.motion.frames - 1) this.seek(0);
    [this.playing, this.last] = [true, null];
    this.changed();
    if (!this.motion.sound) return;
    this.sound.playbackRate = this.speed;
    this.sound.currentTime = this.position / this.motion.fps;
    await this.sound.play().catch(() => this.pause()); // browsers want a click first
  }

  pause() {
    this.playing = false;
    this.sound.pause();
    this.changed();
  }

  seek(position) {
    this.position = Math.min(Math.max(position, 0), Math.max(0, (this.motion?.frames || 1) - 1));
    if (this.motion?.sound) this.sound.currentTime = this.position / this.motion.fps;
    this.changed();
  }

  setSpeed(speed) {
    this.speed = speed;
    this.sound.playbackRate = speed;
  }

  /** Moves on to the time `now` (milliseconds); true where the pose changed. */
  advance(now) {
    if (!this.playing) return false;
    const { motion, sound } = this, end = motion.frames - 1;
    if (motion.sound && !sound.ended) this.position = Math.min(end, sound.currentTime * motion.fps);
    else this.position += this.last === null ? 0 : Math.min(0.25, (now - this.last) / 1000) * motion.fps * this.speed;
    this.last = now;
    if (this.position < end) return true;
    if (motion.sound || motion.once) {
      this.position = end;
      this.pause();
    } else this.position %= end; // the last frame and the first are one
    return true;
  }
}
