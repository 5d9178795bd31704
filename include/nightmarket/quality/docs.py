"""Data Docs: Great Expectations' own pages of every suite and of the last nights' results, made to stand alone.

As GX renders them the pages need scripts, styles and fonts from half a dozen hosts, ask for a picture with the project's
id in its address, and show no index without all that. Here every page gets one small style sheet of its own, asks nobody
for anything, and the index is a plain list of nights.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket.lake import held, write_atomically
from nightmarket.quality.suites import context
from nightmarket.shop import Settings

if TYPE_CHECKING:
    from great_expectations.core import RunIdentifier
    from great_expectations.data_context import AbstractDataContext

KEPT_RUNS = 31
"""Nights that Data Docs show: a month to look back on, and pages that stay few."""

_BARRED = ('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">'
           '<meta name="viewport" content="width=device-width, initial-scale=1">')
_STYLE = """<style>
body{margin:0;background:#f3f4f6;color:#111827;font:14px/1.5 system-ui,"Noto Sans",sans-serif}
a{color:#1d4ed8}h4,h5,h6{margin:0;font-size:15px}h4{font-size:18px}ul,ol{list-style:none;margin:0;padding:0}
.navbar.sticky-top{background:#fff;border-bottom:1px solid #e5e7eb;padding:12px 24px;height:auto!important}
.ge-breadcrumbs{display:flex;gap:8px}.navbar-brand,.modal,.btn-group-toggle+*,footer{display:none}
.container-fluid.pt-4>.row{display:flex;gap:24px;align-items:flex-start;padding:24px}
.col-lg-2{flex:0 0 230px;min-width:0}.col-md-10{flex:1;min-width:0}
.card{background:#fff;border:1px solid #e5e7eb;border-radius:6px;margin:0 0 14px}.card-header,.card-body.p-3,#navigation{padding:10px 14px}
.card .nav-link{color:#374151;text-decoration:none;display:block;padding:2px 0}
.btn{display:block;cursor:pointer}.lead,.card-text{color:#4b5563;margin:4px 0 10px}
.ge-section{background:#fff;border:1px solid #e5e7eb;border-radius:6px;margin:0 0 14px;padding:14px 18px}
table{width:100%;border-collapse:collapse;margin:8px 0}th{text-align:left;color:#4b5563;font-size:13px;font-weight:600}
th,td{padding:7px 10px 7px 0;border-bottom:1px solid #e5e7eb;vertical-align:top}
.badge{background:#eef2ff;color:#1e3a8a;border-radius:4px;padding:1px 6px;font-family:Consolas,Menlo,monospace;font-size:12px}
.text-danger{color:#b91c1c}.text-success{color:#15803d}.text-warning{color:#92400e}i.fas{font-style:normal;font-weight:700}
.fa-check-circle::before{content:"✓"}.fa-times::before{content:"✕"}.fa-exclamation-triangle::before{content:"▲"}
body:has(#option2:checked) tr:has(.fa-check-circle){display:none}
body:has(#option2:checked) .ge-section:not(:has(.fa-times)):not(#section-1){display:none}
main{max-width:880px;margin:0 auto;padding:24px 16px}h1{font-size:20px}main table{background:#fff;border:1px solid #e5e7eb}
main th,main td{padding:9px 14px}
</style>"""


@contextmanager
def site(settings: Settings) -> Iterator[AbstractDataContext]:
    """The shop's GX context, held by one gate at a time: its stores are plain files that two writers would mix up."""
    folder = settings.places.work / "gx"
    with held(folder / ".lock"):
        yield context(folder, settings.places.reports / "data_docs")


def build(made: AbstractDataContext, settings: Settings, run: RunIdentifier) -> Path:
    """Renders the pages of `run` and of its suites, and the index; drops what is older. Returns the index's path."""
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier

    folder = settings.places.reports / "data_docs"
    store = made.validation_results_store
    keys = store.list_keys()
    gone = set(sorted({k.run_id.run_name for k in keys})[:-KEPT_RUNS]) - {run.run_name}
    for key in keys:
        if key.run_id.run_name in gone:
            store.remove_key(key)
    for pages in [p for p in (folder / "validations").rglob("*") if p.name in gone]:
        shutil.rmtree(pages)
    fresh = [k for k in keys if k.run_id.run_name == run.run_name]
    suites = [ExpectationSuiteIdentifier(name=k.expectation_suite_identifier.name) for k in fresh]
    made.build_data_docs(site_names=["quality"], resource_identifiers=[*fresh, *suites], build_index=False)
    shutil.rmtree(folder / "static", ignore_errors=True)  # GX's fonts and logos, which no page asks for any more
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if _BARRED not in text:
            write_atomically(page, alone(text))
    results = settings.places.work / "gx" / "gx" / "uncommitted" / "validations"
    write_atomically(folder / "index.html", _index(settings, folder, results))
    return folder / "index.html"


def alone(page: str) -> str:
    """A page of GX without scripts, remote parts and advertisement, with a style of its own."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<style\b.*?</style>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<(link|meta|img)\b[^>]*>", "", page, flags=re.IGNORECASE)
    page = re.sub(r"<footer\b.*?</footer>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<div[^>]*class=\"[^\"]*collapse[^\"]*\"", '<div class="ge-more"', page)
    page = re.sub(r"<a\b[^>]*data-toggle=\"collapse\".*?</a>", "", page, flags=re.DOTALL)
    return re.sub(r"<head>", lambda _: f'<head><meta charset="utf-8">{_BARRED}{_STYLE}', page, count=1)


def _index(settings: Settings, folder: Path, results: Path) -> str:
    """Nights, newest first, and what each suite found in them."""
    import jinja2

    nights: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(results.rglob("*.json")):
        said = json.loads(file.read_text(encoding="utf-8"))
        page = folder / "validations" / file.relative_to(results).with_suffix(".html")
        if page.exists():
            night = said["meta"]["run_id"]["run_name"].removeprefix(f"{settings.shop.shop}-")
            nights.setdefault(night, []).append({
                "suite": said["suite_name"], "success": said["success"], "page": page.relative_to(folder).as_posix(),
                "failed": said["statistics"]["unsuccessful_expectations"], "all": said["statistics"]["evaluated_expectations"],
            })
    template = jinja2.Environment(autoescape=True, loader=jinja2.PackageLoader("nightmarket.quality")).get_template("data_docs.html.j2")
    shown = sorted(nights.items(), reverse=True)
    return template.render(shop=settings.shop.title or settings.shop.shop, nights=shown, head=_BARRED + _STYLE)
