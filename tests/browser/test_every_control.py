"""Every control of every page is pressed, and must lead to what LEADS_TO says of it.

The pages themselves list their controls, so that a new one cannot be forgotten; what one opens is
listed as well. With `pytest -s` the list is printed: page, control, what was seen. No worker runs:
a job that a control asks for waits.
"""

import re
import time
from dataclasses import dataclass, field, replace
from difflib import unified_diff
from itertools import dropwhile
from urllib.parse import parse_qsl, urlsplit

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from sparsedash.catalog.presets import method_named
from tests.browser.served import press
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
  const one = '[type=radio], [role=radio], [aria-pressed]';
  const belongs = e => e.matches('[data-testid*=NumberInputStep], [tabindex="-1"]:not(input)')
    || e.closest('[data-testid=stFileUploader]') && e.matches('button');
  const parts = [...document.querySelectorAll('[data-testid=stMain], [data-testid=stPopoverBody]')];
  const found = [];
  for (const e of parts.flatMap(part => [...part.querySelectorAll(pressable)])) {
    const box = e.matches('[type=file]') ? e.parentElement : e.matches('input') && e.closest('label') || e;
    const seen = box.getBoundingClientRect().width && box.checkVisibility();
    if (!seen || belongs(e) || e.disabled || e.closest('[aria-hidden=true]')) continue;
    if (e.closest('.st-key-menu') && (!withMenu || e.ariaCurrent === 'page')) continue;
    const icons = [...e.querySelectorAll('[data-testid=stIconMaterial]')].map(icon => icon.innerText);
    const words = icons.reduce((text, icon) => text.replace(icon, ''), e.innerText).trim();
    const label = e.closest('label')?.innerText || e.labels?.[0]?.innerText || words;
    const name = (e.ariaLabel || label).trim(), keyed = e.closest('[class*=st-key-]');
    const key = [...keyed?.classList ?? []].find(each => each.startsWith('st-key-'))?.slice(7);
    const kind = kinds.find(([, holds]) => holds(e))[0];
    const choices = kind === 'switch' && e.closest('[data-testid=stButtonGroup], [data-testid=stRadio]');
    const many = choices && choices.querySelectorAll(one).length > 4;
    // What is chosen already. Of many choices one is pressed, as of a list.
    if (choices && (e.ariaPressed === 'true' ? many : e.ariaChecked === 'true' || e.checked)) continue;
    // Beside a link or in a part there may be more in its container, drawn a moment later.
    const beside = [...keyed?.querySelectorAll(pressable) ?? []].filter(each => each !== e && !belongs(each));
    const alone = many || !['link', 'part'].includes(kind) && keyed && !beside.length;
    e.setAttribute('data-control', found.length);
    found.push([kind, alone ? key : name.split('\\n').pop(), name.replace(/\\s+/g, ' ').slice(0, 80)]);
  }
  return found;
}"""
"""Kind, identity and name of everything on the page that can be pressed, each element marked with
its number.
"""

LOOK = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const words = (...ids) => all(ids.map(id => `[data-testid=${id}]`).join()).map(e => e.innerText).join('\\n')
    .replaceAll('\\u00a0', ' ');
  const states = all('input, textarea, [aria-checked], [aria-expanded], details, [aria-pressed]')
    .map(e => [e.value, e.checked, e.open, e.ariaChecked, e.ariaExpanded, e.ariaPressed].join());
  return [location.href, words('stMain', 'stPopoverBody', 'stTooltipContent'), states.join('|'), words('stToast')];
}"""
"""What can be seen of the page: address, words, states, and notices, which go by themselves."""
SETTLED = """async patience => {
  let quiet = 0;
  const end = Date.now() + patience, shows = selector => document.querySelector(selector);
  const watch = new MutationObserver(() => quiet = 0);
  watch.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  const busy = () => quiet++ < 12 || !shows('[data-test-script-state=notRunning]')
    || !shows('h1.sd-opening, [data-testid=stException]');
  while (busy() && Date.now() < end) await new Promise(next => setTimeout(next, 20));
  watch.disconnect();
}"""
"""Whether the page has come to rest. Watched inside of it: looks from outside at all its words take
much longer.
"""
CUT = """() => [...document.querySelectorAll('[data-testid=stPopoverBody]')]
  .some(e => e.clientHeight < Math.min(e.scrollHeight - 1, 200))"""
"""Whether a window is open that shows less of itself than there is room for: one that opened before
its content.
"""
IS_OPEN = "e => e.ariaExpanded === 'true' || e.parentElement.open === true"
OPENS = ("part", "button", "switch")
FREE = ("text", "number", "select", "outside")
"""What need not do anything: a field may say the same as before."""
LEADS_TO = {
    # Every page.
    "help .*": r"\+\w",
    "part .*": r"\+keyboard_arrow_down",
    "switch All # models of the run": "",
    "switch .*": "^/",
    "button (share|axes|Columns|takes|tolerance|Download|log-#|name-of-#|run-along).*": r"\+expand_less",
    "button (Open a file|Upload a text|suggested).*": r"\+expand_less",
    "button Copy to clipboard": "",  # Streamlit's own.
    "button The chart as SVG": r"\.svg$",
    "button The chart as PNG": r"\.png$",
    "button help-.*": r"\+\w.{80}",
    "download take-picture": r"-ruler\.svg$",
    "download CSV": r"\.csv$",
    "link (gpt-j|opt|llama|bloom)-.*%": r"^/prune\?view=published",
    "link (Overview|Back to the chart|See what it cost|Another run is waiting: .*)": r"^/\?run=|^/: ",
    "link (SmolLM.*|How much of .*|x<b>)": r"^/\?run=",
    "link .*(within the limit|undecided|too much), perplexity .*": r"^/compare\?run=",
    "link (Both right|Broke|Fixed|Both wrong) #": r"^/compare\?run=.*filter=",
    "button take-next-step": "^/(prune|models)",
    "link (Prune|Change the settings|Set up a search|Test on more passages|Allow a larger loss|Try #) ?.*": "^/prune",
    "button Clear all": "^/prune",
    "link (Runs|Rename, export.*|All runs as a table|# more)": "^/runs",
    "link (Compare.*|All answers|Loss by layer|# % against dense)": r"^/compare\?run=",
    "link (Models|Export this model)": r"^/models\?run=",
    "button cancel-#": "[Cc]ancelled|1 waiting",
    "button page-.*": "passage=",
    "button [Rr]esume.*": r"\+◷ Waiting",
    # Settings and Models.
    "button (verify|Check data integrity)": r"\+Verification of the data folder",
    "button FormSubmitter-room-Save": "of 7 GB",
    "button delete-.*-sure|button runs-delete-sure": r"\+[01] runs?|\+The data folder takes|\+None of",
    "button cache-sure": r"\+Deleted from the cache",
    "button (runs-delete|delete-.*)": "cannot be undone|Nothing here can be deleted|Delete this|MB?",
    "button [Ee]xport": r"\+Export of a sparse model",
    # Overview.
    "button Measure speed of # models": r"\+Speed of a sparse model",
    # Prune.
    "button start-run.*": r"^/\?run=[0-9a-f]{64}(&limits=[\d.]+%2C[\d.]+)?: This run is queued",
    "button keep-prompts": r"-Keep as my prompts",
    "button Look it up on the hub.*": "hub cannot be reached",
    "file text-upload": r"\+x.txt gives no passage",
    # Runs.
    "button Notify me when a run ends": "blocks notifications",
    "button (down|up|front)-#": r"\+SmolLM2 135M, least-squares [67]0",
    "file run-file": "This is not a run file",
    "button runs-together": r"^/runs\?.*chosen=.*together=1",
    "button runs-pin": "★ pinned",
    "button FormSubmitter-form-#-Save": r"\+x<b>",
    "download run-take-along": r"\.sparsedash-run$",
    "download take-leaderboard": r"^models-by-tasks\.html$",
    "button runs-clear": r"^/runs\?(?!\S*chosen=)",
    "link Judge answer files": r"^/\?answers=1",
    # Compare.
    "download take-(report(-html)?|passages-.*-(csv|parquet))": r"-10-.*\.(html|csv|parquet)$",
    "download take-(left|right)-samples_.*-jsonl": r"-10-.*-samples_passages\.jsonl$",
    "button (All|Both right|Broke|Fixed|Both wrong) · #": r"^/compare\?\S*filter=[a-z]",
    "button F": r"^/compare\?",
    "button row-#": r"^/compare\?\S*(passage|question)=",
    "button step-(Next|Previous)": r"^/compare\?\S*passage=",
    "button Continue with both models": r"\+Continued by both models",
    "button continue-own": r"\+Greedy, 7 tokens",
    "button stop-#": r"\+⊘ Cancelled",
    "button remove-#": r"-Greedy, 7 tokens",
    "button Show where the two differ": r"\+Token-by-token comparison",
    "button (A.is.better|B.is.better|Both.the.same).*": r"\+Judged blind: ",
    "button back-.*": "-Judged blind: ",
    "button Reset the count": r"\+expand_less",
    "button forget-choices": r"\+No choice yet",
}
"""What each control, by a pattern of its kind and identity, must lead to: a pattern of what is seen
after it.

Seen is the address, where it is another one, with its opening sentence; then lines of the page that
came (+) or went (-); or the name of the file. The first row that fits counts.
"""
MENU = "/settings"
"""The page where the menu is walked, since it is drawn again the soonest."""
NUMBERS = r"[\da-f.,]*\d[\da-f.,]*"
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

    def __str__(self) -> str:
        return f"{self.kind} {self.identity}"

    @property
    def leads_to(self) -> str | None:
        """The pattern of what must be seen after it; None where no row of the table names it."""
        places = (
            to for pattern, to in LEADS_TO.items() if re.fullmatch(pattern, str(self))
        )
        return next(places, "" if self.kind in FREE else None)


def listed(page) -> list[Control]:
    """What can be pressed now."""
    goal = dict(parse_qsl(urlsplit(page.url).query)).get("goal", "")
    return [
        Control(
            kind,
            f"{re.sub(NUMBERS, '#', identity)} {goal * (kind == 'button')}".strip(),
            name,
        )
        for kind, identity, name in page.evaluate(LIST, urlsplit(page.url).path == MENU)
    ]


def place(address: str) -> tuple[str, ...]:
    """What an address shows: page, run and view. Other views are walked by themselves."""
    page = urlsplit(address).path
    query = dict(parse_qsl(urlsplit(address).query))
    return page, *(query.get(name, "") for name in ("run", "view", "goal", "blind"))


def when(control: Control) -> int:
    """When it is pressed: choices after buttons and fields, then what leaves the page, then what
    takes away.
    """
    usual = {"select": 1, "switch": 1, "link": 2}.get(control.kind, 0)
    return next(
        (
            late
            for pattern, late in LATE
            if re.match(pattern, control.identity, re.IGNORECASE)
        ),
        usual,
    )


def settled(page) -> None:
    """Wait until the script has run and all is drawn; it begins a moment after what caused it.

    Not for long, once the script has run: on a busy machine a page with timers never rests.
    """
    page.wait_for_selector("h1.sd-opening, [data-testid=stException]")
    page.wait_for_selector("[data-test-script-state=notRunning]")
    page.evaluate(SETTLED, 5000)


class Walk:
    """A walk over one page, which prints what it presses and sees. known: what was pressed. gone:
    what could not be.

    wrong: a sentence for each control that did not lead to what it must.

    A control is found again by the address where it appeared and by what opened it there, its path.
    """

    def __init__(self, page) -> None:
        self.page = page
        self.known = set[Control]()
        self.gone = set[Control]()
        self.wrong: list[str] = []
        self.files: list[str] = []

    def all(self, address: str) -> None:
        """Press everything new at an address, and everything that appears."""
        page = self.page
        page.goto(address)
        settled(page)
        self.home = place(page.url)
        self.ended = False
        todo = [(page.url, [], control) for control in listed(page)]
        while todo:
            todo.sort(key=lambda step: when(step[2]))
            address, path, control = todo.pop(0)
            if control in self.known:
                continue
            before = self.press(address, path, control)
            if place(page.url) == self.home:
                opened = control.kind in OPENS and page.url == before
                again = [*path, control] if opened else path
                waiting = {control for _, _, control in todo} | self.known
                todo = [
                    (page.url, again, new) for new in listed(page) if new not in waiting
                ] + todo

    def press(self, address: str, path: list[Control], control: Control) -> str:
        """Press it, and look: where it is in view, else once its path is pressed, else on a new
        page.

        A press may be lost while a page is drawn. Returns the address where it was.
        """
        page = self.page
        seen = ""
        to = control.leads_to
        for _ in range(2):
            if place(page.url) != self.home:
                page.go_back()
                settled(page)
        for attempt in range(3):
            if attempt == 2 or place(page.url) != self.home:
                page.goto(address)
                settled(page)
            for step in path if attempt else ():
                if (element := self.find(step)) and not element.evaluate(IS_OPEN):
                    self.touch(element, step)
            before = page.url
            element = self.find(control)
            if path and attempt and not element:
                page.wait_for_timeout(500)  # What opens may be drawn a moment later.
                element = self.find(control)
            seen = self.touch(element, control) if element else ""
            if element and (
                control.kind in FREE or to is None or (seen and re.search(to, seen))
            ):
                break
            if self.ended and not element:
                break
        assert page.get_by_test_id("stException").all_inner_texts() == [], (
            f"{control} on {address}"
        )
        if element is None:
            if not self.ended:
                self.gone.add(control)
            return before
        print(
            f"  {control.kind:8} {control.identity[:40]:40} | {control.name[:40]:40} {seen[:150]!r}"
        )
        if to is None:
            self.wrong.append(
                f"“{control}” is new: LEADS_TO must say what it leads to. Seen: {seen[:300]!r}"
            )
        elif control.kind not in FREE and not (seen and re.search(to, seen)):
            self.wrong.append(
                f"“{control}” at {address} must lead to {to!r}, and led to {seen[:300]!r}"
            )
        if page.evaluate(CUT):
            self.wrong.append(f"The window of “{control}” at {address} is cut off")
        self.known.add(control)
        self.gone.discard(control)
        self.ended = self.ended or when(control) > 2
        return before

    def find(self, control: Control):
        """The element of a control; None where it is not there."""
        places = [
            i for i, present in enumerate(listed(self.page)) if present == control
        ]
        return (
            self.page.locator(f'[data-control="{places[0]}"]').first if places else None
        )

    def touch(self, element, control: Control) -> str:
        """Press or fill it. Returns what is seen then."""
        before = self.page.evaluate(LOOK)
        n_files = len(self.files)
        match control.kind:
            case "text" | "number":
                element.fill(FIELDS[control.kind])
                # What stands in a form is sent by its button.
                element.press(
                    "Tab"
                    if element.evaluate("e => e.closest('[data-testid=stForm]')")
                    else "Control+Enter"
                )
            case "select":
                for key in ("ArrowDown", "ArrowDown", "Enter"):
                    element.press(key)
            case "help":
                _open_help(element)
            case "switch":
                element.press("Space")
            case "file":
                element.set_input_files(FILE)
            case "link" | "part" | "button" | "download":
                element.press("Enter")
        until = time.monotonic() + (2 if control.kind in FREE else 10)
        while time.monotonic() < until:
            settled(self.page)
            seen = (
                self.files[n_files]
                if len(self.files) > n_files
                else self.seen(before, control)
            )
            if seen and re.search(control.leads_to or "", seen):
                break
            if control.kind == "help" and element.count():
                # A page that was drawn again meanwhile has closed it.
                _open_help(element)
        return seen

    def seen(self, before: list[str], control: Control) -> str:
        """What a press changed, in a few words; of a download only its file counts."""
        page = self.page
        after = self.page.evaluate(LOOK)
        if control.kind == "download" or (
            after[:3] == before[:3] and after[3] in before[3]
        ):
            return ""
        lines = (
            tuple(filter(str.strip, "\n".join(look[1::2]).split("\n")))
            for look in (before, after)
        )
        changed = " ".join(
            line
            for line in unified_diff(*lines, n=0)
            if line[:2] not in ("++", "--", "@@")
        )
        if after[0] != before[0]:
            sentence = " ".join(page.locator("h1.sd-opening").all_inner_texts())
            changed = f"/{after[0].partition('//')[2].partition('/')[2]}: {sentence} {changed}"
        return changed or "the same words in another state"


def _open_help(element) -> None:
    """Show what a question mark says. One that has the focus already opens nothing."""
    element.blur()
    element.focus()


RACE = replace(
    specimens.SETTINGS,
    methods=tuple(map(method_named, ("best", "least-squares", "random"))),
)
PART = replace(specimens.SETTINGS, sparsities_permille=(100, 250, 400))
WAITING = [
    replace(specimens.SETTINGS, sparsities_permille=(permille,))
    for permille in (600, 700)
]


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    return start_server(
        tmp_path_factory.mktemp("controls") / "data",
        SPARSEDASH_WORKERS="0",
        HF_HUB_OFFLINE="1",
    )


@pytest.fixture
def filled(server):
    """A server, without workers, on a folder with runs and jobs of every kind."""
    backend = FilledBackend(server.folder)
    sweep, race, search = (
        backend.add_run(specimen)
        for specimen in (specimens.run(), specimens.run(RACE), specimens.search())
    )
    part = backend.add_run(
        specimens.run(
            PART,
            finished=False,
            n_sparse=1,
        )
    )
    requests = [
        (sweep.settings, "done"),
        (RACE, "done"),
        (search.find, "done"),
        (PART, "crashed"),
        (WAITING[0], "failed"),
    ]
    requests += [(settings, "queued") for settings in WAITING]
    why = {
        "error_text": "The model cannot be reached.",
        "error_advice": "Name a local folder.",
    }
    backend.set_jobs(
        *(
            job(
                settings,
                state,
                id=i,
                **(why if state in ("failed", "crashed") else {}),
            )
            for i, (settings, state) in enumerate(requests, 1)
        )
    )
    backend.close()
    server.runs = {
        "sweep": sweep.key,
        "race": race.key,
        "search": search.key,
        "part": part.key,
    }
    return server


STREAMLITS_OWN = "in _reset_triggers"
"""Streamlit's own, seen once in some fifty walks: each script of a session locks its state by
itself, so that one which begins may count its widgets while the last one of a page that was left
still takes some away. The page is drawn again.
"""
PAGES = {
    "settings": ("settings",),
    "models": ("models?run={sweep}",),
    "overview": ("", "?run={race}", "?run={search}", "?run={part}"),
    "prune": ("prune", "prune?goal=Prune+to+chosen+sparsities", "prune?view=published"),
    "runs": (
        "runs",
        "runs?chosen={race:.16}&chosen={sweep:.16}&together=1",
        "runs?view=jobs",
    ),
    "compare": ("compare?run={sweep}",),
    "blind and layers": (
        "compare?run={sweep}&blind=true",
        "compare?run={sweep}&view=layers",
    ),
}
"""The addresses under which a page shows all its controls."""


@pytest.mark.parametrize("name", PAGES)
def test_every_control_does_something_and_nothing_raises(name, page, filled):
    walk = Walk(page)
    keep = lambda taken: walk.files.append(taken.suggested_filename)  # noqa: E731
    page.on("download", keep)
    for address in PAGES[name]:
        print(f"\n{address or 'overview'}")
        walk.all(f"{filled.address}/{address.format(**filled.runs)}")
    page.remove_listener("download", keep)
    assert not walk.wrong, "\n".join(walk.wrong)
    assert not walk.gone, "these were shown, and could not be pressed"
    _, *raised = filled.log.read_text().split("Traceback")
    assert [error for error in raised if STREAMLITS_OWN not in error] == []


def test_a_timer_that_brings_the_address_from_before_a_choice_does_not_take_it_back(
    open_page, filled
):
    """The browser hears nothing of the choice until the server has answered a timer too."""
    page = open_page()
    messages = []
    holding = False

    def between(socket):
        server = socket.connect_to_server()
        server.on_message(
            lambda message: (
                messages.append(ForwardMsg.FromString(message))
                if holding
                else socket.send(message)
            )
        )

    page.route_web_socket("**/_stcore/stream", between)
    page.goto(filled.address)
    settled(page)
    press(page, "Measure and axes")
    field = page.get_by_label("Plot loss against")
    holding = True
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        field.press(key)
    after: list[ForwardMsg] = []
    # The run of the choice ends, then that of a timer.
    while [message.WhichOneof("type") for message in after].count(
        "script_finished"
    ) < 2:
        page.wait_for_timeout(50)
        after = list(
            dropwhile(
                lambda message: message.WhichOneof("type") != "page_info_changed",
                messages,
            )
        )
    requests = [
        message.page_info_changed.query_string
        for message in after
        if message.WhichOneof("type") == "page_info_changed"
    ]
    assert set(requests) == {"against=writing"}


def choose_until(page, title: str, choice: str) -> None:
    """Choose in a list until the address has the choice.

    A list that a rerun closes takes no key: it is opened again.
    """
    for _ in range(6):
        for key in ("ArrowDown", "ArrowDown", "Enter"):
            page.get_by_role("combobox", name=title).press(key)
        settled(page)
        if choice in page.url:
            return


def test_choices_one_after_another_all_reach_the_address(filled, page):
    page.goto(f"{filled.address}/prune")
    settled(page)
    page.locator("summary").filter(has_text="Texts and tasks").press("Enter")
    settled(page)
    choose_until(page, "Calibration text", "calibration=")
    page.locator("summary").filter(has_text="To repeat a paper").press("Enter")
    settled(page)
    choose_until(page, "Token weights", "weights=")
    page.get_by_role("switch", name="Pack the documents into full samples").press(
        "Space"
    )
    page.wait_for_function("location.search.includes('packed=')")
    settled(page)
    assert dict(parse_qsl(urlsplit(page.url).query)).keys() == {
        "calibration",
        "weights",
        "packed",
    }


def test_a_number_of_ones_own_method_reaches_the_address_after_the_field_above_it_went(
    filled, page
):
    # A list that a rerun closes takes no key: it is opened again.
    for _ in range(6):
        page.goto(
            f"{filled.address}/prune?own=true&saliency=random&allocation=curves&curve_levels=6"
        )
        settled(page)
        for key in ("ArrowUp", "ArrowUp", "Enter"):
            page.get_by_role("combobox", name="Saliency").press(key)
        settled(page)
        if "saliency=obs" in page.url:
            break
    levels = page.get_by_role("spinbutton", name="Levels")
    levels.fill("7")
    levels.press("Enter")
    page.wait_for_function("location.search.includes('curve_levels=7')")
    requests = dict(parse_qsl(urlsplit(page.url).query))
    assert requests == {
        "allocation": "curves",
        "curve_levels": "7",
        "own": "true",
        "saliency": "obs",
    }
