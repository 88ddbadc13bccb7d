"""What the pictures of the benchmarks are drawn from."""

INK, PAPER, GRID = "#22262b", "#fcfbf8", "#e7e4db"
COLOURS = ("#9a9fa8", "#c2571a", "#0b7a5b", "#2f5d9b", INK)
DASHES = ("2 3", "6 4", "", "10 3 2 3", "")


def document(width, height, title, drawn):
    """A whole SVG of these parts on paper. title: what a reader of the page hears."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        f'fill="{INK}"><title>{title}</title>\n'
        + "\n".join([f'<rect width="{width}" height="{height}" fill="{PAPER}"/>', *drawn])
        + "\n</svg>\n"
    )


def text(x, y, words, anchor="start", size=12):
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def line(x1, y1, x2, y2, colour=GRID, more=""):
    """A straight line. more: further attributes."""
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def curve(points, number, title):
    """The points joined, in the number's own colour and dashes."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{joined}" fill="none" stroke="{COLOURS[number]}" stroke-width="2" '
        f'stroke-dasharray="{DASHES[number]}"><title>{title}</title></polyline>'
    )


def legend(titles, left, y, apart=150):
    """What each number's curve is, from left to right."""
    drawn = []
    for number, title in enumerate(titles):
        x = left + number * apart
        dashes = f' stroke-width="2" stroke-dasharray="{DASHES[number]}"'
        drawn += [line(x, y - 4, x + 28, y - 4, COLOURS[number], dashes), text(x + 34, y, title, size=13)]
    return drawn
