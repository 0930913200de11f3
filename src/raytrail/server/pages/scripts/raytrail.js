// What every page has besides its HTML: keys, times in the reader's own zone, and a page of a living cluster that brings
// itself up to date. Without it the pages are the same.
"use strict";
(() => {
  const search = document.getElementById("search");
  const zone = document.querySelector("select[name=zone]");
  const when = document.querySelector("input[name=when]");
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;

  // -- times: in UTC, unless the reader has chosen the own zone, which this browser then remembers
  const local = () => zone !== null && zone.value !== "UTC";
  const write = (moment, zoned) => {
    const parts = {};
    const format = new Intl.DateTimeFormat("en-CA", { timeZone: zoned, hourCycle: "h23", year: "numeric",
      month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });
    for (const { type, value } of format.formatToParts(moment)) parts[type] = value;
    return `${parts.year}-${parts.month}-${parts.day} ${parts.hour}:${parts.minute}:${parts.second}`;
  };
  const tell = (root) => {
    for (const time of root.querySelectorAll("time[data-absolute]")) {
      const text = write(new Date(time.dateTime), local() ? own : "UTC");
      if (time.textContent !== text) time.textContent = text;
    }
  };
  if (zone !== null && own && own !== "UTC") {
    const option = zone.appendChild(document.createElement("option"));
    option.value = option.textContent = own;
    let chosen = null;
    try { chosen = localStorage.getItem("raytrail-zone"); } catch { /* a browser may forbid it */ }
    const choose = () => {
      const from = document.querySelector(".moment input[name=from]").value;
      if (from !== "") when.value = write(new Date(Number(from)), local() ? own : "UTC");
      tell(document);
    };
    if (chosen === "own") {
      zone.value = own;
      choose();
    }
    zone.addEventListener("change", () => {
      try { localStorage.setItem("raytrail-zone", local() ? "own" : "UTC"); } catch { /* as above */ }
      choose();
    });
  }

  // -- keys
  const keys = [["/", "search all clusters"], ["t", "type a time"], ["[ ]", "the failure before, the failure after"],
    ["g then o f t n", "overview, failures, timeline, nodes"], ["?", "these keys"], ["Esc", "leave a field"]];
  const press = (value) => {
    const button = document.querySelector(`button[name=step][value=${value}]`);
    if (button !== null) button.click();
  };
  const go = { o: "about", f: "failures", t: "timeline", n: "nodes", u: "functions" };
  let waiting = false;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select") !== null;
    if (event.key === "Escape" && typing) event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (waiting) {
      waiting = false;
      const link = [...document.querySelectorAll(".place nav a")].find((a) => a.pathname.endsWith(`/${go[event.key]}`));
      if (link !== undefined) link.click();
      return;
    }
    if (event.key === "/" && search !== null) search.focus();
    else if (event.key === "t" && when !== null) when.select();
    else if (event.key === "[") press("before");
    else if (event.key === "]") press("after");
    else if (event.key === "g") waiting = true;
    else if (event.key === "?") showKeys();
    else return;
    event.preventDefault();
  });
  const showKeys = () => {
    let dialog = document.querySelector("dialog.keys");
    if (dialog === null) {
      dialog = document.body.appendChild(document.createElement("dialog"));
      dialog.className = "keys";
      dialog.setAttribute("aria-label", "Keys");
      const list = dialog.appendChild(document.createElement("dl"));
      for (const [key, what] of keys) {
        list.appendChild(document.createElement("dt")).textContent = key;
        list.appendChild(document.createElement("dd")).textContent = what;
      }
      dialog.addEventListener("click", () => dialog.close());
    }
    dialog.showModal();
  };

  // -- live: the server tells that something has changed, and the page takes in its own new content
  const main = document.querySelector("main[data-live]");
  if (main !== null && "EventSource" in window) {
    let [asking, again] = [false, false];
    const refresh = async () => {
      if (document.hidden) return; // it is asked for once somebody looks
      if (asking) {
        again = true;
        return;
      }
      asking = true;
      const began = performance.now();
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (!answer.ok) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        merge(main, page.getElementById("main"));
        const chips = document.querySelector(".which");
        if (chips !== null) merge(chips, page.querySelector(".which"));
        tell(document);
      } catch { /* the server is away: the next event asks again */ } finally {
        // a page that takes long to make is made for a tenth of the time at most
        setTimeout(() => {
          asking = false;
          if (again) {
            again = false;
            refresh();
          }
        }, 9 * (performance.now() - began));
      }
    };
    // a browser has few connections to a server: only a page that is looked at holds one
    let changes = null;
    const follow = () => {
      if (document.hidden) {
        changes?.close();
        changes = null;
      } else if (changes === null) {
        changes = new EventSource(main.dataset.live);
        changes.addEventListener("changed", refresh);
        changes.addEventListener("ended", () => changes.close());
        let before = false;
        changes.addEventListener("open", () => {
          if (before) refresh(); // the connection was gone for a while
          before = true;
        });
      }
    };
    document.addEventListener("visibilitychange", () => {
      follow();
      if (!document.hidden) refresh(); // for what came meanwhile
    });
    follow();
  }

  // Makes `old` what `fresh` is, and touches no element that has not changed, so that nothing flickers or loses focus.
  const merge = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.hasAttribute("data-own")) return; // a script draws what is in it
    for (const { name } of [...old.attributes]) {
      // what the reader has opened stays open
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const [was, is] = [[...old.childNodes], [...fresh.childNodes]];
    is.forEach((node, at) => {
      if (at < was.length) merge(was[at], node);
      else old.appendChild(document.importNode(node, true));
    });
    was.slice(is.length).forEach((node) => node.remove());
  };
})();
