// The rig: blendshapes (the baked deformation among them), joints and linear blend skinning of the UV vertices.

/** 3 x 3 rotation, row by row, of an axis-angle vector (Rodrigues). */
export function rotationMatrix([x, y, z]) {
  const squared = x * x + y * y + z * z, angle = Math.sqrt(squared);
  const first = squared < 1e-12 ? 1 : Math.sin(angle) / angle;
  const second = squared < 1e-12 ? 0.5 : (1 - Math.cos(angle)) / squared;
  return [
    1 - second * (y * y + z * z), second * x * y - first * z, second * x * z + first * y,
    second * x * y + first * z, 1 - second * (x * x + z * z), second * y * z - first * x,
    second * x * z - first * y, second * y * z + first * x, 1 - second * (x * x + y * y),
  ];
}

/** Product of 3 x 3 matrices. */
export function multiply(a, b) {
  const out = new Array(9);
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
  }
  return out;
}

/** 3 x 3 matrix times a vector. */
export function transform(m, [x, y, z]) {
  return [m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z, m[6] * x + m[7] * y + m[8] * z];
}

export class Rig {
  constructor(header, arrays) {
    this.joints = header.joints;
    this.parents = header.parents;
    this.count = arrays.template.length / 3;
    this.arrays = arrays;
    this.expressions = header.expressions.length;
    this.rest = new Float32Array(arrays.template.length);
    this.shapes = Array.from(arrays.shape_scale, (scale, shape) => this.sparse(shape, scale));
    this.weights = Float32Array.from(arrays.weights, (value) => value / 65535);
  }

  // Most shapes move a part of the face: the components that move, and by how much.
  sparse(shape, scale) {
    const row = this.arrays.shapes.subarray(shape * 3 * this.count, (shape + 1) * 3 * this.count);
    const places = [];
    if (scale > 0) row.forEach((value, place) => value && places.push(place));
    return { places: Uint32Array.from(places), values: Float32Array.from(places, (place) => row[place] * scale) };
  }

  /** Rotations of the joints by role; the root stays at rest. */
  rotations(pose) {
    const roles = { neck: pose.neck, jaw: pose.jaw, left_eye: pose.eyes.slice(0, 3), right_eye: pose.eyes.slice(3) };
    return this.joints.map((name) => rotationMatrix(roles[name] || [0, 0, 0]));
  }

  /** Rest-relative transforms [R | t] of the joints, 12 numbers each. */
  transforms(pose, rotations) {
    const places = Array.from(this.arrays.joints);
    const moves = this.arrays.joint_shapes, width = places.length;
    if (moves) {
      pose.expression.forEach((value, e) => {
        if (value) for (let k = 0; k < width; k++) places[k] += value * moves[e * width + k];
      });
    }
    const chained = [], positions = [];
    return this.joints.map((_, j) => {
      const parent = this.parents[j], joint = places.slice(3 * j, 3 * j + 3);
      if (parent < 0) {
        chained.push(rotations[j]);
        positions.push(joint);
      } else {
        const offset = transform(chained[parent], joint.map((value, k) => value - places[3 * parent + k]));
        chained.push(multiply(chained[parent], rotations[j]));
        positions.push(offset.map((value, k) => value + positions[parent][k]));
      }
      const r = chained[j], turned = transform(r, joint), t = positions[j].map((value, k) => value - turned[k]);
      return [r[0], r[1], r[2], t[0], r[3], r[4], r[5], t[1], r[6], r[7], r[8], t[2]];
    });
  }

  /** Skins a pose into `out`, four numbers a vertex, head space, metres. */
  skin(pose, out) {
    const { rest, weights, count } = this, rotations = this.rotations(pose);
    const features = [...pose.expression, ...pose.jaw];
    for (const r of rotations.slice(1)) r.forEach((value, k) => features.push(value - (k % 4 ? 0 : 1)));
    rest.set(this.arrays.template);
    this.shapes.forEach(({ places, values }, shape) => {
      const amount = features[shape];
      if (amount) for (let k = 0; k < places.length; k++) rest[places[k]] += amount * values[k];
    });
    const joints = this.transforms(pose, rotations), many = joints.length, m = new Float64Array(12);
    for (let v = 0; v < count; v++) {
      m.fill(0);
      for (let j = 0; j < many; j++) {
        const weight = weights[v * many + j], joint = joints[j];
        if (weight) for (let k = 0; k < 12; k++) m[k] += weight * joint[k];
      }
      const x = rest[3 * v], y = rest[3 * v + 1], z = rest[3 * v + 2];
      out[4 * v] = m[0] * x + m[1] * y + m[2] * z + m[3];
      out[4 * v + 1] = m[4] * x + m[5] * y + m[6] * z + m[7];
      out[4 * v + 2] = m[8] * x + m[9] * y + m[10] * z + m[11];
    }
  }
}
