// The shaders: one invocation a Gaussian projects it (transform feedback), one a pixel blends it.
// Conventions and constants are those of export/projection.py and export/compositor.py.

export const PROJECT = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D;
uniform sampler2D gaussians, vertices;
uniform int degree, rows;              // of the harmonics; texels a Gaussian
uniform mat4 view;                     // head space to camera, OpenCV axes
uniform vec4 lens;                     // fx, fy, cx, cy in pixels
uniform vec2 size;                     // of the picture in pixels
uniform vec3 eye;                      // the camera in head space
uniform float blur;                    // pixels squared
uniform bool antialiased;
layout(location = 0) in uint splat;
out vec4 place, shape, tint;           // mean and half sides; conic and opacity; colour

vec4 read(sampler2D data, int texel) { return texelFetch(data, ivec2(texel & 1023, texel >> 10), 0); }
vec4 row(int k) { return read(gaussians, int(splat) * rows + k); }
vec3 vertex(float index) { return read(vertices, int(index)).xyz; }
vec3 unit(vec3 v) { return v / max(length(v), 1e-12); }
vec3 harmonic(int k) { return row(4 + k).rgb; }

mat3 turn(vec4 q) {                    // of a unit quaternion wxyz
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(1. - 2. * (y * y + z * z), 2. * (x * y + w * z), 2. * (x * z - w * y),
              2. * (x * y - w * z), 1. - 2. * (x * x + z * z), 2. * (y * z + w * x),
              2. * (x * z + w * y), 2. * (y * z - w * x), 1. - 2. * (x * x + y * y));
}

vec3 colour(vec3 d) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  vec3 sum = .28209479 * harmonic(0) + .5;
  if (degree > 0) sum += .48860251 * (-y * harmonic(1) + z * harmonic(2) - x * harmonic(3));
  if (degree > 1) sum += 1.09254843 * (x * y * harmonic(4) - y * z * harmonic(5) - x * z * harmonic(7))
    + .31539157 * (3. * zz - 1.) * harmonic(6) + .54627422 * (xx - yy) * harmonic(8);
  if (degree > 2) sum += -.59004359 * (y * (3. * xx - yy) * harmonic(9) + x * (xx - 3. * yy) * harmonic(15))
    + 2.89061144 * x * y * z * harmonic(10) + 1.44530572 * z * (xx - yy) * harmonic(14)
    - .45704580 * (5. * zz - 1.) * (y * harmonic(11) + x * harmonic(13))
    + .37317633 * z * (5. * zz - 3.) * harmonic(12);
  return max(sum, 0.);
}

void main() {
  vec4 local = row(0), corners = row(3);
  vec3 v0 = vertex(corners.x), first = vertex(corners.y) - v0, second = vertex(corners.z) - v0;
  vec3 a0 = unit(first), a1 = unit(cross(a0, second)), a2 = -unit(cross(a1, a0));
  float scale = (length(first) + abs(dot(a2, second))) / 2.;
  mat3 frame = mat3(a0, a1, a2);
  vec3 mean = scale * (frame * local.xyz) + v0 + (first + second) / 3.;
  vec3 p = (view * vec4(mean, 1.)).xyz, sides = row(2).xyz * scale;
  mat3 spread = mat3(view) * frame * turn(row(1));
  spread = mat3(spread[0] * sides.x, spread[1] * sides.y, spread[2] * sides.z);
  place = shape = tint = vec4(0.);
  if (p.z <= .01) return;

  vec2 margin = .15 * size / lens.xy;  // the Jacobian is taken no further outside
  vec2 slope = clamp(p.xy / p.z, -(lens.zw / lens.xy + margin), (size - lens.zw) / lens.xy + margin);
  mat3 along = transpose(spread);      // rows: x, y, z of the three axes
  vec3 u = along[0], v = along[1], w = along[2];
  u = lens.x / p.z * (u - slope.x * w);
  v = lens.y / p.z * (v - slope.y * w);
  float xx = dot(u, u), xy = dot(u, v), yy = dot(v, v), sharp = xx * yy - xy * xy;
  xx += blur; yy += blur;
  float area = max(xx * yy - xy * xy, 1e-10), opacity = local.w;
  if (antialiased) opacity *= sqrt(max(sharp / area, 1e-10));
  if (opacity < 1. / 255.) return;
  vec2 centre = lens.xy * p.xy / p.z + lens.zw;
  vec2 extent = min(sqrt(2. * log(opacity * 255.)), 3.33) * sqrt(vec2(xx, yy));
  if (any(lessThanEqual(centre + extent, vec2(0.))) || any(greaterThanEqual(centre - extent, size))) return;
  place = vec4(centre, extent);
  shape = vec4(vec3(yy, -xy, xx) / area, opacity);
  tint = vec4(colour(unit(mean - eye)), 1.);
}`;

export const DISCARDED = `#version 300 es
precision highp float;
out vec4 nothing;
void main() { nothing = vec4(0.); }`;

export const QUAD = `#version 300 es
precision highp float;
uniform vec2 size;
layout(location = 0) in vec4 place;
layout(location = 1) in vec4 shape;
layout(location = 2) in vec4 tint;
flat out vec2 mean; flat out vec4 cone; flat out vec3 paint;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2. - 1.;
  vec2 pixel = place.xy + corner * (place.zw + .5 * sign(place.zw));
  mean = vec2(place.x, size.y - place.y); cone = shape; paint = tint.rgb;
  gl_Position = vec4(pixel.x / size.x * 2. - 1., 1. - pixel.y / size.y * 2., 0., 1.);
}`;

export const BLEND = `#version 300 es
precision highp float;
flat in vec2 mean; flat in vec4 cone; flat in vec3 paint;
out vec4 blended;
void main() {
  vec2 d = mean - gl_FragCoord.xy;     // y up
  float power = -.5 * (cone.x * d.x * d.x + cone.z * d.y * d.y) + cone.y * d.x * d.y;
  float alpha = min(.999, cone.w * exp(power));
  if (alpha < 1. / 255.) discard;
  blended = vec4(paint * alpha, alpha);
}`;

export const SCREEN = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3. : -1., gl_VertexID == 2 ? 3. : -1., 0., 1.); }`;

export const FINISH = `#version 300 es
precision highp float; precision highp sampler2D;
uniform sampler2D picture;
uniform vec4 background;               // straight colour and alpha
out vec4 finished;
void main() {
  vec4 drawn = texelFetch(picture, ivec2(gl_FragCoord.xy), 0);
  finished = drawn + (1. - drawn.a) * vec4(background.rgb * background.a, background.a);
}`;
