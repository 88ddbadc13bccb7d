(() => {
  // Streamlit adds a step to Back for each parameter that it drops from an address, and one between two pages, with
  // the path of the first and the parameters of the second. Here each act of the user adds one at most.
  if (window.sparseDashBack) return;
  window.sparseDashBack = true;
  const push = history.pushState.bind(history);
  let acted = false;
  for (const event of ["pointerdown", "click", "keydown"]) addEventListener(event, () => { acted = true; }, true);
  addEventListener("popstate", () => { acted = false; }, true);
  history.pushState = (...step) => {
    const add = acted;
    acted = false;
    return add ? push(...step) : history.replaceState(...step);
  };
})();
