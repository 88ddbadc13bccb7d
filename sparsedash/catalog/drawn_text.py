"""Calibration documents drawn from a seed: sums and counting, copies and lists, worked examples,
code, tables and JSON.

None of them has the format of a built-in task, which tests/catalog/test_mixed_text.py holds.
"""

import json
from collections.abc import Callable, Sequence
from random import Random

_PEOPLE = (
    "Ada",
    "Bilal",
    "Chen",
    "Dora",
    "Emil",
    "Farah",
    "Goran",
    "Hana",
    "Ivo",
    "Jana",
    "Kofi",
    "Lena",
    "Milo",
    "Nora",
)
_THINGS = (
    *(
        "pencils",
        "coins",
        "eggs",
        "tickets",
        "shells",
        "plates",
        "stamps",
        "bricks",
        "seeds",
        "socks",
        "marbles",
    ),
    *(
        "letters",
        "bottles",
        "books",
        "nails",
        "cakes",
        "photos",
        "keys",
        "rings",
        "boxes",
    ),
)
_ADJECTIVES = (
    "old",
    "quiet",
    "broken",
    "purple",
    "narrow",
    "heavy",
    "gentle",
    "bright",
    "frozen",
    "hollow",
    "patient",
)
_NOUNS = (
    *(
        "harbour",
        "teacher",
        "engine",
        "kettle",
        "meadow",
        "sailor",
        "trumpet",
        "wagon",
        "compass",
        "orchard",
        "lantern",
    ),
    *(
        "pillow",
        "shovel",
        "pigeon",
        "cellar",
        "blanket",
        "captain",
        "barrel",
        "saddle",
        "anchor",
        "curtain",
        "thimble",
    ),
)
_VERBS = (
    "follows",
    "carries",
    "watches",
    "repairs",
    "paints",
    "forgets",
    "answers",
    "covers",
    "remembers",
    "counts",
)
_PLACES = (
    "Harlow",
    "Brenn",
    "Ostend",
    "Kilmory",
    "Tessel",
    "Varna",
    "Lindum",
    "Corvo",
    "Askeby",
    "Morwen",
    "Juno",
    "Pell",
)
_NUMBER_WORDS = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *(
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ),
)
_STEPS = {
    1: "ones",
    2: "twos",
    3: "threes",
    4: "fours",
    5: "fives",
    10: "tens",
    20: "twenties",
    25: "twenty-fives",
}
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def _added_things(random: Random) -> str:
    person = random.choice(_PEOPLE)
    thing = random.choice(_THINGS)
    first = random.randint(1, 30)
    second = random.randint(1, 20)
    return f"{person} has {first} {thing} and gets {second} more. Now {person} has {first + second} {thing}."


def _taken_things(random: Random) -> str:
    person = random.choice(_PEOPLE)
    thing = random.choice(_THINGS)
    first = random.randint(5, 40)
    second = random.randint(1, first)
    return f"There were {first} {thing}. {person} took {second} of them, so {first - second} were left."


def _pairs(random: Random, n: int, low: int, high: int) -> list[tuple[int, int]]:
    return [(random.randint(low, high), random.randint(low, high)) for _ in range(n)]


def _close_sums(random: Random) -> str:
    return "; ".join(f"{a}+{b}={a + b}" for a, b in _pairs(random, 6, 1, 20))


def _close_differences(random: Random) -> str:
    differences = []
    for _ in range(5):
        a = random.randint(5, 40)
        b = random.randint(1, a)
        differences.append(f"{a}-{b}={a - b}")
    return " ".join(differences)


def _products(random: Random) -> str:
    factor = random.randint(2, 12)
    first = random.randint(1, 6)
    return (
        ". ".join(
            f"{n} times {factor} is {n * factor}" for n in range(first, first + 5)
        )
        + "."
    )


def _sums_in_words(random: Random) -> str:
    words = _NUMBER_WORDS
    return (
        ", ".join(
            f"{words[a]} plus {words[b]} is {words[a + b]}"
            for a, b in _pairs(random, 4, 0, 10)
        )
        + "."
    )


def _spoken_sums(random: Random) -> str:
    return (
        "; ".join(f"{a} and {b} make {a + b}" for a, b in _pairs(random, 4, 1, 9)) + "."
    )


def _receipt(random: Random) -> str:
    lines = []
    total = 0
    for thing in random.sample(_THINGS, 4):
        cents = random.randint(1, 99) * 5
        total += cents
        lines.append(f"{thing} {cents / 100:.2f}")
    return "\n".join([*lines, f"total {total / 100:.2f}"])


def _counted_up(random: Random) -> str:
    step = random.choice(list(_STEPS))
    first = random.randint(0, 90)
    row = " ".join(str(first + step * i) for i in range(8))
    return f"Counting by {_STEPS[step]} from {first}: {row}"


def _counted_down(random: Random) -> str:
    step = random.choice(list(_STEPS))
    last = random.randint(0, 40)
    row = " ... ".join(str(last + step * i) for i in reversed(range(7)))
    return f"Backwards: {row}"


def _numbered_pages(random: Random) -> str:
    first = random.randint(1, 180)
    step = random.choice((1, 2, 5))
    return "\n".join(f"page {first + step * i}" for i in range(6))


def _sentence(random: Random) -> str:
    subject = f"The {random.choice(_ADJECTIVES)} {random.choice(_NOUNS)}"
    return f"{subject} {random.choice(_VERBS)} the {random.choice(_ADJECTIVES)} {random.choice(_NOUNS)}"


def _code(random: Random) -> str:
    return f"{''.join(random.sample(_LETTERS, 2))}-{random.randint(1000, 9999)}-{''.join(random.sample(_LETTERS, 2))}"


def _copied_sentences(random: Random) -> str:
    sentences = ". ".join(_sentence(random) for _ in range(3)) + "."
    return f"Original: {sentences}\nCopy: {sentences}"


def _copied_codes(random: Random) -> str:
    code = _code(random)
    place = random.choice(_PLACES)
    return f"Parcel {code} left {place} on time. Parcel {code} was signed for by {random.choice(_PEOPLE)}."


def _copied_list(random: Random) -> str:
    things = random.sample(_NOUNS, 5)
    dashes = "\n".join(f"- {thing}" for thing in things)
    return f"{dashes}\nAgain, in the same order:\n{dashes}"


def _copied_words(random: Random) -> str:
    words = " ".join(random.sample((*_NOUNS, *_ADJECTIVES), 6))
    return f'She said "{words}", and he repeated "{words}".'


def _copied_number(random: Random) -> str:
    number = "".join(str(random.randint(0, 9)) for _ in range(random.randint(5, 9)))
    return f"Dial {number}; that is {number}, once more {number}."


def _numbered_list(random: Random) -> str:
    sentences = [_sentence(random) for _ in range(4)]
    return "\n".join(
        f"{number}. {sentence}." for number, sentence in enumerate(sentences, 1)
    )


def _repeated_pair(random: Random) -> str:
    pairs = list(zip(random.sample(_PEOPLE, 4), random.sample(_NOUNS, 4), strict=True))
    owners = " ".join(f"{person} owns the {noun}." for person, noun in pairs)
    person, noun = random.choice(pairs)
    return f"{owners} So the {noun} belongs to {person}."


def _row(random: Random) -> dict[str, str | int | float]:
    return {
        "id": random.randint(100, 999),
        "owner": random.choice(_PEOPLE),
        "place": random.choice(_PLACES),
        "item": random.choice(_NOUNS),
        "weight": random.randint(1, 400) / 10,
    }


def _rows(random: Random) -> list[dict[str, str | int | float]]:
    return [_row(random) for _ in range(random.randint(3, 5))]


def _csv(random: Random) -> str:
    rows = _rows(random)
    lines = [",".join(map(str, row.values())) for row in rows]
    return "\n".join([",".join(rows[0]), *lines])


def _markdown_table(random: Random) -> str:
    rows = _rows(random)
    lines = ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    return "\n".join(
        ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]), *lines]
    )


def _json_lines(random: Random) -> str:
    return "\n".join(json.dumps(row) for row in _rows(random))


def _json_document(random: Random) -> str:
    rows = _rows(random)[:2]
    document = {
        "source": random.choice(_PLACES),
        "count": len(rows),
        "rows": rows,
        "closed": random.random() < 0.5,
    }
    return json.dumps(document, indent=2)


_JSON_FORMS = (
    '{{"{a}": [{x}, {y}], "{b}": {{"{c}": {z}}}}}',
    '{{"{a}": {x}, "{b}": [{y}, "{c}", {z}]}}',
    '[{{"{a}": {x}}}, {{"{a}": {y}}}, {{"{a}": {z}}}]',
    '{{"{a}": {{"{b}": {{"{c}": {x}}}}}}}',
    "[[{x}, {y}], [{z}, {x}], []]",
    '{{"{a}": ["{b}", "{c}"]}}',
)


def _json_values(random: Random) -> str:
    """Nested values of one form, a line each."""
    form = random.choice(_JSON_FORMS)
    lines = []
    for _ in range(4):
        names = dict(zip("abc", _words(random, 3), strict=True))
        numbers = {name: random.randint(100, 999) for name in "xyz"}
        lines.append(form.format(**names, **numbers))
    return "\n".join(lines)


def _settings_file(random: Random) -> str:
    lines = [f"[{random.choice(_NOUNS)}]"]
    lines += [f"{key} = {value}" for key, value in _row(random).items()]
    return "\n".join(lines)


def _yaml(random: Random) -> str:
    lines = ["items:"]
    for row in _rows(random):
        lines += [
            f"  - item: {row['item']}",
            f"    owner: {row['owner']}",
            f"    weight: {row['weight']}",
        ]
    return "\n".join(lines)


def _log(random: Random) -> str:
    minute = random.randint(0, 40)
    lines = []
    for number in range(5):
        time = f"{random.randint(0, 23):02}:{minute + number:02}:{random.randint(0, 59):02}"
        lines.append(
            f"{time} INFO {random.choice(_NOUNS)}: {random.randint(1, 500)} rows from {random.choice(_PLACES)}"
        )
    return "\n".join(lines)


_ARROWS = (" -> ", " => ", ": ", " | ", " becomes ", " gives ", "\t", " — ", ", so ")
_OPENINGS = ("", "", "- ", "* ", "> ", "Input ", "case ", "entry ")


def _words(random: Random, n: int) -> list[str]:
    return random.sample((*_NOUNS, *_ADJECTIVES), n)


def _same(random: Random) -> tuple[str, str]:
    words = " ".join(_words(random, random.randint(1, 5)))
    return words, words


def _upper_case(random: Random) -> tuple[str, str]:
    (word,) = _words(random, 1)
    return word, word.upper()


def _capital_letter(random: Random) -> tuple[str, str]:
    words = " ".join(_words(random, 2))
    return words, words.title()


def _spelled(random: Random) -> tuple[str, str]:
    (word,) = _words(random, 1)
    return word, "-".join(word)


def _thrice(random: Random) -> tuple[str, str]:
    (word,) = _words(random, 1)
    return word, f"{word}, {word}, {word}"


def _swapped(random: Random) -> tuple[str, str]:
    first, second = _words(random, 2)
    return f"{first} {second}", f"{second} {first}"


def _opening_item(random: Random) -> tuple[str, str]:
    words = _words(random, random.choice((3, 4)))
    return f"[{'; '.join(words)}]", words[0]


def _closing_item(random: Random) -> tuple[str, str]:
    words = _words(random, random.choice((3, 4)))
    return f"({' / '.join(words)})", words[-1]


def _next_number(random: Random) -> tuple[str, str]:
    number = random.randint(1, 998)
    return str(number), str(number + 1)


def _doubled(random: Random) -> tuple[str, str]:
    number = random.randint(1, 50)
    return str(number), str(2 * number)


def _number_in_words(random: Random) -> tuple[str, str]:
    number = random.randrange(len(_NUMBER_WORDS))
    return str(number), _NUMBER_WORDS[number]


def _digits(random: Random) -> tuple[str, str]:
    number = "".join(str(random.randint(0, 9)) for _ in range(random.randint(4, 9)))
    return number, number


_RELATIONS = (
    (
        "tall taller",
        "small smaller",
        "old older",
        "fast faster",
        "warm warmer",
        "deep deeper",
        "clean cleaner",
    ),
    (
        "gold Au",
        "iron Fe",
        "silver Ag",
        "copper Cu",
        "lead Pb",
        "oxygen O",
        "sodium Na",
        "tin Sn",
        "carbon C",
    ),
    (
        "dog puppy",
        "cat kitten",
        "cow calf",
        "horse foal",
        "sheep lamb",
        "hen chick",
        "goose gosling",
        "swan cygnet",
    ),
    (
        "Spain Spanish",
        "Poland Polish",
        "Greece Greek",
        "Sweden Swedish",
        "Japan Japanese",
        "Italy Italian",
    ),
    (
        "teach teacher",
        "bake baker",
        "paint painter",
        "drive driver",
        "sing singer",
        "write writer",
        "farm farmer",
    ),
    (
        "quick quickly",
        "slow slowly",
        "careful carefully",
        "loud loudly",
        "gentle gently",
        "easy easily",
    ),
    (
        "written write",
        "spoken speak",
        "broken break",
        "chosen choose",
        "frozen freeze",
        "stolen steal",
    ),
    (
        "bakery bread",
        "library books",
        "garage cars",
        "stable horses",
        "pharmacy medicine",
        "harbour ships",
    ),
    (
        "Milan Italy",
        "Lyon France",
        "Osaka Japan",
        "Munich Germany",
        "Porto Portugal",
        "Seville Spain",
        "Mumbai India",
    ),
    (
        "Toronto Canada",
        "Sydney Australia",
        "Istanbul Turkey",
        "Shanghai China",
        "Mombasa Kenya",
        "Lagos Nigeria",
    ),
    (
        "Gothenburg Sweden",
        "Bergen Norway",
        "Aarhus Denmark",
        "Turku Finland",
        "Gdansk Poland",
        "Salzburg Austria",
    ),
    (
        "Alexandria Egypt",
        "Casablanca Morocco",
        "Cusco Peru",
        "Guayaquil Ecuador",
        "Medellin Colombia",
        "Basra Iraq",
    ),
    (
        "Thessaloniki Greece",
        "Cork Ireland",
        "Antwerp Belgium",
        "Odesa Ukraine",
        "Debrecen Hungary",
        "Karachi Pakistan",
    ),
    (
        "France euro",
        "Japan yen",
        "India rupee",
        "Mexico peso",
        "Sweden krona",
        "Poland zloty",
        "Thailand baht",
    ),
    (
        "Brazil Portuguese",
        "Austria German",
        "Egypt Arabic",
        "Chile Spanish",
        "Iran Persian",
        "Kenya Swahili",
    ),
    (
        "large big",
        "rapid quick",
        "chilly cold",
        "wealthy rich",
        "joyful glad",
        "silent mute",
        "damp moist",
        "tiny little",
    ),
    (
        "finger hand",
        "petal flower",
        "wheel car",
        "page book",
        "branch tree",
        "roof house",
        "sleeve coat",
        "key piano",
    ),
)
_INSTRUCTIONS: tuple[tuple[str, Callable[[str, str, str], str]], ...] = (
    ("Pick the final word from {a}, {b}, {c}.", lambda a, b, c: c),
    ("Which of {a}, {b}, {c} is mentioned first?", lambda a, b, c: a),
    ("Take the middle one: {a}; {b}; {c}.", lambda a, b, c: b),
    ("What does the row {a} {b} {c} end with?", lambda a, b, c: c),
    ("Which was said last, {a}, {b} or {c}?", lambda a, b, c: c),
    ("From {a}, {b} and {c} take the final one.", lambda a, b, c: c),
    ("{a} came in, then {b}, then {c}. Who was last?", lambda a, b, c: c),
    ("What does the row {a} {b} {c} begin with?", lambda a, b, c: a),
    ("Put {a} into upper case.", lambda a, b, c: a.upper()),
    ("Shout: {a} {b}!", lambda a, b, c: f"{a} {b}!".upper()),
    ("Repeat exactly: {a} {b} {c} {b}.", lambda a, b, c: f"{a} {b} {c} {b}"),
    ("Write {a} three times.", lambda a, b, c: f"{a} {a} {a}"),
    ("Swap {a} and {b}.", lambda a, b, c: f"{b} and {a}"),
    ("How many letters are in {a}?", lambda a, b, c: str(len(a))),
    ("Join {a} and {b} with a plus sign.", lambda a, b, c: f"{a}+{b}"),
    ("Put {b} in brackets.", lambda a, b, c: f"({b})"),
)
_OPERATIONS = (
    *(
        _same,
        _upper_case,
        _capital_letter,
        _spelled,
        _thrice,
        _swapped,
        _opening_item,
        _closing_item,
        _next_number,
    ),
    *(_doubled, _number_in_words, _digits, None, None),
)
"""None: a relation between words."""


def _worked_examples(random: Random) -> str:
    """Lines in one form that all follow one rule."""
    operation = random.choice(_OPERATIONS)
    if operation is None:
        pairs = [
            tuple(pair.split()) for pair in random.sample(random.choice(_RELATIONS), 5)
        ]
    else:
        pairs = [operation(random) for _ in range(random.randint(4, 6))]
    opening = random.choice(_OPENINGS)
    arrow = random.choice(_ARROWS)
    closing = random.choice(("", "", ".", ";"))
    return "\n".join(
        f"{opening}{source}{arrow}{result}{closing}" for source, result in pairs
    )


def _followed_instructions(random: Random) -> str:
    """Lines that all follow one instruction."""
    instruction, answer = random.choice(_INSTRUCTIONS)
    between = random.choice((" ", " Answer: ", "\n", " -> "))
    lines = []
    for _ in range(random.randint(3, 5)):
        a, b, c = _words(random, 3)
        lines.append(f"{instruction.format(a=a, b=b, c=c)}{between}{answer(a, b, c)}")
    return "\n".join(lines)


_CALLS = (
    "scale",
    "turn",
    "load",
    "merge",
    "trim",
    "fold",
    "pick",
    "send",
    "draw",
    "join",
    "split",
    "mark",
)
_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))


def _nested_calls(random: Random) -> str:
    """Lines of code in one form, with nested brackets."""
    depths = [random.choice(_BRACKETS) for _ in range(random.randint(1, 3))]
    lines = []
    for _ in range(4):
        inside = ", ".join(_words(random, random.choice((1, 2))))
        for opened, closed in depths:
            name = random.choice(_CALLS) if opened == "(" else ""
            inside = f"{name}{opened}{inside}{closed}"
        lines.append(f"{random.choice(_CALLS)}({inside})")
    return "\n".join(lines)


def _short_functions(random: Random) -> str:
    """Functions in one form."""
    operator = random.choice(("//", "%", "/", "**", "and", "or"))
    functions = []
    for _ in range(3):
        name = random.choice(_CALLS)
        argument, result = random.sample(_NOUNS, 2)
        lines = [f"def {name}_{argument}(self, {argument}):"]
        lines += [f"    if not {argument}:", "        return None"] * random.choice(
            (0, 1)
        )
        lines += [
            f"    {result} = self.{argument} {operator} {argument}",
            f"    return {result}",
        ]
        functions.append("\n".join(lines))
    return "\n\n".join(functions)


def _markup(random: Random) -> str:
    """Nested elements."""
    names = random.sample(_NOUNS, 3)
    lines = [f"<{names[0]}>"]
    for _ in range(3):
        inside = f"<{names[2]}>{random.choice(_ADJECTIVES)}</{names[2]}>"
        lines.append(f"  <{names[1]} id={random.randint(1, 99)}>{inside}</{names[1]}>")
    return "\n".join([*lines, f"</{names[0]}>"])


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _diary(random: Random) -> str:
    """Days that follow each other, each with an entry."""
    day = random.randrange(7)
    number = random.randint(1, 24)
    lines = []
    for ahead in range(4):
        lines.append(
            f"{_DAYS[(day + ahead) % 7]} {number + ahead}.: {_sentence(random)}"
        )
    return "\n".join(lines)


def _lettered_list(random: Random) -> str:
    """Items with letters."""
    words = _words(random, random.randint(4, 7))
    return "\n".join(
        f"{letter}) {word}" for letter, word in zip("abcdefg", words, strict=False)
    )


Draw = Callable[[Random], str]

SUMS: Sequence[Draw] = (
    *(
        _added_things,
        _taken_things,
        _close_sums,
        _close_differences,
        _products,
        _sums_in_words,
        _spoken_sums,
    ),
    *(_receipt, _counted_up, _counted_down, _numbered_pages),
)
COPIES: Sequence[Draw] = (
    *(
        _copied_sentences,
        _copied_codes,
        _copied_list,
        _copied_words,
        _copied_number,
        _numbered_list,
        _repeated_pair,
    ),
)
EXAMPLES: Sequence[Draw] = (
    *(_worked_examples, _worked_examples, _worked_examples, _worked_examples),
    *(_followed_instructions, _followed_instructions, _diary, _lettered_list),
)
STRUCTURES: Sequence[Draw] = (
    _nested_calls,
    _nested_calls,
    _short_functions,
    _short_functions,
    _markup,
)
TABLES: Sequence[Draw] = (
    _csv,
    _markdown_table,
    _json_lines,
    _json_values,
    _json_values,
    _json_document,
    _settings_file,
    _yaml,
    _log,
)


def draw_document(draws: Sequence[Draw], random: Random, n_characters: int) -> str:
    """A document of pieces in these forms, of at least so many characters."""
    pieces: list[str] = []
    while sum(map(len, pieces)) < n_characters:
        pieces.append(random.choice(draws)(random))
    return "\n\n".join(pieces)
