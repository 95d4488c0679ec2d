"use strict";
// Three planes of a volume. The sheets are pictures of all axial slices, patient's left on the left, back on top.
const box = document.getElementById("viewer");
const size = box.dataset.shape.split(" ").map(Number);
const columns = Number(box.dataset.columns);
const mirrored = box.dataset.convention === "radiological";  // then every plane is, as in the QC pictures
const across = [1, 0, 0], up = [2, 2, 1];  // of the sagittal, coronal and axial plane
const slider = (name) => document.getElementById(name);

function voxels(name) {
  const image = slider(name);
  if (!image) return null;
  const sheet = document.createElement("canvas");
  sheet.width = image.naturalWidth;
  sheet.height = image.naturalHeight;
  const context = sheet.getContext("2d");
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, sheet.width, sheet.height).data;
  const [X, Y, Z] = size, out = new Uint8Array(X * Y * Z);
  for (let z = 0, n = 0; z < Z; z++) for (let y = 0; y < Y; y++) for (let x = 0; x < X; x++)
    out[n++] = rgba[4 * ((Math.floor(z / columns) * Y + y) * sheet.width + (z % columns) * X + x)];
  return out;
}

function start() {
  const grey = voxels("grey"), mask = voxels("mask"), map = voxels("map");
  const canvases = [0, 1, 2].map((axis) => slider("plane" + axis));
  const opacity = (name) => slider(name + "-opacity") ? slider(name + "-opacity").value / 100 : 0;

  function draw(axis) {
    const at = [0, 1, 2].map((other) => Number(slider("slice" + other).value));
    const w = size[across[axis]], h = size[up[axis]], step = [1, size[0], size[0] * size[1]];
    const context = canvases[axis].getContext("2d"), image = context.createImageData(w, h);
    const edge = opacity("mask"), heat = opacity("map");
    for (let row = 0; row < h; row++) for (let column = 0; column < w; column++) {
      const a = mirrored ? w - 1 - column : column, u = h - 1 - row;
      const n = at[axis] * step[axis] + a * step[across[axis]] + u * step[up[axis]];
      let rgb = [grey[n], grey[n], grey[n]];
      const mix = (colour, share) => { rgb = rgb.map((value, i) => value + share * (colour[i] - value)); };
      if (heat && map[n] !== 128) mix(map[n] > 128 ? [255, 128, 0] : [0, 140, 255], heat * Math.abs(map[n] - 128) / 127);
      if (edge && mask[n] > 127) {
        const out = (inside, d) => !inside || mask[n + d] < 128;
        if (out(a > 0, -step[across[axis]]) || out(a < w - 1, step[across[axis]])
          || out(u > 0, -step[up[axis]]) || out(u < h - 1, step[up[axis]])) mix([255, 176, 0], edge);
      }
      image.data.set([...rgb, 255], 4 * (row * w + column));
    }
    context.putImageData(image, 0, 0);
    const x = mirrored ? w - 1 - at[across[axis]] : at[across[axis]], y = h - 1 - at[up[axis]];
    context.fillStyle = "rgba(86, 180, 233, .45)";  // where the other two planes are
    context.fillRect(x, 0, 1, h);
    context.fillRect(0, y, w, 1);
    slider("number" + axis).textContent = (at[axis] + 1) + " of " + size[axis];
  }

  const all = () => [0, 1, 2].forEach(draw);
  document.querySelectorAll("input").forEach((input) => input.addEventListener("input", all));
  canvases.forEach((canvas, axis) => canvas.addEventListener("click", (event) => {
    const place = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - place.left) / place.width * canvas.width);
    const row = Math.floor((event.clientY - place.top) / place.height * canvas.height);
    slider("slice" + across[axis]).value = mirrored ? canvas.width - 1 - column : column;
    slider("slice" + up[axis]).value = canvas.height - 1 - row;
    all();
  }));
  all();
}

window.addEventListener("load", start);
