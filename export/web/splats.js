// Draws the Gaussians: projects each once into a buffer, in drawing order, then blends one quad for each.
import { BLEND, DISCARDED, FINISH, PROJECT, QUAD, SCREEN } from './shaders.js';

const WIDTH = 1024; // texels a row of the data textures
const EPS_2D = 0.3; // pixels squared of blur, as in the fit

export class Splats {
  constructor(canvas, header, arrays) {
    const gl = canvas.getContext('webgl2', { antialias: false, depth: false, powerPreference: 'high-performance' });
    if (!gl) throw new Error('this browser has no WebGL 2');
    this.gl = gl;
    this.canvas = canvas;
    this.header = header;
    this.count = arrays.binding.length;
    // Half floats gather many faint layers better than bytes do; without the extension bytes have to do.
    this.float = Boolean(gl.getExtension('EXT_color_buffer_float') || gl.getExtension('EXT_color_buffer_half_float'));
    this.project = this.program(PROJECT, DISCARDED, ['place', 'shape', 'tint']);
    this.blend = this.program(QUAD, BLEND);
    this.finish = this.program(SCREEN, FINISH);
    this.rows = 4 + header.harmonics;
    this.gaussians = this.texture(pack(arrays, this.rows));
    this.padded = WIDTH * Math.ceil(arrays.template.length / 3 / WIDTH);
    this.vertices = this.texture(new Float32Array(4 * this.padded));
    this.buildBuffers();
  }

  program(vertex, fragment, captured) {
    const { gl } = this, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    }
    if (captured) gl.transformFeedbackVaryings(program, captured, gl.INTERLEAVED_ATTRIBS);
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    const places = {};
    for (let k = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) - 1; k >= 0; k--) {
      const { name } = gl.getActiveUniform(program, k);
      places[name] = gl.getUniformLocation(program, name);
    }
    return { program, places };
  }

  texture(data) {
    const { gl } = this, texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, WIDTH, data.length / 4 / WIDTH, 0, gl.RGBA, gl.FLOAT, data);
    this.plain();
    return texture;
  }

  plain() {
    const { gl } = this;
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  }

  buildBuffers() {
    const { gl, count } = this;
    this.order = gl.createBuffer();
    this.projected = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.bufferData(gl.ARRAY_BUFFER, 4 * count, gl.DYNAMIC_DRAW);
    this.input = gl.createVertexArray();
    gl.bindVertexArray(this.input);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0);
    this.quads = gl.createVertexArray();
    gl.bindVertexArray(this.quads);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.projected);
    gl.bufferData(gl.ARRAY_BUFFER, 48 * count, gl.DYNAMIC_COPY);
    for (let k = 0; k < 3; k++) {
      gl.enableVertexAttribArray(k);
      gl.vertexAttribPointer(k, 4, gl.FLOAT, false, 48, 16 * k);
      gl.vertexAttribDivisor(k, 1);
    }
    gl.bindVertexArray(null);
    gl.bindBuffer(gl.ARRAY_BUFFER, null);
    this.feedback = gl.createTransformFeedback();
    this.target = gl.createFramebuffer();
    this.picture = gl.createTexture();
  }

  /** Takes posed vertices (RGBA rows of the texture) and the drawing order, both from the worker. */
  load(vertices, order) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.vertices);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, WIDTH, vertices.length / 4 / WIDTH, gl.RGBA, gl.FLOAT, vertices);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, order);
    gl.bindBuffer(gl.ARRAY_BUFFER, null);
  }

  resize(width, height) {
    const { gl, canvas } = this;
    if (canvas.width !== width || canvas.height !== height || !this.sized) {
      [canvas.width, canvas.height, this.sized] = [width, height, true];
      gl.bindTexture(gl.TEXTURE_2D, this.picture);
      const [inner, kind] = this.float ? [gl.RGBA16F, gl.HALF_FLOAT] : [gl.RGBA8, gl.UNSIGNED_BYTE];
      gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, gl.RGBA, kind, null);
      this.plain();
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.picture, 0);
    }
  }

  /** Draws through a camera: head space to camera (12 numbers, [R | t] row by row), lens [fx, fy, cx, cy]. */
  draw(view, lens, background) {
    const { gl, canvas, count } = this, size = [canvas.width, canvas.height];
    this.transformAll(view, lens, size);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, ...size);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.blend.program);
    gl.uniform2f(this.blend.places.size, ...size);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.quads);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    gl.bindVertexArray(null);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(this.finish.program);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.picture);
    gl.uniform4f(this.finish.places.background, ...background);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  transformAll(view, lens, size) {
    const { gl, header, project: { program, places } } = this;
    const [a, b, c, x, d, e, f, y, g, h, i, z] = view;
    // The screen blur grows with pictures larger than those of the fit (Avatar.screen_blur).
    const enlarged = header.antialiased ? Math.max(1, header.pitch * lens[0] / Math.max(z, 0.01)) : 1;
    gl.useProgram(program);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.vertices);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.gaussians);
    gl.uniform1i(places.vertices, 1);
    gl.uniform1i(places.degree, header.degree);
    gl.uniform1i(places.rows, this.rows);
    gl.uniformMatrix4fv(places.view, false, [a, d, g, 0, b, e, h, 0, c, f, i, 0, x, y, z, 1]);
    gl.uniform4f(places.lens, ...lens);
    gl.uniform2f(places.size, ...size);
    gl.uniform3f(places.eye, -(a * x + d * y + g * z), -(b * x + e * y + h * z), -(c * x + f * y + i * z));
    gl.uniform1f(places.blur, EPS_2D * enlarged * enlarged);
    gl.uniform1i(places.antialiased, header.antialiased ? 1 : 0);
    gl.bindVertexArray(this.input);
    gl.bindTransformFeedback(gl.TRANSFORM_FEEDBACK, this.feedback);
    gl.bindBufferBase(gl.TRANSFORM_FEEDBACK_BUFFER, 0, this.projected);
    gl.enable(gl.RASTERIZER_DISCARD);
    gl.beginTransformFeedback(gl.POINTS);
    gl.drawArrays(gl.POINTS, 0, this.count);
    gl.endTransformFeedback();
    gl.disable(gl.RASTERIZER_DISCARD);
    gl.bindBufferBase(gl.TRANSFORM_FEEDBACK_BUFFER, 0, null);
    gl.bindTransformFeedback(gl.TRANSFORM_FEEDBACK, null);
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
