// The list of versions beside this one, from ../versions.js, which each build writes anew. Alone, a version has none.
addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector(".versions");
  if (!box) return;
  const all = `${box.dataset.root || "./"}../`;
  const list = document.createElement("script");
  list.src = `${all}versions.js`;
  list.addEventListener("load", () => {
    const select = box.querySelector("select");
    for (const version of window.raytrailVersions) {
      select.add(new Option(version, version, false, version === box.dataset.version));
    }
    select.addEventListener("change", () => {
      location.href = `${all}${select.value}/${box.dataset.page}`;
    });
    box.hidden = false;
  });
  document.head.append(list);
});
