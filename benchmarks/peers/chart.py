"""Bars as SVG: one row of the table, its subjects from best to worst, the spread of the rounds as a thin line."""

from __future__ import annotations

from html import escape

from peers.figures import Row

_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 720, 190, 90, 18, 8, 40
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.t{font-weight:600}.o{fill:#0969da}.p{fill:#8c959f}"
    ".l{fill:none;stroke:#57606a}.s{stroke:#24292f;opacity:.6}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.o{fill:#4493f8}.p{fill:#656c76}.s{stroke:#d1d7e0}}"
)


def bars(row: Row, labels: dict[str, str], limits: tuple[str, ...] = ()) -> str:
    """`limits` are drawn hollow: they do none of a queue's work."""
    names = sorted(row.samples, key=row.median, reverse=row.more_is_better)
    most = max(max(row.samples[name]) for name in names) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height = _TOP + len(names) * (_BAR + _GAP) + 8
    title = f"{row.title}: {row.unit}, {'more' if row.more_is_better else 'less'} is better"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="t" x="8" y="22">{escape(title)}</text>',
    ]
    for index, name in enumerate(names):
        top = _TOP + index * (_BAR + _GAP)
        middle = top + _BAR / 2
        kind = "o" if name == "opusd" else "l" if name in limits else "p"
        length = row.median(name) * scale
        low, high = (_LEFT + bound * scale for bound in (min(row.samples[name]), max(row.samples[name])))
        parts += [
            f'<text x="{_LEFT - 8}" y="{middle + 4.5}" text-anchor="end">{escape(labels.get(name, name))}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2"/>',
            f'<path class="s" d="M{low:.1f} {middle}H{high:.1f}"/>',
            f'<text x="{max(high, _LEFT + length) + 6:.1f}" y="{middle + 4.5}">{figure(row.median(name))}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def figure(value: float) -> str:
    """With three digits that say something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
