"""The page's own style: colours come from Gradio's theme, so that dark and light need nothing more."""

from __future__ import annotations

STYLE = """
:root { --pf-soft: #4d5560; } .dark { --pf-soft: #b4bac4; }
.pf-head h1 { font-size: 1.6rem; margin: 0; }
.pf-head p { max-width: 90ch; margin: 4px 0 0; color: var(--pf-soft); }
.pf-hint { max-width: 90ch; color: var(--pf-soft); margin: 4px 0; }
.pf-notice { border-left: 6px solid #c0392b; background: var(--background-fill-secondary); border-radius: 6px; padding: 12px 16px; }
.pf-warning { border-left: 6px solid #c77d00; background: var(--background-fill-secondary); border-radius: 6px; padding: 10px 14px; margin: 0; }
.pf-notice span { display: block; margin-top: 4px; }
.pf-notice, .pf-card, .pf-summary { overflow-wrap: anywhere; }
.pf-progress label { display: block; } .pf-progress progress { display: block; width: 100%; height: 12px; margin-top: 6px; }
.pf-summary { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin: 8px 0 14px; font-weight: 600; }
.pf-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 16px; }
.pf-card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 14px; background: var(--block-background-fill); min-width: 0; }
.pf-card h3 { font-size: 1rem; margin: 0 0 8px; }
.pf-three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
.pf-three figure { margin: 0; } .pf-three img { width: 100%; height: auto; display: block; border-radius: 6px; }
.pf-three figcaption { font-size: .85rem; color: var(--pf-soft); text-align: center; margin-top: 4px; }
.pf-readings { display: grid; gap: 8px; margin-top: 10px; overflow-x: auto; }
.pf-readings :is(th, td) { overflow-wrap: break-word; }
.pf-readings table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
.pf-readings :is(th, td) { text-align: left; padding: 5px 8px; border: 0 !important; border-top: 1px solid var(--border-color-primary) !important; }
.pf-readings :is(table, thead, tbody, tr) { border: 0 !important; background: none !important; }
.pf-readings thead th { border-top: 0 !important; color: var(--pf-soft); font-weight: 600; }
.pf-foot { margin: 12px 0 0; font-size: .9rem; }
.pf-failed { margin: 0; }
a.pf-button { display: inline-block; padding: 6px 14px; border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); text-decoration: none; font-weight: 600; font-size: .9rem; }
a.pf-button:hover { border-color: var(--link-text-color); }
.pf-report { width: 100%; height: min(85vh, 1100px); border: 1px solid var(--border-color-primary); border-radius: 10px; background: #fff; }
:is(a, button, input, [tabindex]):focus-visible { outline: 3px solid var(--link-text-color) !important; outline-offset: 2px; }
.gradio-container { padding-left: clamp(8px, 2vw, 32px) !important; padding-right: clamp(8px, 2vw, 32px) !important; }
@media (max-width: 560px) {
  .pf-card { padding: 10px; } .pf-readings table { font-size: .85rem; } .pf-readings :is(th, td) { padding: 4px 5px; } .pf-three { gap: 4px; } .pf-three figcaption { font-size: .75rem; }
  .pf-columns { flex-direction: column; }
}
"""
"""CSS of the page."""
