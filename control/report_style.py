"""Pure: how a rollout's report looks: its style sheet, and the patterns that tell things apart without colour."""

from .markup import Markup, tag

# Colours are from the palette of Okabe and Ito, made darker or lighter until text on them has a contrast of 4.5 at least.
_LIGHT = """
  --page: #ffffff; --card: #ffffff; --text: #1a1f26; --quiet: #56606c; --rule: #d8dde3; --soft: #f4f6f8; --shade: #e9edf2;
  --stable: #1f6fb2; --target: #c4560a; --other: #6b5b95; --good: #12703f; --bad: #b3261e; --warn: #8a5a00; --pause: #6f7782;
  --phase0: #44546a; --phase1: #64748a; --on-phase: #ffffff; --part: #1a1f26;
"""
_DARK = """
  --page: #12161c; --card: #171c24; --text: #e7eaee; --quiet: #a4adb8; --rule: #323a45; --soft: #1c222b; --shade: #242c37;
  --stable: #6cb2f0; --target: #f79a4d; --other: #b9a6e8; --good: #5fd08f; --bad: #ff8a80; --warn: #f0c04f; --pause: #8b95a3;
  --phase0: #9fb0c6; --phase1: #7d8ea6; --on-phase: #10141a; --part: #e7eaee;
"""

CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 28px 24px 64px; max-width: 1060px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; -webkit-text-size-adjust: 100%; }}
header p.over {{ margin: 0; color: var(--quiet); }}
h1 {{ margin: 0 0 12px; font-size: 28px; line-height: 1.2; letter-spacing: -0.01em; }}
h1 .arrow {{ color: var(--quiet); font-weight: 400; padding: 0 .15em; }}
h2 {{ margin: 44px 0 4px; font-size: 19px; }}
h3 {{ margin: 26px 0 6px; font-size: 15px; }}
h1, .ending span, dd, li, td:last-child {{ overflow-wrap: anywhere; }}
h3 .chip, td .chip {{ font-size: 13px; }}
p {{ margin: 4px 0 10px; }}
.about {{ color: var(--quiet); max-width: 92ch; }}
.ending {{ display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: baseline; font-size: 17px; margin: 0 0 18px; }}
.chip {{ display: inline-block; padding: 1px 9px; border-radius: 999px; border: 1.5px solid currentColor; font-weight: 600;
  white-space: nowrap; }}
.good {{ color: var(--good); }} .bad {{ color: var(--bad); }} .warn {{ color: var(--warn); }} .calm {{ color: var(--quiet); }}
dl {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr)); gap: 12px 24px; margin: 0;
  padding: 16px 18px; border: 1px solid var(--rule); border-radius: 10px; background: var(--soft); }}
dt {{ color: var(--quiet); font-size: 13px; }} dd {{ margin: 0; }} dl .broad {{ grid-column: 1 / -1; }}
figure {{ margin: 10px 0 0; }}
ul.legend {{ display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 6px 0 8px; padding: 0; font-size: 13px; }}
ul.legend li {{ white-space: nowrap; }}
ul.legend svg {{ display: inline-block; width: 26px; height: 14px; vertical-align: -2px; margin-right: 6px; }}
ol.marks {{ margin: 8px 0 0; padding-left: 26px; font-size: 14px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; margin: 8px 0 0; }}
th {{ text-align: left; font-weight: 600; font-size: 13px; color: var(--quiet); border-bottom: 1.5px solid var(--rule); }}
th, td {{ padding: 6px 14px 6px 0; vertical-align: top; }}
td {{ border-bottom: 1px solid var(--rule); }}
table.steps td:first-child {{ white-space: nowrap; }} table.steps th:last-child {{ min-width: 110px; }}
th.number, td.number {{ text-align: right; white-space: nowrap; }}
table.gates > tbody > tr > td:first-child {{ font-weight: 600; white-space: nowrap; }}
table.gates {{ table-layout: fixed; }} table.gates th:nth-child(1) {{ width: 128px; }}
table.gates th:nth-child(2) {{ width: 136px; }} table.gates th:nth-child(3) {{ width: 136px; }}
svg.parts {{ width: 150px; height: 14px; margin-top: 3px; overflow: hidden; }}
table.overview {{ width: auto; }} table.overview td, table.overview th {{ padding-right: 26px; white-space: nowrap; }}
td .note {{ display: block; color: var(--quiet); font-weight: 400; font-size: 12.5px; }}
details > summary {{ cursor: pointer; color: var(--quiet); }}
td details {{ font-size: 13px; margin-top: 2px; }}
td details table {{ width: auto; font-size: 13px; margin: 4px 0; }} td details td {{ border: 0; padding: 1px 14px 1px 0; }}
time, code {{ white-space: nowrap; }} code {{ font-size: 13px; }}
footer {{ margin-top: 40px; color: var(--quiet); font-size: 13px; border-top: 1px solid var(--rule); padding-top: 12px; }}

svg {{ display: block; width: 100%; height: auto; overflow: visible; }}
svg text {{ font-size: 12.5px; fill: var(--text); }}
svg .ticks text, svg text.quiet {{ fill: var(--quiet); }}
svg text.strong {{ font-weight: 600; }}
svg text.on-phase {{ fill: var(--on-phase); font-weight: 600; }}
svg text.on-mark {{ fill: var(--page); font-size: 11px; font-weight: 700; }}
svg text.failed {{ fill: var(--bad); font-weight: 700; }}
.grid {{ stroke: var(--rule); }} .axis {{ stroke: var(--quiet); }}
.edge {{ stroke: var(--quiet); stroke-dasharray: 1 3; }}
.shade0 {{ fill: var(--soft); }} .shade1 {{ fill: var(--shade); }}
.phase {{ stroke: var(--page); stroke-width: 1; }} .phase0 {{ fill: var(--phase0); }} .phase1 {{ fill: var(--phase1); }}
line.mark {{ stroke: var(--text); stroke-dasharray: 3 3; opacity: .55; }} circle.mark {{ fill: var(--text); }}
rect.stable, .area.stable {{ fill: var(--stable); fill-opacity: .55; }}
rect.target, .area.target {{ fill: url(#hatch-target); }}
rect.other, .area.other {{ fill: url(#dots-other); }}
.area {{ stroke-width: 1; }} .area.stable {{ stroke: var(--stable); }} .area.target {{ stroke: var(--target); }}
.area.other {{ stroke: var(--other); }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }} .line.thin {{ stroke-width: 1; opacity: .6; }}
.line.stable {{ stroke: var(--stable); }} .line.target {{ stroke: var(--target); stroke-dasharray: 7 3; }}
.line.thin.target {{ stroke-dasharray: none; }}
.line.other {{ stroke: var(--other); stroke-dasharray: 2 3; }} .line.asked {{ stroke: var(--text); stroke-width: 2; }}
.dot.stable {{ fill: var(--stable); }} .dot.target {{ fill: var(--target); }} .dot.other {{ fill: var(--other); }}
.bar.failed {{ fill: var(--bad); }}
.part {{ stroke: var(--part); stroke-width: 1; }} .part.drain {{ fill: url(#dots-drain); }} .part.load {{ fill: var(--part); }}
.part.verify {{ fill: url(#cross-verify); }} .part.rejoin {{ fill: var(--page); }}
rect.down {{ fill: url(#hatch-down); stroke: var(--bad); }} rect.pause {{ fill: url(#hatch-pause); stroke: var(--pause); }}
svg.meter {{ display: inline-block; width: 68px; height: 9px; margin-right: 8px; }}
rect.meter {{ fill: var(--shade); stroke: var(--rule); }}
rect.good {{ fill: var(--good); }} rect.bad {{ fill: var(--bad); }} rect.warn {{ fill: var(--warn); }}
#patterns {{ position: absolute; width: 0; height: 0; }}
#patterns .paper {{ fill: var(--page); }} #patterns .tint {{ fill: var(--target); fill-opacity: .38; }}
#patterns .ink-target {{ stroke: var(--target); }} #patterns .ink-down {{ stroke: var(--bad); }}
#patterns .ink-pause {{ stroke: var(--pause); }} #patterns .ink-part {{ stroke: var(--part); }}
#patterns .spot-part {{ fill: var(--part); }} #patterns .spot-other {{ fill: var(--other); }}

.narrow {{ display: none; }}
@media screen and (max-width: 700px) {{
  body {{ padding: 18px 14px 48px; }}
  h1 {{ font-size: 23px; }}
  .wide {{ display: none; }} .narrow {{ display: block; max-width: 560px; }}
  dl {{ grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }}
  table.cards thead {{ display: none; }}
  table.cards > tbody > tr {{ display: block; padding: 8px 0; border-bottom: 1px solid var(--rule); }}
  table.cards > tbody > tr > td {{ display: inline-block; margin-right: 12px; border: 0; padding: 2px 0; text-align: left; }}
  table.cards > tbody > tr > td:last-child {{ display: block; margin: 0; }}
  table.cards.gates > tbody > tr > td {{ width: auto; }}
  time {{ white-space: normal; }}
  table.overview td, table.overview th {{ padding-right: 14px; }}
  table.cards > tbody > tr > td.number:not(:empty)::before {{
    content: attr(data-label) " "; color: var(--quiet); font-size: 12.5px; }}
  table.cards > tbody > tr > td:empty {{ display: none; }}
}}
@media print {{
  body {{ padding: 0; max-width: none; font-size: 11pt; }}
  figure, tr, dl {{ break-inside: avoid; }} h2, h3, .about, ul.legend {{ break-after: avoid; }}
  .scroll {{ overflow: visible; }} svg.parts {{ width: 84px; }} th, td {{ padding-right: 10px; }}
  * {{ -webkit-print-color-adjust: exact; print-color-adjust: exact; }}
}}
"""


def patterns() -> Markup:
    """Must be in the page once, and not hidden: a pattern in what is not displayed is not drawn."""
    return tag(
        "svg",
        tag(
            "defs",
            _pattern("hatch-target", 7, tag("rect", width=7, height=7, class_="tint"), _stroke("M0 7L7 0", "target")),
            _pattern("dots-other", 6, tag("rect", width=6, height=6, class_="paper"), _spot(3, "other")),
            _pattern("dots-drain", 4, tag("rect", width=4, height=4, class_="paper"), _spot(2, "part")),
            _pattern(
                "cross-verify", 5, tag("rect", width=5, height=5, class_="paper"), _stroke("M0 0L5 5M0 5L5 0", "part")
            ),
            _pattern("hatch-down", 6, tag("rect", width=6, height=6, class_="paper"), _stroke("M0 0L6 6", "down")),
            _pattern("hatch-pause", 6, tag("rect", width=6, height=6, class_="paper"), _stroke("M3 0V6", "pause")),
        ),
        id="patterns",
        aria_hidden="true",
    )


def _pattern(name: str, size: int, *children: Markup) -> Markup:
    return tag("pattern", *children, id=name, width=size, height=size, patternUnits="userSpaceOnUse")


def _stroke(path: str, ink: str) -> Markup:
    return tag("path", d=path, stroke_width="1.6", class_=f"ink-{ink}")


def _spot(at: int, ink: str) -> Markup:
    return tag("circle", cx=at, cy=at, r="1.1", class_=f"spot-{ink}")
