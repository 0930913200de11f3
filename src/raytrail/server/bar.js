// The bar above Ray's dashboard: which cluster, which moment of its life, how complete, how many of its tasks are shown,
// and the way home.
"use strict";
(() => {
  const said = JSON.parse(document.getElementById("raytrail").textContent);
  const HEIGHT = 40;

  // what is alive at a moment has lasted until then, not until today; the clock goes on, as timers read it
  if (said.at_ms !== null || !said.alive) {
    const behind = Date.now() - (said.at_ms === null ? said.ended_ms : said.at_ms);
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
    .title { overflow: hidden; text-overflow: ellipsis; min-width: 4em; }
    input { flex: 1; min-width: 60px; accent-color: #77b4f5; margin: 0; }
    output { font-variant-numeric: tabular-nums; }
    .chip { padding: 4px 9px; border-radius: 10px; background: #2c3440; color: #c3cad6; }
    a.chip.on { background: #77b4f5; color: #10141a; }
    .good { background: #15352a; color: #6fd3a0; }
    .bad { background: #40201e; color: #ff9b92; }
    .warn { background: #3a2e12; color: #f0c265; }
    [hidden] { display: none; }
    @media (max-width: 900px) { .title { display: none; } }
  `;
  const line = document.createElement("div");

  const add = (tag, text, properties = {}) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.textContent = text;
    line.append(element);
    return element;
  };
  const utc = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ") + " UTC";
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

  add("a", "Raytrail", { href: said.root, className: "home", title: "All clusters" });
  add("span", said.title, { className: "title", title: said.session });
  add("span", said.alive ? "running" : "ended", { className: said.alive ? "chip good" : "chip" });

  if (said.began_ms !== null && said.ended_ms !== null) {
    const shown = said.at_ms === null ? said.ended_ms : said.at_ms;
    const slider = add("input", "", {
      type: "range", min: said.began_ms, max: Math.max(said.ended_ms, said.began_ms + 1), step: 1,
      title: "The moment of its life that is shown",
    });
    slider.value = shown;
    slider.setAttribute("aria-label", "The moment of the cluster's life that is shown");
    const output = add("output", said.alive && said.at_ms === null ? "now" : utc(shown));
    slider.addEventListener("input", () => { output.textContent = utc(Number(slider.value)); });
    slider.addEventListener("change", () => { go(`${said.home}at/${slider.value}/`); });
    const plain = said.url === said.home;
    link(said.alive ? "now" : "before its shutdown", said.home, { className: plain ? "chip on" : "chip" });
    if (!said.alive) {
      link("its very end", `${said.home}final/`, { className: said.final ? "chip on" : "chip" });
    }
  }

  const complete = said.missing_bytes === 0 && said.rejected === 0;
  const number = (value) => value.toLocaleString("en");
  add("a", complete ? "complete" : said.missing_bytes ? `${number(said.missing_bytes)} bytes missing`
    : `${number(said.rejected)} lines unreadable`, {
    href: `${said.url}about`, className: `chip ${complete ? "good" : said.missing_bytes ? "bad" : "warn"}`,
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
