"""Every control of every page is pressed, and what it leads to is looked at.

The pages themselves list their controls, so that a new one cannot be forgotten; what one opens is listed as well. With
`pytest -s` the list is printed: page, control, what was seen. No worker runs: a job that a control asks for waits.
"""

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlsplit

import pytest

from sparsedash.catalog.presets import method_named
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
    ['download', e => e.closest('[data-testid=stDownloadButton]')],
    ['select', e => e.matches('[role=combobox]') || e.closest('[data-baseweb=select]')],
    ['switch', e => e.matches('[type=checkbox], [type=radio], [role=radio], [aria-pressed]')],
    ['number', e => e.matches('[type=number]')],
    ['text', e => e.matches('input, textarea')],
    ['button', e => true],
  ];
  const pressable = 'a[href], button, summary, input, textarea, [role=combobox]';
  const belongs = e => e.matches('[data-testid*=NumberInputStep], [tabindex="-1"]:not(input)')
    || e.closest('[data-testid=stFileUploader]') && e.matches('button');
  const parts = [...document.querySelectorAll('[data-testid=stMain], [data-testid=stPopoverBody]')];
  const found = [];
  for (const e of parts.flatMap(part => [...part.querySelectorAll(pressable)])) {
    const box = e.matches('[type=file]') ? e.parentElement : e.matches('input') && e.closest('label') || e;
    const seen = box.getBoundingClientRect().width && box.checkVisibility();
    if (!seen || belongs(e) || e.disabled || e.closest('[aria-hidden=true]')) continue;
    if (!withMenu && e.closest('.st-key-menu')) continue;
    const icons = [...e.querySelectorAll('[data-testid=stIconMaterial]')].map(icon => icon.innerText);
    const words = icons.reduce((text, icon) => text.replace(icon, ''), e.innerText).trim();
    const label = e.closest('label')?.innerText || e.labels?.[0]?.innerText || words;
    const name = (e.ariaLabel || label).trim(), keyed = e.closest('[class*=st-key-]');
    const key = [...keyed?.classList ?? []].find(each => each.startsWith('st-key-'))?.slice(7);
    const kind = kinds.find(([, holds]) => holds(e))[0];
    // Beside a link there may be more in its container, drawn a moment later.
    const beside = [...keyed?.querySelectorAll(pressable) ?? []].filter(each => each !== e && !belongs(each));
    const alone = kind !== 'link' && keyed && !beside.length;
    e.setAttribute('data-control', found.length);
    found.push([kind, alone ? key : name.split('\\n').pop(), name.replace(/\\s+/g, ' ').slice(0, 80)]);
  }
  return found;
}"""
"""Kind, identity and name of everything on the page that can be pressed, each element marked with its number."""

LOOK = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const words = (...ids) => all(ids.map(id => `[data-testid=${id}]`).join()).map(e => e.innerText).join('\\n');
  const states = all('input, textarea, [aria-checked], [aria-expanded], details, [aria-pressed]')
    .map(e => [e.value, e.checked, e.open, e.ariaChecked, e.ariaExpanded, e.ariaPressed].join());
  return [location.href, words('stMain', 'stPopoverBody', 'stTooltipContent'), states.join('|'), words('stToast')];
}"""
"""What can be seen of the page: address, words, states, and notices, which go by themselves."""
OPENS = ("part", "button", "switch")
ACTS = ("link", "button", "part", "help", "download", "file")
"""What does something each time; a choice that is made already, or a field that says the same, need not."""
LATE = (("delete|cancel|re(try|sume)", 3), (".*-sure", 4))
"""What takes something away, with its controls."""
FIELDS = {"text": "x<b>", "number": "7"}
FILE = {"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"}


@dataclass(frozen=True)
class Control:
    """Something that can be pressed. identity: the same for all of a repeated kind."""

    kind: str
    identity: str
    name: str = field(compare=False)


def listed(page) -> list[Control]:
    """What can be pressed now."""
    return [
        Control(kind, re.sub(r"[\da-f.,]*\d[\da-f.,]*", "#", own), name)
        for kind, own, name in page.evaluate(LIST, page.url.endswith("/"))
    ]


def place(address: str) -> tuple[str, ...]:
    """What an address shows: page, run and view. Other views are walked by themselves."""
    page, query = urlsplit(address).path, dict(parse_qsl(urlsplit(address).query))
    return page, *(query.get(name, "") for name in ("run", "view", "goal", "blind"))


def when(control: Control) -> int:
    """When it is pressed: choices after buttons and fields, then what leaves the page, then what takes away."""
    usual = {"select": 1, "switch": 1, "link": 2}.get(control.kind, 0)
    return next((late for pattern, late in LATE if re.match(pattern, control.identity, re.IGNORECASE)), usual)


def settled(page) -> None:
    """Wait until the script has run and all is drawn; it begins a moment after what caused it."""
    before = None
    while (now := page.evaluate(LOOK)) != before:
        before = now
        page.wait_for_timeout(100)
        page.wait_for_selector("h1.sd-opening, [data-testid=stException]")
        page.wait_for_selector("[data-test-script-state=notRunning]")


class Walk:
    """A walk over one page, which prints what it presses and sees. known: what was pressed. gone: what could not be.

    A control is found again by the address where it appeared and by what opened it there, its path.
    """

    def __init__(self, page) -> None:
        self.page = page
        self.known, self.gone = set[Control](), set[Control]()
        self.files: list[str] = []

    def all(self, address: str) -> None:
        """Press everything new at an address, and everything that appears."""
        page = self.page
        page.goto(address)
        settled(page)
        self.home, self.ended = place(page.url), False
        todo = [(page.url, [], each) for each in listed(page)]
        while todo:
            todo.sort(key=lambda each: when(each[2]))
            address, path, control = todo.pop(0)
            if control in self.known:
                continue
            before = self.press(address, path, control)
            if place(page.url) == self.home:
                opened = control.kind in OPENS and page.url == before
                again = [*path, control] if opened else path
                waiting = {each for _, _, each in todo} | self.known
                todo = [(page.url, again, each) for each in listed(page) if each not in waiting] + todo

    def press(self, address: str, path: list[Control], control: Control) -> str:
        """Press it, and look: where it is in view, else once its path is pressed, else on a new page.

        A press may be lost while a page is drawn. Returns the address where it was.
        """
        page, seen = self.page, ""
        for _ in range(2):
            if place(page.url) != self.home:
                page.go_back()
                settled(page)
        for attempt in range(3):
            if attempt == 2 or place(page.url) != self.home:
                page.goto(address)
                settled(page)
            for step in path if attempt else ():
                if element := self.find(step):
                    self.touch(element, step)
            before, element = page.url, self.find(control)
            seen = self.touch(element, control) if element else ""
            if seen or (self.ended and not element) or (element and control.kind not in ACTS):
                break
        assert page.get_by_test_id("stException").all_inner_texts() == [], f"{control} on {address}"
        if element is None:
            if not self.ended:
                self.gone.add(control)
            return before
        print(f"  {control.kind:8} {control.name[:50]:50} {seen}")
        assert seen or control.kind not in ACTS, f"{control} does nothing on {address}"
        self.known.add(control)
        self.gone.discard(control)
        self.ended = self.ended or when(control) > 2
        return before

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
                element.focus()
            case "switch":
                element.press("Space")
            case "file":
                element.set_input_files(FILE)
            case "link" | "part" | "button" | "download":
                element.press("Enter")
        seen = ""
        for _ in range(60 if control.kind in ACTS else 10):
            if seen := self.files[n_files] if len(self.files) > n_files else self.seen(before, control):
                break
            self.page.wait_for_timeout(50)
        settled(self.page)
        return seen and (seen if control.kind == "download" else self.seen(before, control) or seen)

    def seen(self, before: list[str], control: Control) -> str:
        """What a press changed, in a few words; of a download only its file counts."""
        page, after = self.page, self.page.evaluate(LOOK)
        if control.kind == "download" or (after[:3] == before[:3] and after[3] in before[3]):
            return ""
        if after[0] != before[0]:
            sentence = " ".join(page.locator("h1.sd-opening").all_inner_texts())
            return f"{after[0].partition('//')[2].partition('/')[2][:70]}: {sentence[:60]}"
        new = [line for line in "\n".join(after[1::2]).split("\n") if line.strip() and line not in "\n".join(before)]
        return " / ".join(new)[:100] or "the same words in another state"


RACE = replace(specimens.SETTINGS, methods=tuple(map(method_named, ("best", "least-squares", "random"))))
PART = replace(specimens.SETTINGS, sparsities_permille=(100, 250, 400))
WAITING = [replace(specimens.SETTINGS, sparsities_permille=(permille,)) for permille in (600, 700)]


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    return start_server(tmp_path_factory.mktemp("controls") / "data", SPARSEDASH_WORKERS="0")


@pytest.fixture
def filled(server):
    """A server, without workers, on a folder with runs and jobs of every kind."""
    backend = FilledBackend(server.folder)
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
    server.runs = {"sweep": sweep.key, "race": race.key, "search": search.key, "part": part.key}
    return server


PAGES = {
    "settings": ("settings",),
    "models": ("models?run={sweep}",),
    "overview": ("", "?run={race}", "?run={search}", "?run={part}"),
    "prune": ("prune", "prune?goal=How+much+can+go%3F", "prune?view=published"),
    "runs": ("runs", "runs?chosen={race:.16}&chosen={sweep:.16}&together=1", "runs?view=jobs"),
    "compare": ("compare?run={sweep}", "compare?run={sweep}&blind=true", "compare?run={sweep}&view=layers"),
}
"""The addresses under which a page shows all its controls."""
LONG = ("prune", "runs", "compare")
"""Pages whose walk takes 40 to 50 s of one core."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in PAGES])
def test_every_control_does_something_and_nothing_raises(name, page, filled):
    walk = Walk(page)
    keep = lambda taken: walk.files.append(taken.suggested_filename)  # noqa: E731
    page.on("download", keep)
    for address in PAGES[name]:
        print(f"\n{address or 'overview'}")
        walk.all(f"{filled.address}/{address.format(**filled.runs)}")
    page.remove_listener("download", keep)
    assert not walk.gone, "these were shown, and could not be pressed"
    assert "Traceback" not in filled.log.read_text()
