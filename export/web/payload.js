// The avatar's arrays: base64 of a deflated block of "length of header, header (JSON), arrays" (see export/html.py).

const HALVES = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
  HALVES[bits] = bits & 0x8000 ? -size : size;
}

/** Base64 text to {header, arrays}: Float32Array for numbers, Uint32Array for indices, Uint8Array for bytes. */
export async function readPayload(text) {
  const binary = atob(text.trim());
  const packed = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) packed[i] = binary.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, entry] of Object.entries(header.arrays)) {
    arrays[name] = unpack(new Uint8Array(buffer, 4 + length + entry.offset, entry.bytes), entry.type);
  }
  return { header, arrays };
}

// Multi-byte types are stored byte plane by byte plane, which deflates better.
function unpack(bytes, type) {
  if (type === 'u1') return bytes.slice();
  const width = Number(type[1]), count = bytes.length / width;
  const joined = new Uint8Array(bytes.length);
  for (let plane = 0; plane < width; plane++) {
    for (let i = 0; i < count; i++) joined[i * width + plane] = bytes[plane * count + i];
  }
  if (type === 'f4') return new Float32Array(joined.buffer);
  if (type === 'u4') return new Uint32Array(joined.buffer);
  if (type === 'i2') return Float32Array.from(new Int16Array(joined.buffer));
  if (type === 'u2') return Uint32Array.from(new Uint16Array(joined.buffer));
  const halves = new Uint16Array(joined.buffer), out = new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = HALVES[halves[i]];
  return out;
}
