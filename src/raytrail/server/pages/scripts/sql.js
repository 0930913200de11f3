// Ctrl+Enter asks, and a click on a name of the list writes it where the cursor is. Without it the page is the same.
"use strict";
(() => {
  const editor = document.getElementById("q");
  editor.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    editor.form.requestSubmit(editor.form.querySelector("button:not([name])"));
  });
  document.querySelector(".views").addEventListener("click", (event) => {
    const name = event.target.closest("button[data-name]");
    if (name === null) return;
    editor.setRangeText(name.dataset.name, editor.selectionStart, editor.selectionEnd, "end");
    editor.focus();
  });
})();
