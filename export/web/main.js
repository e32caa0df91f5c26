// Ties the parts together: payload, renderer, worker, camera, player, panel.
import { readPayload } from './payload.js';
import { multiply, rotationMatrix, transform } from './rig.js';
import { Splats } from './splats.js';
import { Orbit } from './camera.js';
import { Player, poseAt, readRecording, restPose } from './motion.js';
import { Live } from './live.js';
import { Bar, Sliders, find } from './controls.js';

const options = new URLSearchParams(location.search);
const canvas = find('stage');
const QUICK = 40, SLOW = 60, PAUSE = 500; // milliseconds from one frame to the next
const state = { wanted: true, busy: false, fresh: false, shown: null, waiting: [], sent: 0, draws: 0, drawn: 0, ease: 1, timings: {} };
let header, splats, worker, buffers, sliders, bar, live;
const orbit = new Orbit(canvas, () => { state.wanted = true; });
const player = new Player(() => {
  state.wanted = true;
  bar?.show();
});

function say(text, lasting = false) {
  find('message').textContent = text;
  clearTimeout(say.timer);
  if (!lasting) say.timer = setTimeout(() => { find('message').textContent = ''; }, 6000);
}

function currentPose() {
  const count = header.expressions.length;
  return sliders.addTo(player.motion ? poseAt(player.motion, player.position, count) : live?.now() || restPose(count));
}

// World to camera after the head's own pose: head space to camera.
function headView(view, pose) {
  const turn = [0, 1, 2].flatMap((row) => view.slice(4 * row, 4 * row + 3)), shift = [view[3], view[7], view[11]];
  const rotation = multiply(turn, rotationMatrix(pose.rotation)), moved = transform(turn, pose.translation);
  return [0, 1, 2].flatMap((row) => [...rotation.slice(3 * row, 3 * row + 3), moved[row] + shift[row]]);
}

function send() {
  const pose = currentPose(), view = headView(orbit.look(canvas.width, canvas.height).view, pose);
  [state.wanted, state.busy] = [false, true];
  state.sent += 1;
  worker.postMessage({ number: state.sent, pose, axis: view.slice(8), ...buffers }, [buffers.vertices.buffer, buffers.order.buffer]);
}

function receive({ data }) {
  buffers = { vertices: data.vertices, order: data.order };
  splats.load(data.vertices, data.order);
  Object.assign(state, { busy: false, fresh: true, shown: data.pose, number: data.number, timings: data.timings });
}

function fit() {
  const scale = Math.min(2, devicePixelRatio || 1), box = canvas.getBoundingClientRect();
  const width = Math.max(8, Math.round(box.width * scale)), height = Math.max(8, Math.round(box.height * scale));
  if (width === canvas.width && height === canvas.height && splats.sized) return;
  splats.resize(width, height);
  Object.assign(state, { wanted: true, fresh: state.shown !== null });
}

function background() {
  if (find('transparent').checked) return [0, 0, 0, 0];
  const digits = find('background').value;
  return [1, 3, 5].map((at) => parseInt(digits.slice(at, at + 2), 16) / 255).concat(1);
}

// While it moves, a slow machine draws larger pixels; what stands still is drawn in full.
function draw(now) {
  const { view, lens } = orbit.look(canvas.width, canvas.height), moving = player.playing || state.wanted;
  const passed = now - state.drawn, pace = passed > SLOW ? 1.06 : passed < QUICK ? 0.97 : 1;
  if (moving && passed < PAUSE) state.ease = Math.min(2, Math.max(1, state.ease * pace));
  splats.draw(headView(view, state.shown), lens, background(), moving ? state.ease : 1);
  state.drawn = now;
  state.draws += 1;
  state.fresh = false;
  state.waiting = state.waiting.filter(({ number, resolve }) => number > state.number || resolve());
}

function tick(now) {
  requestAnimationFrame(tick);
  fit();
  if (state.fresh) draw(now);
  if (player.advance(now)) {
    state.wanted = true;
    bar.show();
  }
  if (state.wanted && !state.busy) send();
}

async function take(file) {
  if (!file) return;
  try {
    bar.add(await readRecording(file, header.expressions));
    say(`playing ${file.name}`);
  } catch (error) {
    say(`${file.name} ${error.message}`);
  }
}

function connect() {
  find('reset').addEventListener('click', () => {
    sliders.reset();
    orbit.reset();
  });
  for (const id of ['background', 'transparent']) find(id).addEventListener('input', () => { state.wanted = true; });
  find('transparent').addEventListener('input', (event) => document.body.classList.toggle('clear', event.target.checked));
  find('recording').addEventListener('change', async ({ target }) => {
    await take(target.files[0]);
    target.value = ''; // the same file may be chosen again
  });
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  canvas.addEventListener('keydown', (event) => {
    if (event.key !== ' ') return;
    event.preventDefault();
    bar.toggle();
  });
  canvas.addEventListener('webglcontextlost', (event) => event.preventDefault());
  canvas.addEventListener('webglcontextlost', () => say('The browser stopped the graphics; reload the page.', true));
  canvas.addEventListener('webglcontextrestored', () => location.reload());
}

function applyOptions(motions) {
  document.body.classList.toggle('embed', options.has('embed'));
  orbit.lift = options.has('embed') ? 0 : 0.04;
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const asked = [options.get('background'), header.background, dark ? '16181d' : 'f3f2ef']
    .find((value) => /^(#?[0-9a-f]{6}|transparent)$/i.test(value || '')).toLowerCase();
  if (asked === 'transparent') find('transparent').click(); else find('background').value = `#${asked.replace('#', '')}`;
  for (const name of ['azimuth', 'elevation']) {
    if (options.has(name)) orbit[name] = (Number(options.get(name)) || 0) * Math.PI / 180;
  }
  const wanted = options.get('motion'), named = motions.findIndex((motion) => motion.name === wanted);
  return wanted === null ? header.live ? -1 : 0 : named >= 0 ? named : Number(wanted) || 0;
}

async function start() {
  const payload = await readPayload(find('payload').textContent), { arrays } = payload;
  header = payload.header;
  find('payload').remove();
  find('title').textContent = header.title;
  find('facts').textContent = `${header.gaussians.toLocaleString('en')} Gaussians, ${header.expressions.length} expressions`;
  canvas.setAttribute('aria-label', `Head avatar ${header.title}. Arrow keys turn, plus and minus zoom, space plays.`);
  splats = new Splats(canvas, header, arrays);
  const source = new Blob([find('worker').textContent], { type: 'text/javascript' });
  worker = new Worker(URL.createObjectURL(source));
  worker.onmessage = receive;
  worker.onerror = (event) => say(`the page's worker stopped: ${event.message}`, true);
  worker.postMessage({ header, arrays });
  buffers = splats.buffers();
  const motions = header.motions.map((motion, index) => ({ ...motion, expression: arrays[`motion_${index}`],
    rigid: arrays[`rigid_${index}`],
    sound: motion.sound && URL.createObjectURL(new Blob([arrays[`sound_${index}`]], { type: motion.sound })) }));
  sliders = new Sliders(find('sliders'), header.expressions, () => { state.wanted = true; });
  connect();
  const chosen = applyOptions(motions), still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  if (header.live) live = new Live(() => { state.wanted = true; }, say);
  bar = new Bar(player, motions, chosen, live ? 'live' : 'at rest');
  bar.show();
  if (!still && !options.has('paused') && !motions[chosen]?.sound) player.play();
  requestAnimationFrame(tick);
  await settled();
  say('');
  document.body.classList.add('ready');
}

/** Resolves once what the controls say now is drawn. */
function settled() {
  state.wanted = true;
  return new Promise((resolve) => { state.waiting.push({ number: state.sent + 1, resolve }); });
}

// For scripts of the site that the page is put on.
window.avatar = { settled, state, player, orbit, set: (name, value) => sliders.set(name, value), get header() { return header; },
  get splats() { return splats; }, choose: (index) => bar.choose(index) };
start().catch((error) => say(`The avatar cannot be shown: ${error.message}.`, true));
