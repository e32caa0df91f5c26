// Draws the Gaussians in the order that the worker found: one triangle each, blended back to front.
import { BLEND, FINISH, PROJECT, SCREEN } from './shaders.js';

const WIDTH = 1024; // texels a row of the data textures
const EPS_2D = 0.3; // pixels squared of blur, as in the fit
const FINE = 1.6, MARGIN = 3; // a blur of 1.6 fitted pixels is drawn at one pixel; pixels drawn beyond the border

export class Splats {
  constructor(canvas, header, arrays) {
    const gl = canvas.getContext('webgl2', { antialias: false, depth: false, powerPreference: 'high-performance' });
    if (!gl) throw new Error('this browser has no WebGL 2');
    this.gl = gl;
    this.canvas = canvas;
    this.header = header;
    this.count = arrays.binding.length;
    // Half floats gather many faint layers better than bytes do; on a processor whole floats are blended twice as fast.
    const floats = gl.getExtension('EXT_color_buffer_float') || gl.getExtension('EXT_color_buffer_half_float');
    const named = gl.getExtension('WEBGL_debug_renderer_info')?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER;
    const whole = gl.getExtension('EXT_float_blend') && /swiftshader|llvmpipe|software/i.test(gl.getParameter(named));
    this.kind = whole ? [gl.RGBA32F, gl.FLOAT] : floats ? [gl.RGBA16F, gl.HALF_FLOAT] : [gl.RGBA8, gl.UNSIGNED_BYTE];
    this.paint = this.program(PROJECT, BLEND);
    this.finish = this.program(SCREEN, FINISH);
    this.rows = 4 + header.harmonics;
    this.gaussians = this.texture(pack(arrays, this.rows));
    this.padded = WIDTH * Math.ceil(arrays.template.length / 3 / WIDTH);
    this.vertices = this.texture(new Float32Array(4 * this.padded));
    this.order = this.texture(new Uint32Array(WIDTH * Math.ceil(this.count / WIDTH)));
    [this.drawn, this.widened] = [0, 1].map(() => ({ frame: gl.createFramebuffer(), texture: gl.createTexture() }));
  }

  program(vertex, fragment) {
    const { gl } = this, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    const places = {};
    for (let k = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) - 1; k >= 0; k--) {
      const { name } = gl.getActiveUniform(program, k);
      places[name] = gl.getUniformLocation(program, name);
    }
    return { program, places };
  }

  // Numbers, four a texel, or indices, one a texel.
  texture(data) {
    const { gl } = this, texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    const [inner, width] = data instanceof Float32Array ? [gl.RGBA32F, 4] : [gl.R32UI, 1];
    gl.texStorage2D(gl.TEXTURE_2D, 1, inner, WIDTH, data.length / width / WIDTH);
    this.plain();
    this.fill(texture, data);
    return texture;
  }

  fill(texture, data) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    const [format, kind, width] = data instanceof Float32Array ? [gl.RGBA, gl.FLOAT, 4]
      : [gl.RED_INTEGER, gl.UNSIGNED_INT, 1];
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, WIDTH, data.length / width / WIDTH, format, kind, data);
  }

  plain() {
    const { gl } = this;
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  }

  /** Takes posed vertices and the drawing order, both from the worker, in rows of the textures. */
  load(vertices, order) {
    this.fill(this.vertices, vertices);
    this.fill(this.order, order);
  }

  /** Empty arrays for the worker to fill. */
  buffers() {
    return { vertices: new Float32Array(4 * this.padded), order: new Uint32Array(WIDTH * Math.ceil(this.count / WIDTH)) };
  }

  resize(width, height) {
    const { gl, canvas } = this;
    [canvas.width, canvas.height, this.sized] = [width, height, true];
    const [inner, kind] = this.kind;
    for (const { frame, texture } of [this.drawn, this.widened]) {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, inner, width + 2 * MARGIN, height + 2 * MARGIN, 0, gl.RGBA, kind, null);
      this.plain();
      gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    }
  }

  /** Draws: head space to camera (12 numbers, [R | t] row by row), lens [fx, fy, cx, cy]; pixels `ease` times as large. */
  draw(view, lens, background, ease = 1) {
    const { canvas, header, gl } = this;
    // The screen blur grows with pictures larger than those of the fit (Avatar.screen_blur). What is blurred so needs no
    // more pixels than the fit had: it is drawn coarsely and enlarged.
    const enlarged = header.antialiased ? Math.max(1, header.pitch * lens[0] / Math.max(view[11], 0.01)) : 1;
    const coarse = ease * Math.max(1, enlarged / FINE), size = [canvas.width / coarse, canvas.height / coarse];
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.drawn.frame);
    this.drawGaussians(view, lens.map((value) => value / coarse), size, EPS_2D * (enlarged / coarse) ** 2);
    if (coarse === 1) this.copy(this.drawn, null, [canvas.width, canvas.height], [1, 1], [MARGIN, MARGIN], background);
    else {
      this.copy(this.drawn, this.widened, [canvas.width, Math.ceil(size[1]) + 2 * MARGIN], [coarse, 1], [MARGIN, 0], [0, 0, 0, 0]);
      this.copy(this.widened, null, [canvas.width, canvas.height], [1, coarse], [0, MARGIN], background);
    }
  }

  // From one picture to another, or to the screen, enlarged.
  copy(from, to, size, coarse, offset, background) {
    const { gl, finish: { program, places } } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, to && to.frame);
    gl.viewport(0, 0, ...size);
    gl.useProgram(program);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, from.texture);
    gl.uniform2f(places.coarse, ...coarse);
    gl.uniform2f(places.offset, ...offset);
    gl.uniform4f(places.background, ...background);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  drawGaussians(view, lens, size, blur) {
    const { gl, header, paint: { program, places } } = this;
    const [a, b, c, x, d, e, f, y, g, h, i, z] = view;
    const grid = size.map((side) => Math.ceil(side) + 2 * MARGIN);
    gl.viewport(0, 0, ...grid);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(program);
    ['gaussians', 'vertices', 'order'].forEach((name, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, this[name]);
      gl.uniform1i(places[name], unit);
    });
    gl.uniform1i(places.degree, header.degree);
    gl.uniform1i(places.rows, this.rows);
    gl.uniformMatrix4fv(places.view, false, [a, d, g, 0, b, e, h, 0, c, f, i, 0, x, y, z, 1]);
    gl.uniform4f(places.lens, ...lens);
    gl.uniform2f(places.size, ...size);
    gl.uniform2f(places.grid, ...grid);
    gl.uniform1f(places.margin, MARGIN);
    gl.uniform3f(places.eye, -(a * x + d * y + g * z), -(b * x + e * y + h * z), -(c * x + f * y + i * z));
    gl.uniform1f(places.blur, blur);
    gl.uniform1i(places.antialiased, header.antialiased ? 1 : 0);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.drawArrays(gl.TRIANGLES, 0, 3 * this.count);
    gl.disable(gl.BLEND);
  }
}

// Four texels a Gaussian (position and opacity; rotation; sizes; corners of its triangle), then its harmonics.
function pack({ binding, faces, position, rotation, scale, opacity, harmonics }, rows) {
  const count = binding.length, data = new Float32Array(4 * WIDTH * Math.ceil(count * rows / WIDTH));
  for (let g = 0; g < count; g++) {
    const at = 4 * rows * g, length = Math.hypot(...rotation.subarray(4 * g, 4 * g + 4));
    for (let k = 0; k < 3; k++) {
      data[at + k] = position[3 * g + k];
      data[at + 8 + k] = Math.exp(scale[3 * g + k]);
      data[at + 12 + k] = faces[3 * binding[g] + k];
    }
    data[at + 3] = 1 / (1 + Math.exp(-opacity[g]));
    for (let k = 0; k < 4; k++) data[at + 4 + k] = rotation[4 * g + k] / length;
    for (let k = 0; k < 3 * (rows - 4); k++) {
      data[at + 16 + 4 * Math.floor(k / 3) + k % 3] = harmonics[3 * (rows - 4) * g + k];
    }
  }
  return data;
}
