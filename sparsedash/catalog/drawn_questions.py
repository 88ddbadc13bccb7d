"""Questions of the built-in tasks: each function draws one question, with examples before it, and its
only answer.
"""

import csv
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

_FACTS = Path(__file__).parent / "texts" / "facts.csv"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = (
    *(
        "apple",
        "basket",
        "bread",
        "bridge",
        "button",
        "candle",
        "chair",
        "cloud",
        "forest",
        "garden",
    ),
    *("lemon", "mirror", "paper", "river", "stone", "window"),
)
_MORE_WORDS = (
    *(
        "garden",
        "winter",
        "silver",
        "flower",
        "doctor",
        "letter",
        "market",
        "summer",
        "window",
        "kitchen",
        "mountain",
    ),
    *(
        "orange",
        "yellow",
        "pencil",
        "rabbit",
        "planet",
        "castle",
        "dragon",
        "island",
        "turtle",
        "hammer",
        "ladder",
    ),
    *("button", "guitar", "violin", "carpet", "cheese", "tunnel", "forest", "pocket"),
)
_VARIABLES = (
    *(
        "count",
        "total",
        "price",
        "width",
        "height",
        "depth",
        "speed",
        "level",
        "score",
        "index",
        "limit",
        "offset",
    ),
    *("weight", "length", "start", "stop"),
)
_FUNCTIONS = (
    "len",
    "max",
    "min",
    "sum",
    "abs",
    "sorted",
    "print",
    "str",
    "int",
    "list",
    "tuple",
    "set",
    "round",
)
_NAMES = (
    "Anna",
    "Boris",
    "Clara",
    "David",
    "Elena",
    "Felix",
    "Greta",
    "Henry",
    "Irene",
    "Jonas",
    "Karin",
    "Lukas",
)
_FIELDS: dict[str, Sequence[str]] = {
    "name": _NAMES,
    "city": (
        "Oslo",
        "Rome",
        "Paris",
        "Berlin",
        "Madrid",
        "Vienna",
        "Lisbon",
        "Dublin",
        "Athens",
        "Prague",
    ),
    "color": ("red", "blue", "green", "white", "black"),
    "group": "ABCDEF",
    **dict.fromkeys(("age", "size", "price", "year"), ()),
}
"""Names of JSON fields and their possible values; of those without any, whole numbers."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *(
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
    ),
    "December",
)
_PAIRS = list(product(range(1, 10), repeat=2))

Question = tuple[str, str]
"""What is read, and the answer that must follow it."""

Draw = Callable[[Random], Question]


def a_sum(random: Random) -> Question:
    """The sum of two digits, after three others."""
    *examples, (a, b) = random.sample(_PAIRS, 4)
    return "".join(
        f"{x} + {y} = {x + y}\n" for x, y in examples
    ) + f"{a} + {b} =", f" {a + b}"


def counting_on(random: Random) -> Question:
    """The next number of a row."""
    first = random.randint(1, 80)
    step = random.choice((1, 2, 3, 5, 10))
    return ", ".join(
        str(first + step * i) for i in range(5)
    ) + ",", f" {first + step * 5}"


def words_again(random: Random) -> Question:
    """Four words again, after two examples."""
    return _again([" ".join(random.sample(_WORDS, 4)) for _ in range(3)])


def digits_again(random: Random) -> Question:
    """Eight digits again, after an example."""
    return _again([_digits(random), _digits(random)])


def _digits(random: Random) -> str:
    return "".join(str(random.randint(0, 9)) for _ in range(8))


def _again(lines: list[str]) -> Question:
    *examples, last = lines
    return "".join(f"{line} = {line}\n" for line in examples) + f"{last} =", f" {last}"


_NESTED = (
    ("{f}({g}({a}, {b}", "))"),
    ("{f}({a}[{g}({b}", ")])"),
    ("[{f}({a}), {g}({b}", ")]"),
    ("{f}([{a}, {b}", "])"),
    ("{f}({a}, [{g}({b}", ")])"),
)


def closing_brackets(random: Random) -> Question:
    """The brackets that close a line of code, after two lines of the same form."""
    opened, closed = random.choice(_NESTED)
    lines = []
    for _ in range(3):
        a, b = random.sample(_VARIABLES, 2)
        f, g = random.sample(_FUNCTIONS, 2)
        lines.append(opened.format(a=a, b=b, f=f, g=g))
    first, second, last = lines
    return f"{first}{closed}\n{second}{closed}\n{last}", closed


def indentation(random: Random) -> Question:
    """The indented last line of a function, after a function of the same form."""
    operator = random.choice("+-*")
    functions = []
    for _ in range(2):
        name, argument, result = random.sample(_VARIABLES, 3)
        body = f"    {result} = {argument} {operator} {random.randint(2, 9)}\n"
        functions.append(
            (f"def {name}_of({argument}):\n{body}", f"    return {result}")
        )
    (first, returned), (second, answer) = functions
    return f"{first}{returned}\n\n{second}", answer


def json_keys(random: Random) -> Question:
    """The next key of a JSON object, after two objects with the same keys."""
    keys = random.sample(list(_FIELDS), 3)
    objects = []
    for _ in range(3):
        objects.append([f'"{key}": {_json_value(key, random)}' for key in keys])
    first, second = ("{" + ", ".join(fields) + "}" for fields in objects[:2])
    third = "{" + ", ".join(objects[2][:2])
    return f"{first}\n{second}\n{third},", f' "{keys[2]}":'


def _json_value(key: str, random: Random) -> str:
    values = _FIELDS[key]
    return f'"{random.choice(values)}"' if values else str(random.randint(10, 99))


_JSON_ENDS = (
    ('{{"{a}": {x}, "{b}": [{y}, {z}', "]}"),
    ('{{"{a}": {{"{b}": {x}, "{c}": {y}', "}}"),
    ('[{{"{a}": {x}}}, {{"{b}": {y}', "}]"),
)


def json_ends(random: Random) -> Question:
    """The end of a JSON value, after one of the same form."""
    begun, closed = random.choice(_JSON_ENDS)
    keys = dict(zip("abc", random.sample(list(_FIELDS), 3), strict=True))
    values = []
    for _ in range(2):
        numbers = {name: random.randint(1, 99) for name in "xyz"}
        values.append(begun.format(**keys, **numbers))
    first, second = values
    return f"{first}{closed}\n{second}", closed


def alphabet(random: Random) -> Question:
    """The next letter."""
    n_before = random.randint(3, 10)
    first = random.randint(0, 25 - n_before)
    letters = _LETTERS[first : first + n_before + 1]
    if random.random() < 0.5:
        letters = letters.upper()
    return ", ".join(letters[:-1]) + ",", f" {letters[-1]}"


def dates(random: Random) -> Question:
    """The next day, date or month."""
    match random.choice(("month", "row", "iso")):
        case "month":
            month = random.choice(_MONTHS)
            first = random.randint(1, 23)
            row = [f"{day} {month}" for day in range(first, first + 5)]
        case "row":
            names = random.choice((_DAYS, _MONTHS))
            first = random.randrange(len(names))
            row = [names[(first + i) % len(names)] for i in range(random.randint(4, 6))]
        case _:
            month_of_year = f"{random.randint(1990, 2029)}-{random.randint(1, 12):02}"
            first = random.randint(10, 23)
            row = [f"{month_of_year}-{day}" for day in range(first, first + 4)]
    return ", ".join(row[:-1]) + ",", f" {row[-1]}"


def capital(random: Random) -> Question:
    """The capital of a country."""
    return _fact(random, "capital", "The capital of {} is")


def past_tense(random: Random) -> Question:
    """The past tense of a verb."""
    return _fact(random, "past tense", "Today I {}. Yesterday I")


def plural_form(random: Random) -> Question:
    """The plural of a noun."""
    return _fact(random, "plural", "One {}, two")


def opposite(random: Random) -> Question:
    """The opposite of a word."""
    return _fact(random, "opposite", "The opposite of {} is")


def _fact(random: Random, relation: str, asked: str) -> Question:
    *examples, (subject, answer) = random.sample(_facts()[relation], 4)
    lines = [f"{asked.format(example)} {known}.\n" for example, known in examples]
    return "".join(lines) + asked.format(subject), f" {answer}"


@cache
def _facts() -> dict[str, list[tuple[str, str]]]:
    facts: dict[str, list[tuple[str, str]]] = {}
    with _FACTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            facts.setdefault(row["relation"], []).append(
                (row["subject"], row["answer"])
            )
    return facts


def in_capitals(random: Random) -> Question:
    """A word in capital letters."""
    first, second, last = random.sample(_MORE_WORDS, 3)
    examples = [
        f"Write {word} in capital letters: {word.upper()}\n" for word in (first, second)
    ]
    return "".join(examples) + f"Write {last} in capital letters:", f" {last.upper()}"


def said_twice(random: Random) -> Question:
    """A word, twice."""
    first, second, last = random.sample(_MORE_WORDS, 3)
    examples = [f"Say {word} twice: {word} {word}\n" for word in (first, second)]
    return "".join(examples) + f"Say {last} twice:", f" {last} {last}"


def first_named(random: Random) -> Question:
    """The first of three words."""
    return _named(random, "first", 0)


def last_named(random: Random) -> Question:
    """The last of three words."""
    return _named(random, "last", 2)


def _named(random: Random, place: str, index: int) -> Question:
    words = random.sample(_MORE_WORDS, 9)
    lines = []
    for start in (0, 3, 6):
        a, b, c = words[start : start + 3]
        lines.append(f"Name the {place} of {a}, {b} and {c}:")
    first, second, last = lines
    return (
        f"{first} {words[index]}\n{second} {words[3 + index]}\n{last}",
        f" {words[6 + index]}",
    )
