// The browser's own notice when a run ends, for visitors who asked for one, and what a screen reader hears. Put on the page by browser_scripts.py, which
// hands everything over as text in data attributes; the content security policy names this text by its hash.
(() => {
  const here = document.currentScript.closest(".sd-browser-notice");
  const KEPT = "sparsedash-notices";
  const possible = window.isSecureContext && "Notification" in window;
  const wanted = () => {
    try { return localStorage.getItem(KEPT) === "on"; } catch { return false; }
  };
  const want = (on) => {
    try { on ? localStorage.setItem(KEPT, "on") : localStorage.removeItem(KEPT); } catch { /* forgotten on reload */ }
  };
  const tell = ({ title, body, tag }) => {
    const notice = new Notification(title, { body, tag });
    notice.onclick = () => { window.focus(); notice.close(); };
  };

  const offer = () => {
    const [button, said] = [here.querySelector("button"), here.querySelector("[role=status]")];
    const draw = (trouble) => {
      const on = possible && wanted() && Notification.permission === "granted";
      button.hidden = !possible || Notification.permission === "denied";
      button.textContent = on ? here.dataset.stop : here.dataset.ask;
      said.textContent = trouble || (!possible ? here.dataset.insecure
        : Notification.permission === "denied" ? here.dataset.denied : on ? here.dataset.on : "");
    };
    button.addEventListener("click", async () => {
      const stop = wanted() && Notification.permission === "granted";
      want(!stop);
      if (stop) return draw();
      if (await Notification.requestPermission() !== "granted") {
        want(false);
        return draw(here.dataset.denied);
      }
      try {
        tell({ title: "SparseDash", body: here.dataset.on, tag: "sparsedash-asked" });
        draw();
      } catch {
        // Some telephones know the permission, and refuse a page that uses it.
        want(false);
        draw(here.dataset.denied);
      }
    });
    draw();
  };

  // Streamlit opens every link of a toast in a new tab. To step through the history leads there in this one.
  const stayInTheTab = (event) => {
    const link = event.target.closest?.("[data-testid=stToast] a[href]");
    if (!link || link.origin !== location.origin || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", link.href);
    dispatchEvent(new PopStateEvent("popstate"));
  };

  if (!window.sparseDashStays) {
    window.sparseDashStays = true;
    document.addEventListener("click", stayInTheTab, true);
  }
  // One region for the whole visit: a screen reader hears what changes in it, not what comes and goes with the page.
  const hear = (words) => {
    let region = document.getElementById("sd-heard");
    if (!region) {
      region = document.createElement("div");
      region.id = "sd-heard";
      region.setAttribute("role", "status");
      region.setAttribute("aria-live", "polite");
      document.body.append(region);
    }
    if (region.textContent !== words) region.textContent = words;
  };

  if (here.dataset.heard) hear(here.dataset.heard);
  else if (here.dataset.ask) offer();
  else if (possible && wanted() && Notification.permission === "granted") {
    try { tell(here.dataset); } catch { /* the toast says it as well */ }
  }
})();
