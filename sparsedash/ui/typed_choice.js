// A model or text that was typed counts when its field is left, but for a word that only filters the choices.
// Streamlit drops it unless Enter was pressed, and Start would run the one before. Put on the page by
// browser_scripts.py; the content security policy names this by its hash.
(() => {
  if (window.sdTypedChoice) return;
  window.sdTypedChoice = true;
  const confirm = (event) => {
    const field = document.activeElement;
    if (!field || !field.matches(":is(.st-key-model, .st-key-text, .st-key-calibration) input")) return;
    const options = [...document.querySelectorAll("[role=option]")].map((option) => option.textContent);
    // One that no choice matches is the only option, as a new one.
    if (!/[/:]/.test(field.value) && options.length > 1 && !options.includes(field.value)) return;
    const leaves = event.type === "keydown" ? event.key === "Tab" : !event.target.closest(".stSelectbox, [role=listbox]");
    if (leaves) field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  };
  for (const type of ["pointerdown", "keydown"]) document.addEventListener(type, confirm, true);
})();
