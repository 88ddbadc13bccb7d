"""Every control of every page is pressed, and what it leads to is looked at.

The pages themselves list their controls, so that a new one cannot be forgotten; what one opens is listed as well. With
`pytest -s` the list is printed: page, control, what was seen. No worker runs: a job that a control asks for waits.
"""

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import expect

from sparsedash.catalog.presets import method_named
from tests.browser.served import ready
from tests.ui import specimens
from tests.ui.filled_backend import FilledBackend, job

LIST = """withMenu => {
  document.querySelectorAll('[data-control]').forEach(e => e.removeAttribute('data-control'));
  const kinds = [
    ['help', e => e.ariaLabel?.startsWith('Help for ')],
    ['link', e => e.matches('a') && e.origin === location.origin],
    ['outside', e => e.matches('a')],
    ['part', e => e.matches('summary')],
    ['file', e => e.matches('[type=file]')],
    ['select', e => e.matches('[role=combobox]') || e.closest('[data-baseweb=select]')],
    ['switch', e => e.matches('[type=checkbox], [type=radio], [role=radio], [aria-pressed]')],
    ['number', e => e.matches('[type=number]')],
    ['text', e => e.matches('input, textarea')],
    ['button', e => true],
  ];
  const pressable = 'a[href], button, summary, input, textarea, [role=combobox]';
  const parts = [...document.querySelectorAll('[data-testid=stMain], [data-testid=stPopoverBody]')];
  const found = [];
  for (const e of parts.flatMap(part => [...part.querySelectorAll(pressable)])) {
    const seen = (e.matches('input') && e.closest('label') || e).getBoundingClientRect().width && e.checkVisibility();
    const belongs = e.matches('[data-testid*=NumberInputStep], [tabindex="-1"]:not(input)')
      || e.closest('[data-testid=stFileUploader]') && e.matches('button');
    if (!seen || belongs || e.disabled || e.closest('[aria-hidden=true]')) continue;
    if (!withMenu && e.closest('.st-key-menu')) continue;
    const icon = e.querySelector('[data-testid=stIconMaterial]')?.innerText ?? '';
    const label = e.closest('label')?.innerText || e.labels?.[0]?.innerText || e.innerText.replace(icon, '');
    const name = (e.ariaLabel || label).trim(), keyed = e.closest('[class*=st-key-]');
    const key = [...keyed?.classList ?? []].find(each => each.startsWith('st-key-'))?.slice(7);
    const kind = kinds.find(([, holds]) => holds(e))[0];
    // Beside a link there may be more in its container, drawn a moment later.
    const alone = kind !== 'link' && keyed?.querySelectorAll(pressable).length === 1;
    e.setAttribute('data-control', found.length);
    found.push([kind, alone ? key : name.split('\\n').pop(), name.replace(/\\s+/g, ' ').slice(0, 80)]);
  }
  return found;
}"""
"""Kind, identity and name of everything on the page that can be pressed, each element marked with its number."""

LOOK = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const shown = ['stMain', 'stPopoverBody', 'stToast', 'stTooltipContent'].map(id => `[data-testid=${id}]`).join();
  const states = all('input, textarea, [aria-checked], [aria-expanded], details, [aria-pressed]')
    .map(e => [e.value, e.checked, e.open, e.ariaChecked, e.ariaExpanded, e.ariaPressed].join());
  return [location.href, all(shown).map(e => e.innerText).join('\\n'), states.join('|')].join('\\n');
}"""
"""What can be seen of the page."""
OPENS = ("part", "button", "switch")
ACTS = ("link", "button", "part", "help")
"""What does something each time; a choice that is made already, or a field that says the same, need not."""
ENDS = re.compile(".*-sure|delete|cancel|re(try|sume)")
"""What takes something away, with its controls: pressed last."""
GONE = re.compile("step|Show where|A-is|B-is|Both-|log|took|priority|up|down|front|Measure")
"""What may go by something else that was pressed before."""
FIELDS = {"text": "x<b>", "number": "7"}


@dataclass(frozen=True)
class Control:
    """Something that can be pressed. identity: the same for all of a repeated kind."""

    kind: str
    identity: str
    name: str = field(compare=False)


def listed(page) -> list[Control]:
    """What can be pressed now."""
    return [
        Control(kind, re.sub(r"\d[\d.,]*", "#", own), name)
        for kind, own, name in page.evaluate(LIST, page.url.endswith("/"))
    ]


def place(address: str) -> tuple[str, ...]:
    """What an address shows: page, run and view. Other views are walked by themselves."""
    page, query = urlsplit(address).path, dict(parse_qsl(urlsplit(address).query))
    return page, *(query.get(name, "") for name in ("run", "view", "goal", "blind"))


def settled(page) -> None:
    """Wait until the script has run; it begins a moment after what caused it."""
    page.wait_for_timeout(120)
    ready(page)


class Walk:
    """A walk over one page. known: what was pressed on it before. pressed: each control with what was seen."""

    def __init__(self, page, address: str, known: set[Control]) -> None:
        self.page, self.address, self.known = page, address, known
        self.pressed: list[tuple[str, str, str]] = []
        self.files: list[str] = []
        self.ended = False

    def all(self) -> None:
        """Press everything there is, and everything that appears."""
        page = self.page
        keep = lambda taken: self.files.append(taken.suggested_filename)  # noqa: E731
        page.on("download", keep)
        self.open([])
        self.home = place(page.url)
        todo = [([], each) for each in listed(page)]
        while todo:
            todo.sort(key=lambda each: bool(ENDS.match(each[1].identity)))
            path, control = todo.pop(0)
            if control in self.known:
                continue
            self.known.add(control)
            self.press(path, control)
            if at_home := place(page.url) == self.home:
                again = [*path, control] if control.kind in OPENS else path
                waiting = {each for _, each in todo} | self.known
                todo = [(again, each) for each in listed(page) if each not in waiting] + todo
            if control.kind in ("link", "button") or not at_home:
                self.open([])
        page.remove_listener("download", keep)

    def open(self, path: list[Control]) -> None:
        """Open the page anew, and what leads to a control."""
        self.page.goto("about:blank")
        self.page.goto(self.address)
        settled(self.page)
        for control in path:
            if element := self.find(control):
                self.touch(element, control)

    def find(self, control: Control):
        """The element of a control; None where it is not there."""
        found = [i for i, each in enumerate(listed(self.page)) if each == control]
        return self.page.locator(f'[data-control="{found[0]}"]').first if found else None

    def touch(self, element, control: Control) -> str:
        """Press or fill it. Returns what is seen then."""
        before, n_files = self.page.evaluate(LOOK), len(self.files)
        match control.kind:
            case "text" | "number":
                element.fill(FIELDS[control.kind])
                element.press("Control+Enter")
            case "select":
                for key in ("ArrowDown", "ArrowDown", "Enter"):
                    element.press(key)
            case "help":
                element.hover()
            case "switch":
                element.press("Space")
            case "link" | "part" | "button":
                element.press("Enter")
        for _ in range(300 if control.kind in ACTS else 10):
            if len(self.files) > n_files or self.page.evaluate(LOOK) != before:
                break
            self.page.wait_for_timeout(50)
        settled(self.page)
        return self.files[-1] if len(self.files) > n_files else self.seen(before, self.page.evaluate(LOOK))

    def press(self, path: list[Control], control: Control) -> None:
        """Press it where it is, and look; once more on a new page, since a press may be lost while one is drawn."""
        element = self.find(control)
        for _ in range(3):
            if element is None:
                self.open(path)
                element = self.find(control)
        if element is None:
            assert self.ended or GONE.match(control.identity), f"{control} is gone from {self.address}"
            return
        self.ended = self.ended or bool(ENDS.match(control.identity))
        seen = self.touch(element, control)
        if not seen and control.kind in ACTS:
            self.open(path)
            element = self.find(control)
            seen = self.touch(element, control) if element else ""
        self.pressed.append((control.kind, control.name, seen))
        expect(self.page.get_by_test_id("stException")).to_have_count(0)
        assert seen or control.kind not in ACTS, f"{control} does nothing on {self.address}"

    def seen(self, before: str, after: str) -> str:
        """What a press changed, in a few words."""
        if before == after:
            return ""
        old, new = before.split("\n"), after.split("\n")
        if old[0] != new[0]:
            sentence = self.page.locator("h1.sd-opening").inner_text()
            return f"{new[0].partition('//')[2].partition('/')[2][:70]}: {sentence[:60]}"
        added = [line for line in new[1:] if line.strip() and line not in old]
        return f"{' / '.join(added)[:100]}" or "less is shown"


RACE = replace(specimens.SETTINGS, methods=tuple(map(method_named, ("best", "least-squares", "random"))))
PART = replace(specimens.SETTINGS, sparsities_permille=(100, 250, 400))
WAITING = [replace(specimens.SETTINGS, sparsities_permille=(permille,)) for permille in (600, 700)]


@pytest.fixture(scope="module")
def filled(start_server, tmp_path_factory):
    """A server, without workers, on a folder with runs and jobs of every kind."""
    folder = tmp_path_factory.mktemp("controls") / "data"
    backend = FilledBackend(folder)
    sweep, race, search = (backend.add_run(each) for each in (specimens.run(), specimens.run(RACE), specimens.search()))
    part = backend.add_run(specimens.run(PART, finished=False, n_sparse=1))
    asked = [(sweep.settings, "done"), (RACE, "done"), (search.find, "done"), (PART, "crashed"), (WAITING[0], "failed")]
    asked += [(each, "queued") for each in WAITING]
    why = {"error_text": "The model cannot be reached.", "error_advice": "Name a local folder."}
    backend.set_jobs(
        *(
            job(settings, state, id=i, **(why if state in ("failed", "crashed") else {}))
            for i, (settings, state) in enumerate(asked, 1)
        )
    )
    backend.close()
    server = start_server(folder, SPARSEDASH_WORKERS="0")
    server.runs = {"sweep": sweep.key, "race": race.key, "search": search.key, "part": part.key}
    return server


PAGES = {
    "overview": ("", "?run={race}", "?run={search}", "?run={part}"),
    "prune": ("prune", "prune?goal=How+much+can+go%3F", "prune?view=published"),
    "runs": ("runs", "runs?view=jobs"),
    "compare": ("compare?run={sweep}", "compare?run={sweep}&blind=true", "compare?run={sweep}&view=layers"),
    "models": ("models?run={sweep}",),
    "settings": ("settings",),
}
"""The addresses under which a page shows all its controls."""


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_every_control_does_something_and_nothing_raises(name, page, filled):
    known = set()
    for address in PAGES[name]:
        walk = Walk(page, f"{filled.address}/{address.format(**filled.runs)}", known)
        walk.all()
        print(f"\n{address or 'overview'}")
        for kind, label, seen in walk.pressed:
            print(f"  {kind:7} {label[:50]:50} {seen}")
