// The chart before these buttons as a file. Put on the page by browser_scripts.py; the content security policy names this
// text by its hash. The chart's own button, which is hidden, knows one form at a time: it is told which, then pressed.
(() => {
  const here = document.currentScript.closest(".sd-take");
  const chart = () => [...document.querySelectorAll(".js-plotly-plot")]
    .filter((each) => each.compareDocumentPosition(here) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
  for (const button of here.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const drawn = chart();
      const own = drawn && drawn.querySelector(".modebar-btn");
      if (!own) return;
      drawn._context.toImageButtonOptions = { ...drawn._context.toImageButtonOptions, format: button.value };
      own.click();
    });
  }
})();
