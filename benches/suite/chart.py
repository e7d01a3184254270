"""The ratios of the table as an SVG of horizontal bars, on a scale on which half and double are equally far from one."""

import math
from xml.sax.saxutils import escape

WIDTH, LABELS, ROW, HEAD, FOOT = 900, 430, 18, 58, 26
# Beyond these the bars are cut, and the figure says how far.
LOWEST, HIGHEST = 0.125, 8.0
BETTER, WORSE, GREY = "#2f7d4f", "#b3532f", "#777777"


def svg(rows, facts):
    rows = [row for row in rows if row.ratio]
    height = HEAD + ROW * len(rows) + FOOT
    middle = x_of(1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        text(10, 18, "Hakem in relation to PgBouncer", size=14),
        text(10, 34, f"{facts[0]}; {facts[1]}", fill=GREY),
        text(x_of(LOWEST), 34, "green: better for Hakem, red: worse", fill=GREY),
    ]
    for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8):
        at = x_of(tick)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{HEAD - 6}" y2="{height - FOOT}" stroke="{GREY}" '
                     f'stroke-width="{1.5 if tick == 1 else 0.3}"/>')
        parts.append(text(at, height - FOOT + 14, f"{tick:g}", anchor="middle", fill=GREY))
    for number, row in enumerate(rows):
        top = HEAD + ROW * number
        end = x_of(min(max(row.ratio, LOWEST), HIGHEST))
        better = (row.ratio < 1) == (row.better == "lower")
        parts.append(text(LABELS - 10, top + 11, f"{row.workload}: {row.what}", anchor="end"))
        parts.append(f'<rect x="{min(middle, end):.1f}" y="{top + 2}" width="{abs(end - middle):.1f}" height="{ROW - 6}" '
                     f'fill="{BETTER if better else WORSE}"/>')
        inside = end > middle
        parts.append(text(end + (4 if inside else -4), top + 12, f"{row.ratio:.2f}", anchor="start" if inside else "end"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def x_of(ratio):
    share = math.log(ratio / LOWEST) / math.log(HIGHEST / LOWEST)
    return LABELS + 40 + share * (WIDTH - LABELS - 90)


def text(x, y, words, anchor="start", fill="black", size=11):
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{escape(words)}</text>'
