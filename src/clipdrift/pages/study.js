"use strict";
// The page works without this file; it adds search, sorting, each run's curves and the attention viewer.
// Text from data only ever goes through textContent, so names cannot become markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
  const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
  const courses = JSON.parse(byId("runs-data").textContent);

  for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;

  function made(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function html(name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // --- tables

  function filter(table, search, count, keep = () => true) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(keep(row) && words.every((word) => text.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      const button = html("button", "", cell.textContent);
      button.type = "button";
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = cell.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => {
          const found = row.cells[place];
          return found.dataset.sort === undefined ? found.textContent.trim() : Number(found.dataset.sort);
        };
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1; // what is missing stands last
          const before = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return down ? -before : before;
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
      });
    });
  }

  function testTables() {
    const question = byId("tests-question");
    if (!question) return;
    const [search, resolved, count] = [byId("tests-search"), byId("tests-resolved"), byId("tests-count")];
    const show = () => {
      for (const part of document.querySelectorAll("[data-tests]")) {
        part.hidden = part.dataset.tests !== question.value;
        if (part.hidden) continue;
        const below = (row) => !resolved.checked || Number(row.dataset.p) < 0.05;
        filter(part.querySelector("table"), search, count, below);
      }
    };
    for (const one of [question, search, resolved]) one.addEventListener("input", show);
    show();
  }

  // --- one run's curves

  function ticks(low, high, most = 4.5) {
    const size = 10 ** Math.floor(Math.log10((high - low) / 3 || 1));
    const step = [1, 2, 5, 10].map((k) => k * size).find((k) => (high - low) / k <= most) || size;
    const out = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) {
      out.push(Math.abs(value) < step / 1e6 ? 0 : value);
    }
    return out;
  }

  const short = (value) => String(Number(value.toPrecision(4))).replace("-", "−");

  // lines: [{name, x: [...], y: [...], keys: [...]}]; keys name the cells of the tables that the values are
  function chart(title, axis, lines, say, bars = false) {
    const box = html("div", "chart");
    box.append(html("h4", "", title));
    const values = lines.flatMap((line) => line.y).filter((v) => v !== null);
    if (values.length === 0) return null;
    const places = lines.flatMap((line) => line.x);
    let [low, high] = [Math.min(...values, ...(bars ? [0] : [])), Math.max(...values, ...(bars ? [0] : []))];
    if (high - low < 1e-12) [low, high] = [low - 1, high + 1];
    const margin = (high - low) * 0.06;
    [low, high] = [low - margin, high + margin];
    let [left, right] = [Math.min(...places), Math.max(...places)];
    if (bars) [left, right] = [left - 0.6, right + 0.6];
    if (left === right) [left, right] = [left - 1, right + 1];
    const [width, height, x0, y0] = [460, 210, 52, 172];
    const x = (v) => x0 + ((v - left) / (right - left)) * (width - x0 - 8);
    const y = (v) => y0 - ((v - low) / (high - low)) * (y0 - 8);
    const svg = made("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    for (const tick of ticks(low, high)) {
      svg.append(made("line", { x1: x0, x2: width - 8, y1: y(tick), y2: y(tick), class: "grid" }));
      svg.append(made("text", { x: x0 - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of ticks(left, right, 8)) {
      if (bars && !Number.isInteger(tick)) continue;
      svg.append(made("text", { x: x(tick), y: y0 + 16, "text-anchor": "middle" }, short(tick)));
    }
    svg.append(made("line", { x1: x0, x2: width - 8, y1: y0, y2: y0, class: "axis" }));
    svg.append(made("text", { x: (x0 + width) / 2, y: height - 6, "text-anchor": "middle" }, axis));
    lines.forEach((line, i) => {
      const points = line.x.map((at, k) => [at, line.y[k], line.keys[k]]).filter(([, v]) => v !== null);
      const said = ([at, v]) => `${line.name}, ${axis} ${short(at)}: ${short(v)}`;
      if (bars) {
        const wide = (x(1.8) - x(1)) / lines.length;
        for (const [at, v, key] of points) {
          const top = Math.min(y(v), y(0));
          const bar = made("rect", {
            x: x(at) - (wide * lines.length) / 2 + i * wide, y: top, width: wide,
            height: Math.max(0.5, Math.abs(y(v) - y(0))), fill: COLOURS[i % 4], "data-key": key,
          });
          bar.append(made("title", {}, said([at, v])));
          bar.addEventListener("pointerenter", () => say(said([at, v])));
          svg.append(bar);
        }
        return;
      }
      const path = points.map(([at, v], k) => `${k ? "L" : "M"}${x(at).toFixed(1)} ${y(v).toFixed(1)}`).join("");
      svg.append(made("path", {
        d: path, fill: "none", stroke: COLOURS[i % 4], "stroke-width": 2, "stroke-dasharray": DASHES[i % 4],
      }));
      for (const [at, v, key] of points) {
        const dot = made("circle", { cx: x(at), cy: y(v), r: 4, fill: COLOURS[i % 4], "fill-opacity": points.length > 40 ? 0 : 0.9, "data-key": key });
        dot.append(made("title", {}, said([at, v])));
        dot.addEventListener("pointerenter", () => say(said([at, v])));
        svg.append(dot);
      }
    });
    box.append(svg);
    const keys = html("div", "keys");
    lines.forEach((line, i) => {
      const key = html("span");
      const mark = made("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      mark.append(made("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: COLOURS[i % 4], "stroke-width": bars ? 8 : 2.5, "stroke-dasharray": bars ? "" : DASHES[i % 4] }));
      key.append(mark, document.createTextNode(line.name));
      keys.append(key);
    });
    box.append(keys);
    return box;
  }

  const runOf = (row) => decodeURIComponent(row.dataset.row.split(":")[1]);
  const rows = () => [...byId("runs-table").tBodies[0].rows];
  let chosen = null;

  function showRun(key) {
    const run = courses.runs[key];
    if (!run) return;
    chosen = key;
    for (const row of rows()) row.classList.toggle("chosen", runOf(row) === key);
    byId("run").hidden = false;
    byId("run-title").textContent = `${run.label} (${key})`;
    byId("run-note").textContent = run.note || "";
    byId("run-config").textContent = run.config ? JSON.stringify(run.config, null, 1) : "not known";
    const say = (text) => (byId("run-value").textContent = text);
    say("Point at a curve to read its values.");
    const charts = courses.panels.map(([title, names]) => {
      const lines = names
        .filter(([name]) => run.series && run.series[name])
        .map(([name, label]) => ({ name: label, keys: run.steps.map((step) => `history.csv:${key}@${step}/${name}`), x: run.x, y: run.series[name] }));
      return lines.length ? chart(title, run.axis, lines, say) : null;
    });
    for (const [title, names] of courses.blocks) {
      const lines = names
        .filter(([name]) => run.blocks && run.blocks[name])
        .map(([name, label]) => ({
          name: label,
          keys: run.blocks[name].map((_, i) => `blocks.csv:${key}@${i + 1}/${name}`),
          x: run.blocks[name].map((_, i) => i + 1),
          y: run.blocks[name],
        }));
      charts.push(lines.length ? chart(title, "block", lines, say, true) : null);
    }
    byId("run-charts").replaceChildren(...charts.filter(Boolean));
    const link = byId("run-attention");
    const kept = attention && attention.runs[key];
    link.hidden = !kept;
    link.href = `#run=${key}&image=1`;
  }

  function runTable() {
    const table = byId("runs-table");
    sortable(table);
    for (const row of rows()) {
      const cell = row.cells[0];
      const button = html("button", "", runOf(row));
      button.type = "button";
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        showRun(runOf(row));
        history.replaceState(null, "", `#run=${runOf(row)}`);
        byId("run").scrollIntoView({ block: "nearest" });
      });
    }
    const search = byId("runs-search");
    const show = () => filter(table, search, byId("runs-count"));
    search.addEventListener("input", show);
    show();
    const step = (by) => () => {
      const shown = rows().filter((row) => !row.hidden);
      const place = shown.findIndex((row) => runOf(row) === chosen);
      const next = shown[(place + by + shown.length) % shown.length];
      if (next) showRun(runOf(next));
    };
    byId("run-before").addEventListener("click", step(-1));
    byId("run-after").addEventListener("click", step(1));
  }

  // --- attention

  const packed = byId("view-data");
  const attention = packed ? JSON.parse(packed.textContent) : null;

  function viewer() {
    if (!attention) return;
    const select = byId("view-run");
    const dataOf = (key) => ({ ...attention.shared[attention.runs[key].shared], ...attention.runs[key], run: key });
    for (const key of Object.keys(attention.runs)) {
      const made = html("option", "", courses.runs[key] ? courses.runs[key].label : key);
      made.value = key;
      select.append(made);
    }
    const asked = () => new URLSearchParams(location.hash.slice(1)).get("run");
    if (attention.runs[asked()]) select.value = asked();
    const show = attentionViewer(dataOf(select.value));
    select.addEventListener("change", () => show(dataOf(select.value)));
    window.addEventListener("hashchange", () => {
      if (attention.runs[asked()] && asked() !== select.value) {
        select.value = asked();
        show(dataOf(select.value));
      }
    });
  }

  testTables();
  runTable();
  viewer();
  const fromAddress = () => {
    const key = new URLSearchParams(location.hash.slice(1)).get("run");
    if (courses.runs[key]) showRun(key);
  };
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();
