// The timeline on a canvas: it asks for the window that is shown, with as many steps as there are pixels. Without it the
// page has the same window as SVG.
"use strict";
(() => {
  const place = document.getElementById("timeline");
  if (place === null) return;
  const CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  const NUMBER = Object.fromEntries([...CHARACTERS].map((character, number) => [character, number]));
  const LEVELS = 31, COLOURS = 12, AXIS = 22, NODE = 15, LEAST_MS = 1, ZOOM = 1.6, PAN = 0.2;
  const query = new URLSearchParams(location.search);
  const chosen = new URLSearchParams();
  for (const name of ["job", "node", "actor", "worker"]) if (query.get(name)) chosen.set(name, query.get(name));
  const byId = (id) => document.getElementById(id);
  const message = byId("said"), shown = byId("shown"), trace = byId("trace"), find = byId("find"), by = byId("by");
  const tools = document.querySelector(".tools"), statistics = byId("statistics");

  place.querySelector("svg").remove();
  tools.hidden = false;
  tools.addEventListener("submit", (event) => event.preventDefault());
  const canvas = place.appendChild(document.createElement("canvas"));
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  const tip = place.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  const context = canvas.getContext("2d");

  let data = null; // the last answer
  let from = 0, to = 1; // what is shown, in milliseconds since 1970. Before an answer comes, the last one is stretched
  let selected = null; // two times
  let drag = null;
  let asking = null, waiting = 0, counting = 0;
  let labels = 120, width = 0, height = 0, row = 18, tops = [], colours = {};

  // -- numbers and times as text
  const count = (number) => number.toLocaleString("en-US");
  const lasted = (ms) => ms < 1 ? `${+(ms * 1000).toFixed(0)} µs` : ms < 1000 ? `${+ms.toFixed(ms < 10 ? 2 : 0)} ms`
    : ms < 60000 ? `${+(ms / 1000).toFixed(2)} s` : ms < 3600000 ? `${+(ms / 60000).toFixed(1)} min`
      : `${+(ms / 3600000).toFixed(1)} h`;
  const clock = (ms) => {
    const date = new Date(ms);
    return Number.isNaN(date.getTime()) ? String(ms) : date.toISOString().replace("T", " ").replace("Z", "");
  };

  // -- colours, as those of the SVG
  const colourOf = (name) => {
    let number = 0;
    for (const character of name) number = (number * 31 + character.codePointAt(0)) % 65521;
    return number % COLOURS;
  };
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    colours = { functions: [] };
    for (let number = 0; number < COLOURS; number += 1) {
      colours.functions.push(style.getPropertyValue(`--f${number}`).trim());
    }
    for (const name of ["ink", "soft", "line", "failed", "open", "good", "link", "card"]) {
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
  };

  // -- asking
  const params = (more) => new URLSearchParams([...chosen, ...Object.entries(more)]);
  const round = () => ({ from: Math.floor(from), to: Math.max(Math.ceil(to), Math.floor(from) + LEAST_MS) });
  const fetchJson = async (url, signal) => {
    const answer = await fetch(url, { signal, headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`${answer.status}: ${(await answer.text()).slice(0, 300)}`);
    return answer.json();
  };
  const ask = async (whole) => {
    if (asking !== null) asking.abort();
    const mine = asking = new AbortController();
    const window_ = whole ? {} : round();
    const wide = Math.min(4000, Math.max(100, Math.floor(width - labels)));
    try {
      const answer = await fetchJson(`${place.dataset.json}?${params({ ...window_, width: wide })}`, mine.signal);
      data = answer;
      from = answer.from_ms;
      to = answer.to_ms;
      tell(whole);
      resize();
    } catch (error) {
      if (error.name !== "AbortError") message.textContent = `This window cannot be shown: ${error.message}`;
    }
  };
  const tell = (whole) => {
    const kinds = data.bins === null ? "attempts" : "attempts began";
    shown.textContent = `${clock(data.from_ms)} to ${clock(data.to_ms)} UTC (${lasted(data.to_ms - data.from_ms)}) · `
      + `${count(data.attempts)} ${kinds}, ${count(data.failed)} failed`;
    message.textContent = data.rows_in_all > data.rows.label.length
      ? `${data.rows.label.length} of ${count(data.rows_in_all)} ${data.by}s, those with most attempts.` : "";
    canvas.setAttribute("aria-label", `What ran, a row for each ${data.by}. ${shown.textContent}`);
    const address = new URLSearchParams(location.search);
    if (whole) { address.delete("from"); address.delete("to"); } else {
      address.set("from", data.from_ms);
      address.set("to", data.to_ms);
    }
    const query = String(address);
    history.replaceState(null, "", `${location.pathname}${query && "?"}${query}`);
    const traced = { download: 1, from: data.from_ms, to: data.to_ms };
    for (const [name, value] of chosen) traced[name === "job" ? "job_id" : name] = value;
    trace.href = `${place.dataset.trace}?${new URLSearchParams(traced)}`;
    clearTimeout(counting);
    counting = setTimeout(() => sumUp(selected ?? [data.from_ms, data.to_ms]), 200);
  };
  const move = (begin, end) => {
    if (data === null) return;
    const least = Math.max(LEAST_MS, end - begin);
    const life = Math.max(data.last_ms - data.first_ms, LEAST_MS);
    const middle = Math.min(Math.max((begin + end) / 2, data.first_ms), data.last_ms);
    const span = Math.min(least, life * 1.2);
    from = Math.max(0, middle - span / 2);
    to = from + span;
    hideTip();
    draw();
    clearTimeout(waiting);
    waiting = setTimeout(() => ask(false), 60);
  };
  const zoom = (factor, at = (from + to) / 2) => move(at - (at - from) / factor, at + (to - at) / factor);
  const pan = (share) => move(from + (to - from) * share, to + (to - from) * share);
  const all = () => { selected = null; hideTip(); ask(true); };

  // -- statistics of what is selected, or shown: the table of the page that has them
  let summing = 0;
  const sumUp = async ([begin, end]) => {
    const mine = summing += 1; // of two answers, the one to the last question is shown
    const title = selected === null ? "What ran in this window"
      : `What ran in the ${lasted(end - begin)} that are selected`;
    const times = { from: Math.floor(begin), to: Math.max(Math.ceil(end), Math.floor(begin) + 1) };
    try {
      const answer = await fetch(`${place.dataset.selection}?${params(times)}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const table = page.querySelector("main .card");
      if (mine !== summing) return;
      if (!answer.ok || table === null) throw new Error(answer.status);
      statistics.querySelector(".card")?.remove();
      statistics.append(document.adoptNode(table));
      byId("statistics-title").textContent = title;
    } catch (error) {
      if (mine === summing) message.textContent = `Its statistics cannot be shown: ${error.message}`;
    }
  };

  // -- drawing
  const x = (ms) => labels + (ms - from) / (to - from) * (width - labels);
  const at = (pixel) => from + (pixel - labels) / (width - labels) * (to - from);
  const begins = (line) => data.by === "worker" && (line === 0 || data.rows.node[line] !== data.rows.node[line - 1]);
  const resize = () => {
    width = place.clientWidth;
    labels = Math.min(150, Math.round(width * 0.26));
    const rows = data === null ? 1 : Math.max(1, data.rows.label.length);
    row = rows > 100 ? 12 : rows > 40 ? 15 : 20;
    tops = [];
    height = AXIS;
    for (let line = 0; data !== null && line < data.rows.label.length; line += 1) {
      if (begins(line)) height += NODE;
      tops.push(height);
      height += row;
    }
    height += 4;
    const scale = Math.min(window.devicePixelRatio || 1, 16000 / height);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    draw();
  };
  const ticks = () => {
    const aim = (to - from) / Math.max(2, (width - labels) / 110);
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5,
      216e5, 432e5, 864e5, 1728e5, 6048e5];
    const step = steps.find((ms) => ms >= aim) ?? 864e5 * Math.ceil(aim / 864e5);
    context.fillStyle = colours.soft;
    for (let time = Math.ceil(from / step) * step; time < to; time += step) {
      const text = clock(time);
      context.fillText(step < 1000 ? text.slice(11) : step < 864e5 ? text.slice(11, 19) : text.slice(0, 10),
        x(time) + 3, AXIS / 2);
      context.globalAlpha = 0.25;
      context.fillRect(x(time), 2, 1, height);
      context.globalAlpha = 1;
    }
  };
  const wanted = () => {
    const text = find.value.trim().toLowerCase();
    return text === "" ? null : data.functions.map((name) => name.toLowerCase().includes(text));
  };
  const paint = (number, state) => by.value === "state" ? colours[state]
    : colours.functions[colourOf(data.functions[number] ?? "")];
  const drawBins = (lit) => {
    const { bins } = data, wide = Math.max(1, x(bins.bin_us / 1000) - x(0));
    bins.busy.forEach((text, line) => {
      const top = tops[line];
      for (let bin = 0; bin < bins.count; bin += 1) {
        const step = NUMBER[text[bin]], level = step % (LEVELS + 1), failed = step > LEVELS;
        if (step === 0) continue;
        const left = x(data.from_ms + (bins.start_us + bin * bins.bin_us) / 1000);
        if (left + wide < labels || left > width) continue;
        const number = NUMBER[bins.function[line][bin]];
        const tall = Math.max(1, level / LEVELS * (row - 3));
        context.globalAlpha = lit !== null && !lit[number] ? 0.12 : 1;
        context.fillStyle = paint(number, "good");
        context.fillRect(left, top + row - 1 - tall, wide + 0.3, tall);
        if (failed) {
          context.fillStyle = colours.failed;
          context.fillRect(left, top + row - 4, Math.max(wide, 2), 3);
        }
      }
    });
  };
  const end = (slices, place_) => slices.run_us[place_] < 0 ? Math.max(data.to_ms, to)
    : data.from_ms + (slices.start_us[place_] + slices.run_us[place_]) / 1000;
  const drawSlices = (lit) => {
    const { slices } = data, failed = new Set(slices.failed);
    const each = (only) => slices.row.forEach((line, number) => {
      if (failed.has(number) !== only) return; // failures on top
      const left = Math.max(labels, x(data.from_ms + slices.start_us[number] / 1000));
      const right = x(end(slices, number));
      if (right < labels || left > width) return;
      const open = slices.run_us[number] < 0, top = tops[line], wide = Math.max(1.5, right - left - 0.5);
      context.globalAlpha = lit !== null && !lit[slices.function[number]] ? 0.12 : open ? 0.6 : 1;
      context.fillStyle = paint(slices.function[number], only ? "failed" : open ? "open" : "good");
      context.fillRect(left, top + 1, wide, row - 2);
      if (only) {
        context.fillStyle = colours.failed;
        context.fillRect(left, top + row - 5, wide, 4);
      }
      if (wide > 50 && row > 14) {
        context.save();
        context.beginPath();
        context.rect(left, top, wide, row);
        context.clip();
        context.fillStyle = colours.card;
        context.fillText(data.functions[slices.function[number]], left + 4, top + row / 2);
        context.restore();
      }
    });
    each(false);
    each(true);
  };
  const draw = () => {
    context.clearRect(0, 0, width, height);
    context.globalAlpha = 1;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    if (data === null) return;
    ticks();
    context.save();
    context.beginPath();
    context.rect(labels, 0, width - labels, height);
    context.clip();
    const lit = wanted();
    if (data.bins !== null) drawBins(lit);
    if (data.slices !== null) drawSlices(lit);
    context.globalAlpha = 1;
    if (selected !== null) {
      context.fillStyle = context.strokeStyle = colours.link;
      context.globalAlpha = 0.18;
      context.fillRect(x(selected[0]), 0, x(selected[1]) - x(selected[0]), height);
      context.globalAlpha = 1;
      context.strokeRect(x(selected[0]) + 0.5, 0.5, x(selected[1]) - x(selected[0]), height - 1);
    }
    context.restore();
    data.rows.label.forEach((label, line) => {
      const top = tops[line];
      if (begins(line)) {
        context.fillStyle = colours.line;
        context.fillRect(0, top - NODE, width, 1);
        context.fillStyle = colours.soft;
        context.fillText(nodeText(line), 8, top - NODE / 2 + 1);
      }
      context.fillStyle = colours.ink;
      context.save();
      context.beginPath();
      context.rect(0, top, labels - 4, row);
      context.clip();
      context.fillText(label, data.by === "worker" ? 16 : 8, top + row / 2);
      context.restore();
    });
  };

  // -- what is under the pointer
  const hideTip = () => { tip.hidden = true; };
  const nodeText = (line) => {
    const node = data.nodes[data.rows.node[line]];
    return node.node_id ? `node ${node.address || node.node_id.slice(0, 8)}` : "no node";
  };
  const rowText = (line) => `${data.rows.label[line]}${data.by === "worker" ? ` on ${nodeText(line)}` : ""}`;
  const sliceText = (line, time) => {
    const { slices } = data, near = (to - from) / Math.max(1, width - labels) * 2;
    let best = -1;
    slices.row.forEach((other, number) => {
      const begin = data.from_ms + slices.start_us[number] / 1000;
      if (other === line && time >= begin - near && time <= end(slices, number) + near) best = number;
    });
    if (best < 0) return rowText(line);
    const failed = slices.failed.indexOf(best), run = slices.run_us[best];
    const attempt = slices.attempt[best] ? `, attempt ${slices.attempt[best]}` : "";
    const state = failed >= 0 ? `failed${slices.error[failed] ? ` (${slices.error[failed]})` : ""}`
      : run < 0 ? "still open" : "finished";
    const waits = data.waits.map((name, number) => [name, slices.waited_ms[number][best] ?? 0])
      .filter(([, ms]) => ms > 0).map(([name, ms]) => `waited ${lasted(ms)} for ${name}`);
    return [data.functions[slices.function[best]], `${state}${attempt}${run < 0 ? "" : ` after ${lasted(run / 1000)}`}`,
      `began ${clock(data.from_ms + slices.start_us[best] / 1000)}`, ...waits, rowText(line),
      `task ${slices.task[best]}${slices.task_ends[slices.task_end[best]]}`].join("\n");
  };
  const binText = (line, time) => {
    const { bins } = data, bin = Math.floor(((time - data.from_ms) * 1000 - bins.start_us) / bins.bin_us);
    const step = NUMBER[bins.busy[line]?.[bin] ?? "0"], level = step % (LEVELS + 1);
    if (step === 0) return `${rowText(line)}\nnothing ran`;
    const name = data.functions[NUMBER[bins.function[line][bin]]] ?? "others";
    return [`mostly ${name}`, `${+((level / LEVELS) ** 2 * bins.full[line]).toPrecision(2)} running on average`,
      ...(step > LEVELS ? ["something failed"] : []), `${lasted(bins.bin_us / 1000)} a step`, rowText(line)].join("\n");
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect(), left = event.clientX - box.left, top = event.clientY - box.top;
    const line = tops.findIndex((begin) => top >= begin && top < begin + row);
    if (line < 0) return hideTip();
    tip.textContent = left < labels ? rowText(line) : data.bins !== null ? binText(line, at(left))
      : sliceText(line, at(left));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(left + 14, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${top + 16}px`;
  };

  // -- the pointer, the wheel and keys
  canvas.addEventListener("pointerdown", (event) => {
    const left = event.clientX - canvas.getBoundingClientRect().left;
    if (event.button !== 0 || left < labels || data === null) return;
    canvas.setPointerCapture(event.pointerId);
    drag = { left, time: at(left), from, to, pans: event.shiftKey || event.pointerType === "touch" };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag === null) return point(event);
    const left = event.clientX - canvas.getBoundingClientRect().left;
    if (drag.pans) {
      const by_ = (drag.left - left) / (width - labels) * (drag.to - drag.from);
      return move(drag.from + by_, drag.to + by_);
    }
    if (Math.abs(left - drag.left) > 3) {
      selected = [drag.time, at(Math.max(labels, Math.min(left, width)))].sort((a, b) => a - b);
      draw();
    }
  });
  const drop = () => {
    const pans = drag?.pans;
    if (drag !== null && !pans && selected !== null) sumUp(selected);
    drag = null;
  };
  canvas.addEventListener("pointerup", drop);
  canvas.addEventListener("pointercancel", drop);
  canvas.addEventListener("pointerleave", hideTip);
  const show = (event) => {
    if (selected !== null) {
      const [begin, until] = selected;
      selected = null;
      move(begin, until);
    } else {
      zoom(ZOOM, event?.clientX === undefined ? undefined : at(event.clientX - canvas.getBoundingClientRect().left));
    }
  };
  canvas.addEventListener("dblclick", show);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return; // the page scrolls
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) return pan(event.deltaX / 1000);
    const left = Math.max(labels, event.clientX - canvas.getBoundingClientRect().left);
    zoom(event.deltaY < 0 ? 1.25 : 0.8, at(left));
  }, { passive: false });
  const KEYS = { ArrowLeft: () => pan(-PAN), ArrowRight: () => pan(PAN), "+": () => zoom(ZOOM), "=": () => zoom(ZOOM),
    "-": () => zoom(1 / ZOOM), Home: all, Enter: () => show(), Escape: () => {
      selected = null;
      draw();
      sumUp([from, to]);
    } };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  const BUTTONS = { in: () => zoom(ZOOM), out: () => zoom(1 / ZOOM), back: () => pan(-PAN), on: () => pan(PAN), all };
  for (const button of tools.querySelectorAll("button")) button.addEventListener("click", BUTTONS[button.value]);
  find.addEventListener("input", draw);
  by.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
  new ResizeObserver(() => { if (place.clientWidth !== width) { resize(); if (data !== null) ask(false); } }).observe(place);

  // of a cluster that lives, the page takes in its new self but for what is drawn here
  const whole = () => !/[?&](from|to)=/.test(location.search);
  new MutationObserver(() => { if (whole()) ask(true); }).observe(byId("newest"), { attributes: true });

  readColours();
  resize();
  from = Number(place.dataset.from);
  to = Number(place.dataset.to);
  ask(whole());
})();
