"use strict";
// The attention viewer of a page: images with attention before, after, and the difference.
// Text from data only ever goes through textContent, so names cannot become markup.
const byId = (id) => document.getElementById(id);
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function option(value, text) {
  const made = document.createElement("option");
  made.value = String(value);
  made.textContent = text;
  return made;
}

// Three digits that count, with a true minus.
function number(value, signed = false) {
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1e-4 ? size.toPrecision(3) : size.toExponential(1);
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text.replace("e-", "e−");
}

// Returns show(data), which puts other attention in place and keeps what is chosen as far as it is there.
function attentionViewer(data) {
  let rows, columns, patches, top, slots, colours;
  const select = { image: byId("view-image"), block: byId("view-block"), head: byId("view-head") };
  const maps = ["picture", "before", "after", "change"].map((id) => byId(`map-${id}`));
  const unpacked = new Map();
  const names = () => data.names || ["BASE", "TUNED"];
  let patch = null;

  function numbersOf(side, image) {
    const name = `${side} ${image}`;
    if (!unpacked.has(name)) {
      unpacked.set(name, {
        numbers: bytesOf(data[side][image]),
        scales: new DataView(bytesOf(data[`${side}_scales`][image]).buffer),
      });
    }
    return unpacked.get(name);
  }

  // Shares of attention of one map: whole numbers back to what they stand for.
  function shares(side, image, block, slot) {
    const { numbers, scales } = numbersOf(side, image);
    const row = block * slots + slot;
    const scale = scales.getFloat32(4 * row, true);
    const out = new Float64Array(patches);
    for (let i = 0; i < patches; i++) {
      const at = (row * patches + i) * data.width;
      out[i] = ((data.width === 2 ? numbers[at] + 256 * numbers[at + 1] : numbers[at]) * scale) / top;
    }
    return out;
  }

  function paint(canvas, values, low, high, table) {
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let i = 0; i < patches; i++) {
      const part = high > low ? (values[i] - low) / (high - low) : 0;
      const index = 3 * Math.min(255, Math.max(0, Math.floor(part * 256)));
      image.data.set([table[index], table[index + 1], table[index + 2], 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  function legend(id, low, high, table, signed) {
    const canvas = byId(`legend-${id}`).querySelector("canvas");
    const context = canvas.getContext("2d");
    const image = context.createImageData(256, 1);
    for (let i = 0; i < 256; i++) {
      image.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
    byId(`legend-${id}`).querySelector(".low").textContent = number(low, signed);
    byId(`legend-${id}`).querySelector(".high").textContent = number(high, signed);
  }

  const blockName = (block) => (data.blocks === 1 && data.reader === "pooling head" ? data.reader : `block ${block}`);
  const headName = (head) => (head === 0 ? "mean over heads" : `head ${head}`);

  function now() {
    return {
      image: Number(select.image.value),
      block: Number(select.block.value),
      head: Number(select.head.value),
    };
  }

  // Where heads were left out, blocks keep different ones.
  function fillHeads(block, wanted) {
    const kept = [0, ...data.heads[block - 1]];
    select.head.replaceChildren(...kept.map((head) => option(head, headName(head))));
    select.head.value = String(kept.includes(wanted) ? wanted : 0);
  }

  function draw() {
    const { image, block, head } = now();
    const slot = head === 0 ? 0 : data.heads[block - 1].indexOf(head) + 1;
    const before = shares("before", image - 1, block - 1, slot);
    const after = shares("after", image - 1, block - 1, slot);
    const change = after.map((value, i) => value - before[i]);
    const most = Math.max(...before, ...after);
    const widest = Math.max(...change.map(Math.abs));
    paint(maps[1].querySelector("canvas"), before, 0, most, colours.attention);
    paint(maps[2].querySelector("canvas"), after, 0, most, colours.attention);
    paint(maps[3].querySelector("canvas"), change, -(widest || 1), widest || 1, colours.change);
    legend("share", 0, most, colours.attention, false);
    legend("change", -widest, widest, colours.change, true);
    const picture = maps[0].querySelector("img");
    picture.src = data.pictures[image - 1];
    picture.alt = data.titles[image - 1];
    const view = `${data.titles[image - 1]}, ${blockName(block)}, ${headName(head)}`;
    maps.forEach((map, i) => {
      map.setAttribute("aria-label", `${["image", ...names(), `${names()[1]} minus ${names()[0]}`][i]}: ${view}`);
      const mark = map.querySelector(".patch");
      mark.hidden = patch === null;
      if (patch === null) return;
      mark.style.left = `${(100 * (patch % columns)) / columns}%`;
      mark.style.top = `${(100 * Math.floor(patch / columns)) / rows}%`;
      mark.style.width = `${100 / columns}%`;
      mark.style.height = `${100 / rows}%`;
    });
    byId("view-values").textContent =
      patch === null
        ? view
        : `${view}; patch in row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}: ` +
          `${names()[0]} ${number(before[patch])}, ${names()[1]} ${number(after[patch])}, ` +
          `difference ${number(change[patch], true)}`;
  }

  // #image=1&block=3&head=2, and &patch=25 where one is marked; no head, or 0: the mean;
  // no image: the one that is shown.
  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!["image", "block", "head"].some((name) => asked.has(name))) return false;
    const whole = (name, least, most, otherwise) => {
      const value = Number(asked.get(name));
      return asked.has(name) && Number.isInteger(value) && value >= least && value <= most ? value : otherwise;
    };
    select.image.value = String(whole("image", 1, data.titles.length, now().image));
    select.block.value = String(whole("block", 1, data.blocks, data.blocks));
    fillHeads(Number(select.block.value), whole("head", 0, Infinity, 0));
    const marked = whole("patch", 1, patches, 0);
    patch = marked === 0 ? null : marked - 1;
    return true;
  }

  function toAddress() {
    const { image, block, head } = now();
    const marked = patch === null ? "" : `&patch=${patch + 1}`;
    const run = data.run ? `run=${data.run}&` : "";
    history.replaceState(null, "", `#${run}image=${image}&block=${block}&head=${head}${marked}`);
  }

  function pointed(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const place = (at, start, size, count) =>
      Math.min(count - 1, Math.max(0, Math.floor(((at - start) / size) * count)));
    patch =
      place(event.clientY, box.top, box.height, rows) * columns +
      place(event.clientX, box.left, box.width, columns);
    draw();
  }

  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  function pressed(event) {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const from = patch === null ? [0, 0] : [Math.floor(patch / columns), patch % columns];
    const to = patch === null ? from : [from[0] + step[0], from[1] + step[1]];
    if (to[0] < 0 || to[0] >= rows || to[1] < 0 || to[1] >= columns) return;
    patch = to[0] * columns + to[1];
    draw();
    toAddress();
  }

  function take(next) {
    const chosen = select.image.value === "" ? null : now();
    data = next;
    unpacked.clear();
    [rows, columns] = data.grid;
    patches = rows * columns;
    top = 256 ** data.width - 1;
    slots = data.heads[0].length + 1; // the mean over heads stands first
    colours = { attention: bytesOf(data.colours.attention), change: bytesOf(data.colours.change) };
    if (patch !== null && patch >= patches) patch = null;
    select.image.replaceChildren(...data.titles.map((title, i) => option(i + 1, `${i + 1}: ${title}`)));
    const blocks = Array.from({ length: data.blocks }, (_, i) => i + 1);
    select.block.replaceChildren(...blocks.map((block) => option(block, blockName(block))));
    select.image.value = String(chosen && chosen.image <= data.titles.length ? chosen.image : 1);
    select.block.value = String(chosen && chosen.block <= data.blocks ? chosen.block : data.blocks);
    fillHeads(Number(select.block.value), chosen ? chosen.head : 0);
  }

  take(data);
  for (const one of Object.values(select)) {
    one.addEventListener("change", () => {
      if (one === select.block) fillHeads(now().block, now().head);
      draw();
      toAddress();
    });
  }
  for (const map of maps) {
    map.style.aspectRatio = "1";
    map.addEventListener("pointermove", pointed);
    map.addEventListener("click", (event) => {
      pointed(event);
      toAddress();
    });
    map.addEventListener("keydown", pressed);
  }
  window.addEventListener("hashchange", () => {
    if (fromAddress()) {
      draw();
      byId("viewer").scrollIntoView();
    }
  });
  byId("view").hidden = false;
  const linked = fromAddress();
  draw();
  if (linked) byId("viewer").scrollIntoView();
  return (next) => {
    take(next);
    draw();
  };
}
