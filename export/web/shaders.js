// The shaders: a triangle around each Gaussian's ellipse, its pixels, and the picture that comes of them.
// Conventions and constants are those of export/projection.py, harmonics.py and compositor.py.

export const PROJECT = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D; precision highp usampler2D;
uniform sampler2D gaussians, vertices;
uniform usampler2D order;              // which Gaussian is drawn when
uniform int degree, rows;              // of the harmonics; texels a Gaussian
uniform mat4 view;                     // head space to camera, OpenCV axes
uniform vec4 lens;                     // fx, fy, cx, cy in pixels
uniform vec2 size, grid;               // of the picture in pixels, and of what is drawn: a margin wider
uniform float margin;
uniform vec3 eye;                      // the camera in head space
uniform float blur;                    // pixels squared
uniform bool antialiased;
flat out vec2 mean;                    // pixels, y up
flat out vec4 conic;                   // inverse covariance, y up (xx, xy, yy); opacity
flat out vec3 tint;

vec4 read(sampler2D data, int texel) { return texelFetch(data, ivec2(texel & 1023, texel >> 10), 0); }
int splat;
vec4 row(int k) { return read(gaussians, splat * rows + k); }
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
  int place = gl_VertexID / 3, corner = gl_VertexID - 3 * place;
  splat = int(texelFetch(order, ivec2(place & 1023, place >> 10), 0).x);
  vec4 local = row(0), corners = row(3);
  vec3 v0 = vertex(corners.x), first = vertex(corners.y) - v0, second = vertex(corners.z) - v0;
  vec3 a0 = unit(first), a1 = unit(cross(a0, second)), a2 = -unit(cross(a1, a0));
  float scale = (length(first) + abs(dot(a2, second))) / 2.;
  mat3 frame = mat3(a0, a1, a2);
  vec3 middle = scale * (frame * local.xyz) + v0 + (first + second) / 3.;
  vec3 p = (view * vec4(middle, 1.)).xyz, sides = row(2).xyz * scale;
  mat3 spread = mat3(view) * frame * turn(row(1));
  spread = mat3(spread[0] * sides.x, spread[1] * sides.y, spread[2] * sides.z);
  gl_Position = vec4(0., 0., 2., 1.);  // out of sight
  if (p.z <= .01) return;

  vec2 beyond = .15 * size / lens.xy;   // the Jacobian is taken no further outside
  vec2 slope = clamp(p.xy / p.z, -(lens.zw / lens.xy + beyond), (size - lens.zw) / lens.xy + beyond);
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
  vec2 reach = sqrt(2. * log(opacity * 255.)) * sqrt(vec2(xx, yy)); // alpha is under 1/255 outside
  if (any(lessThanEqual(centre + reach, vec2(0.))) || any(greaterThanEqual(centre - reach, size))) return;
  mean = vec2(centre.x, size.y - centre.y) + margin;
  conic = vec4(vec3(yy, xy, xx) / area, opacity);
  tint = colour(unit(middle - eye));
  // The ellipse is the image of a circle, and this triangle that of one around the circle.
  vec2 t = corner == 0 ? vec2(0., 2.) : vec2(corner == 1 ? -1.7320508 : 1.7320508, -1.);
  float along_x = sqrt(xx), skew = -xy / along_x;
  vec2 offset = vec2(along_x * t.x, skew * t.x + sqrt(max(yy - skew * skew, 0.)) * t.y) * (reach.x / along_x);
  gl_Position = vec4((mean + offset) / grid * 2. - 1., 0., 1.);
}`;

export const BLEND = `#version 300 es
precision highp float;
flat in vec2 mean; flat in vec4 conic; flat in vec3 tint;
out vec4 blended;
void main() {
  vec2 d = mean - gl_FragCoord.xy;
  float power = -.5 * (conic.x * d.x * d.x + conic.z * d.y * d.y) - conic.y * d.x * d.y;
  float alpha = min(.999, conic.w * exp(power));
  if (alpha < 1. / 255.) discard;
  blended = vec4(tint * alpha, alpha);
}`;

export const SCREEN = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3. : -1., gl_VertexID == 2 ? 3. : -1., 0., 1.); }`;

export const FINISH = `#version 300 es
precision highp float; precision highp sampler2D;
uniform sampler2D picture;
uniform vec2 coarse, offset;           // pixels here for each of the picture's, where here begins in it
uniform vec4 background;               // straight colour and alpha
out vec4 finished;
void main() {                          // enlarges along one axis (Catmull-Rom), or copies
  vec2 at = gl_FragCoord.xy / coarse + offset - .5;
  ivec2 first = ivec2(floor(at + 1e-4)), axis = ivec2(greaterThan(coarse, vec2(1.)));
  float t = max(0., dot(at - vec2(first), vec2(axis)));
  vec4 drawn = texelFetch(picture, first, 0);
  if (axis.x + axis.y > 0) {
    drawn *= (3. * t - 5.) * t * t + 2.;
    drawn += ((2. - t) * t - 1.) * t * texelFetch(picture, first - axis, 0);
    drawn += ((4. - 3. * t) * t + 1.) * t * texelFetch(picture, first + axis, 0);
    drawn += (t - 1.) * t * t * texelFetch(picture, first + 2 * axis, 0);
    drawn = clamp(drawn / 2., 0., 1.);
  }
  finished = drawn + (1. - drawn.a) * vec4(background.rgb * background.a, background.a);
}`;
