"""The report's palette, safe for colour-blind readers, and its style sheet."""

from __future__ import annotations

COLOURS = {
    "ink": "#1b1f24",
    "muted": "#59636e",
    "line": "#d9dee4",
    "surface": "#ffffff",
    "first": "#0b66b2",
    "second": "#c4520b",
}
"""Figures are drawn in these; on the page each is a CSS variable, with another value in the dark scheme."""

_LIGHT = "".join(f"--{name}:{colour};" for name, colour in COLOURS.items()) + "--page:#f5f6f8;--shade:#eef1f4;"
_DARK = (
    "--ink:#e8edf2;--muted:#9ba6b2;--line:#323a44;--surface:#171c23;--first:#5aa9f5;--second:#f2914d;"
    "--page:#0e1217;--shade:#202731;"
)

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}\n@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n"
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif;
  -webkit-text-size-adjust:100%}
main{max-width:1040px;margin:0 auto;padding:40px 20px 56px}
h1{font-size:2rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 14px;overflow-wrap:anywhere}
h2{font-size:1.2rem;letter-spacing:-.005em;margin:44px 0 6px}
p{margin:0 0 12px;max-width:76ch}
.over{color:var(--muted);font-size:.875rem;margin:0 0 4px}
.flag{display:inline-block;vertical-align:.3em;margin-left:.5em;padding:2px 10px;border-radius:99px;
  font-size:.875rem;font-weight:600;letter-spacing:0;color:var(--second);border:1.5px solid var(--second)}
.facts{display:flex;flex-wrap:wrap;gap:6px 28px;margin:0 0 16px;padding:0}
.facts div{display:flex;gap:.5em;min-width:0}
.facts dt{color:var(--muted)}
.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
pre{margin:0;padding:10px 14px;overflow-x:auto;background:var(--shade);border-radius:8px;font-size:.8125rem;
  font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,220px),1fr));gap:14px;margin:24px 0 0}
.tile,figure,.card{background:var(--surface);border:1px solid var(--line);border-radius:12px}
.tile{padding:16px 18px}
.tile h3{margin:0;font-size:.875rem;font-weight:500;color:var(--muted)}
.tile strong{display:block;font-size:1.95rem;line-height:1.25;letter-spacing:-.02em;font-weight:650;
  font-variant-numeric:tabular-nums}
.tile small{display:block;font-size:.875rem;line-height:1.4;color:var(--muted)}
.off{color:var(--second);font-weight:600}
.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:14px;margin:14px 0 0}
figure{margin:0;padding:14px 16px 16px;min-width:0}
figure h3{margin:0 0 6px;font-size:1rem}
figure svg{display:block;width:100%;height:auto}
figcaption{margin-top:10px;font-size:.875rem;line-height:1.45;color:var(--muted)}
.card{margin:14px 0 0;overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.8438rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 8px;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead tr:first-child th{border-top:0}
thead th{font-weight:500;color:var(--muted);vertical-align:bottom}
thead .sub th{border-top:0;padding-top:0}
thead .group{text-align:center}
tbody th,tfoot th{font-weight:500}
tfoot td,tfoot th{font-weight:600;background:var(--shade)}
th:first-child{text-align:left;padding-left:16px}
td:last-child{padding-right:16px}
.sub th:first-child{text-align:right;padding-left:8px}
.layers th:first-child:not(.sub th){position:sticky;left:0;background:var(--surface);min-width:8em;
  max-width:16em;white-space:normal;overflow-wrap:anywhere}
.layers tfoot th:first-child:not(.sub th){background:var(--shade)}
.names td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.names th{width:1%;color:var(--muted);text-align:left}
.note{margin:10px 2px 0;font-size:.875rem;line-height:1.45;color:var(--muted)}
details{margin:14px 0 0}
summary{cursor:pointer;font-weight:600}
footer{margin-top:44px;font-size:.875rem;color:var(--muted)}
@media (max-width:560px){main{padding:24px 12px 40px}h1{font-size:1.6rem}figure{padding:12px}
  .tiles{grid-template-columns:1fr 1fr;gap:10px}.tile{padding:12px 14px}.tile strong{font-size:1.55rem}
  th,td{padding:7px 9px}.layers th:first-child:not(.sub th){padding-left:12px;max-width:9.5em}}
@media print{body{background:none}main{max-width:none;padding:0}figure,.tile{break-inside:avoid}}
"""
)
