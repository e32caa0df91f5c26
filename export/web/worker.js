// Runs in a worker: poses the rig and sorts the Gaussians by depth, farthest first.
import { Rig } from './rig.js';

const BUCKETS = 65536;
let rig, gaussians, depths, keys;
const counts = new Uint32Array(BUCKETS + 1);

// Depth along `axis` (four numbers, head space) of Gaussians on posed vertices; neighbours share their triangle.
function measure(vertices, axis) {
  const { binding, faces, position } = gaussians;
  let last = -1, d0 = 0, d1 = 0, d2 = 0, centre = 0;
  for (let g = 0; g < binding.length; g++) {
    const face = binding[g];
    if (face !== last) {
      last = face;
      const i = 4 * faces[3 * face], j = 4 * faces[3 * face + 1], k = 4 * faces[3 * face + 2];
      const x0 = vertices[i], y0 = vertices[i + 1], z0 = vertices[i + 2];
      const ux = vertices[j] - x0, uy = vertices[j + 1] - y0, uz = vertices[j + 2] - z0;
      const vx = vertices[k] - x0, vy = vertices[k + 1] - y0, vz = vertices[k + 2] - z0;
      const length = Math.sqrt(ux * ux + uy * uy + uz * uz), a = 1 / Math.max(length, 1e-12);
      let bx = uy * vz - uz * vy, by = uz * vx - ux * vz, bz = ux * vy - uy * vx;
      const b = 1 / Math.max(Math.sqrt(bx * bx + by * by + bz * bz), 1e-12);
      bx *= b; by *= b; bz *= b;
      const ax = ux * a, ay = uy * a, az = uz * a;
      const cx = ay * bz - az * by, cy = az * bx - ax * bz, cz = ax * by - ay * bx;
      const scale = (length + Math.abs(cx * vx + cy * vy + cz * vz)) / 2;
      d0 = scale * (ax * axis[0] + ay * axis[1] + az * axis[2]);
      d1 = scale * (bx * axis[0] + by * axis[1] + bz * axis[2]);
      d2 = scale * (cx * axis[0] + cy * axis[1] + cz * axis[2]);
      centre = axis[3] + (x0 + (ux + vx) / 3) * axis[0] + (y0 + (uy + vy) / 3) * axis[1] + (z0 + (uz + vz) / 3) * axis[2];
    }
    depths[g] = centre + d0 * position[3 * g] + d1 * position[3 * g + 1] + d2 * position[3 * g + 2];
  }
}

// A counting sort: head depths span half a metre, a bucket is some micrometres.
function sort(order) {
  let low = Infinity, high = -Infinity;
  for (const depth of depths) {
    if (depth < low) low = depth;
    if (depth > high) high = depth;
  }
  const steps = (BUCKETS - 1) / Math.max(high - low, 1e-9);
  counts.fill(0);
  for (let g = 0; g < depths.length; g++) {
    keys[g] = (high - depths[g]) * steps;
    counts[keys[g] + 1]++;
  }
  for (let k = 0; k < BUCKETS; k++) counts[k + 1] += counts[k];
  for (let g = 0; g < depths.length; g++) order[counts[keys[g]]++] = g;
}

self.onmessage = ({ data }) => {
  if (data.header) {
    rig = new Rig(data.header, data.arrays);
    gaussians = data.arrays;
    depths = new Float32Array(gaussians.binding.length);
    keys = new Uint16Array(gaussians.binding.length);
    return;
  }
  const { pose, axis, vertices, order } = data;
  const began = performance.now();
  rig.skin(pose, vertices);
  const skinned = performance.now();
  measure(vertices, axis);
  sort(order);
  const timings = { skin: skinned - began, sort: performance.now() - skinned };
  self.postMessage({ number: data.number, pose, vertices, order, timings }, [vertices.buffer, order.buffer]);
};
