// The bar above Ray's dashboard: which cluster, which moment of its life, how complete, how many of its tasks are shown,
// and the way home.
"use strict";
(() => {
  const cluster = JSON.parse(document.getElementById("raytrail").textContent);
  const HEIGHT = 40;

  // what is alive at a moment has lasted until then, not until today; the clock goes on, as timers read it
  if (cluster.at_ms !== null || !cluster.alive) {
    const behind = Date.now() - (cluster.at_ms === null ? cluster.ended_ms : cluster.at_ms);
    const now = Date.now;
    const then = () => now() - behind;
    window.Date = new Proxy(Date, {
      construct: (date, parts, made) => Reflect.construct(date, parts.length ? parts : [then()], made),
      apply: (date) => new date(then()).toString(),
      get: (date, name) => (name === "now" ? then : Reflect.get(date, name)),
    });
  }

  const bar = document.createElement("raytrail-bar");
  const root = bar.attachShadow({ mode: "open" });
  const style = document.createElement("style");
  style.textContent = `
    :host { position: fixed; inset: 0 0 auto 0; height: ${HEIGHT}px; z-index: 1200; }
    div { box-sizing: border-box; height: 100%; padding: 0 16px; display: flex; align-items: center; gap: 14px;
      background: #1c2330; color: #e4e8ef; white-space: nowrap;
      font: 13px/1 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
    a { color: #9cc7f5; text-decoration: none; }
    a:hover { text-decoration: underline; }
    a:focus-visible, input:focus-visible { outline: 2px solid #9cc7f5; outline-offset: 2px; }
    .home { color: #fff; font-weight: 650; }
    .title { overflow: hidden; text-overflow: ellipsis; min-width: 4em; line-height: 1.5; }
    input { flex: 1; min-width: 60px; accent-color: #77b4f5; margin: 0; }
    .chip { padding: 4px 9px; border-radius: 10px; background: #2c3440; color: #c3cad6; }
    a.chip.on { background: #77b4f5; color: #10141a; }
    .life { flex: 1; min-width: 60px; position: relative; display: flex; align-items: center; height: 100%; }
    .life i { position: absolute; bottom: 5px; width: 2px; height: 7px; margin-left: -1px; background: #ff9b92; }
    .life i.died { background: #f0c265; height: 10px; }
    input[type=text], select { flex: none; min-width: 0; font: inherit; color: #e4e8ef; background: #10141a;
      border: 1px solid #667085; border-radius: 6px; padding: 3px 6px; font-variant-numeric: tabular-nums; }
    input[type=text] { width: 152px; }
    select { max-width: 110px; }
    .good { background: #15352a; color: #6fd3a0; }
    .bad { background: #40201e; color: #ff9b92; }
    .warn { background: #3a2e12; color: #f0c265; }
    [hidden] { display: none; }
    @media (max-width: 1300px) { select, .steps { display: none; } }
    @media (max-width: 900px) { .title, .more { display: none; } }
  `;
  const line = document.createElement("div");

  const add = (tag, text, properties = {}) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.textContent = text;
    line.append(element);
    return element;
  };
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  let zone = "UTC";
  try { if (own && localStorage.getItem("raytrail-zone") === "own") zone = own; } catch { /* it may be forbidden */ }
  const write = (ms) => {
    const parts = {};
    const format = new Intl.DateTimeFormat("en-CA", { timeZone: zone, hourCycle: "h23", year: "numeric",
      month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });
    for (const { type, value } of format.formatToParts(new Date(ms))) parts[type] = value;
    return `${parts.year}-${parts.month}-${parts.day} ${parts.hour}:${parts.minute}:${parts.second}`;
  };
  // the page that one is on stays the same when the moment changes
  const go = (url) => { location.href = url + location.hash; };
  const link = (text, url, properties) => {
    const element = add("a", text, { href: url, ...properties });
    element.addEventListener("click", (event) => {
      if (event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey) {
        event.preventDefault();
        go(url);
      }
    });
    return element;
  };

  add("a", "Raytrail", { href: cluster.root, className: "home", title: "All clusters" });
  add("span", cluster.title, { className: "title", title: cluster.session });
  add("span", cluster.alive ? "running" : "ended", { className: cluster.alive ? "chip good" : "chip" });

  if (cluster.began_ms !== null && cluster.ended_ms !== null) {
    const shown = cluster.at_ms === null ? cluster.ended_ms : cluster.at_ms;
    const [first, last] = [cluster.began_ms, Math.max(cluster.ended_ms, cluster.began_ms + 1)];
    const life = add("span", "", { className: "life" });
    // with any step, a key moves by a hundredth of the life
    const slider = Object.assign(document.createElement("input"), {
      type: "range", min: first, max: last, step: "any", title: "The moment of its life that is shown",
    });
    life.append(slider);
    slider.value = shown;
    slider.setAttribute("aria-label", "The moment of the cluster's life that is shown");
    const when = add("input", "", { type: "text", title: "A time: 2026-11-29 03:12, 03:12, -10m or end" });
    when.setAttribute("aria-label", "A time: 2026-11-29 03:12, 03:12, -10m or end");
    const tell = () => { when.value = cluster.alive && cluster.at_ms === null ? "now" : write(Number(slider.value)); };
    tell();
    slider.addEventListener("input", () => { when.value = write(Number(slider.value)); });
    // a page is loaded once the keys rest
    let resting = 0;
    slider.addEventListener("change", () => {
      clearTimeout(resting);
      resting = setTimeout(() => go(`${cluster.home}at/${Math.round(Number(slider.value))}/`), 400);
    });
    const leads = (asked) => `${cluster.home}go?${new URLSearchParams({ page: "", ...asked })}`;
    when.addEventListener("keydown", (event) => {
      if (event.key === "Enter") go(leads({ when: when.value, zone }));
      event.stopPropagation();
    });
    if (own && own !== "UTC") {
      const zones = add("select", "", { title: "The time zone of the times in this bar" });
      zones.setAttribute("aria-label", "Time zone");
      for (const name of ["UTC", own]) zones.append(new Option(name, name, false, name === zone));
      zones.addEventListener("change", () => {
        zone = zones.value;
        try { localStorage.setItem("raytrail-zone", zone === "UTC" ? "UTC" : "own"); } catch { /* as above */ }
        tell();
      });
    }
    const from = cluster.at_ms === null ? "" : cluster.at_ms;
    link("\u25c0", leads({ step: "before", from }), { className: "chip steps", title: "The failure or death before" });
    link("\u25b6", leads({ step: "after", from }), { className: "chip steps", title: "The next failure or death" });
    fetch(`${cluster.home}marks`).then((answer) => (answer.ok ? answer.json() : [])).then((marks) => {
      for (const { at_ms, kind, count } of marks) {
        const place = document.createElement("i");
        place.className = kind === "failure" ? "" : "died";
        place.style.left = `${((at_ms - first) / (last - first)) * 100}%`;
        place.title = `${count} ${kind}`;
        life.append(place);
      }
    }).catch(() => { /* the slider is there without */ });
    const plain = cluster.url === cluster.home;
    link(cluster.alive ? "now" : "before its shutdown", cluster.home, { className: plain ? "chip on" : "chip" });
    if (!cluster.alive) {
      link("its very end", `${cluster.home}final/`, { className: cluster.final ? "chip on" : "chip" });
    }
  }

  for (const [text, page] of [["why", "about"], ["failures", "failures"], ["timeline", "timeline"]]) {
    add("a", text, { href: `${cluster.url}${page}`, className: "more", title: "A page of Raytrail's own" });
  }
  const whole = cluster.snapshot_ms === null;
  const complete = whole && cluster.missing_bytes === 0 && cluster.rejected === 0;
  const number = (value) => value.toLocaleString("en");
  add("a", complete ? "complete" : !whole ? `snapshot${cluster.rejected ? `, ${number(cluster.rejected)} cut short` : ""}`
    : cluster.missing_bytes ? `${number(cluster.missing_bytes)} bytes missing`
    : `${number(cluster.rejected)} lines unreadable`, {
    href: `${cluster.url}about#ledger`, className: `chip ${complete ? "good" : cluster.missing_bytes ? "bad" : "warn"}`,
    title: "How complete this history is, and Ray's commands for it",
  });

  // A table of tasks holds no more than one answer does. How many there are stands where the answer begins.
  const cut = add("span", "", { className: "chip warn", hidden: true, title: "Filter by job to see fewer; Ray's "
    + "clients list up to a million: ray list tasks --limit" });
  let place = location.hash;
  const count = (asked, answer) => {
    const rows = Number((/"num_filtered":(\d+)/.exec(answer.slice(0, 1000)) || [])[1] || 0);
    const limit = Number(asked.get("limit"));
    cut.textContent = `${number(limit)} of ${number(rows)} tasks shown, failed and open ones first`;
    cut.hidden = rows <= limit;
    place = location.hash;
  };
  const open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, url, ...more) {
    // every page asks for something, and no other event tells that it has changed
    if (location.hash !== place) cut.hidden = true;
    const { pathname, searchParams: asked } = new URL(url, location.href);
    if (pathname.endsWith("/api/v0/tasks") && !asked.getAll("filter_keys").includes("task_id")) {
      this.addEventListener("load", () => { if (this.status === 200) count(asked, this.responseText); });
    }
    return open.call(this, method, url, ...more);
  };

  root.append(style, line);
  document.body.prepend(bar);
  // the dashboard's own bar is fixed where the page begins, so it moves down with it
  document.body.style.paddingTop = `${HEIGHT}px`;
})();
