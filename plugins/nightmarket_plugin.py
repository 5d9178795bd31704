"""What Airflow must load itself: the nights' timetable, and a page of nights inside its own pages.

The page and the files that it links to (reports, Data Docs, mails) are served by the API server to people who are logged
in, and to nobody else. Files are shown in a sandbox of their own, so that nothing in a mail can act in the reader's name.
"""

from datetime import date
from pathlib import Path

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape

from nightmarket.contracts import EVALUATION, EVENTS, QUALITY, RAW_EVENTS, RECOMMENDATIONS
from nightmarket.lake import Lake, Manifest
from nightmarket.orchestration.timetable import NightTimetable
from nightmarket.quality.report import verdicts
from nightmarket.registry import candidate as candidates
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings, load_shop

SHOWN = 60
_PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["j2"]), trim_blocks=True)
_SANDBOX = {"Content-Security-Policy": "sandbox allow-scripts allow-popups", "X-Content-Type-Options": "nosniff"}

app = FastAPI(
    title="Nightmarket", docs_url=None, redoc_url=None, openapi_url=None,
    dependencies=[Depends(requires_access_view(AccessView.WEBSITE))],
)


@app.get("/", response_class=HTMLResponse)
def page() -> str:
    """Nights, newest first, and who serves."""
    settings = load_shop()
    lake = Lake(settings.places.lake)
    known = sorted({*lake.dates(QUALITY), *lake.dates(RAW_EVENTS)[-SHOWN:]}, reverse=True)[:SHOWN]
    ledger = settings.places.mlflow / "ledger.db"
    said = verdicts(lake, sorted(known)) if known else {}  # those of a first load were judged with its last night
    published = lake.dates(RECOMMENDATIONS)
    return _PAGES.get_template("nights.html.j2").render(
        shop=settings.shop.title or settings.shop.shop,
        champion=Ledger(ledger).newest(settings.shop.model.name, "champion") if ledger.exists() else None,
        serving=published[-1] if published else None,
        nights=[_night(settings, lake, night, said.get(night)) for night in known],
        docs=(settings.places.reports / "data_docs" / "index.html").exists(),
        mails=(settings.places.mailbox / "index.html").exists(),
    )


@app.get("/files/{area}/{path:path}")
def file(area: str, path: str) -> FileResponse:
    """A file of the reports or the local mailbox."""
    places = load_shop().places
    folder = {"reports": places.reports, "mailbox": places.mailbox}.get(area)
    if folder is None:
        raise HTTPException(404, "there are reports and mailbox")
    wanted = (folder / path).resolve()
    if not wanted.is_relative_to(folder.resolve()) or not wanted.is_file():
        raise HTTPException(404, "no such file")
    return FileResponse(wanted, headers=_SANDBOX)


def _night(settings: Settings, lake: Lake, night: date, verdict: str | None) -> dict[str, object]:
    """What one line of the page shows; only manifests are read."""
    judged, raw, clean = (lake.manifest(d, night) for d in (QUALITY, RAW_EVENTS, EVENTS))
    served, evaluated = lake.manifest(RECOMMENDATIONS, night), lake.manifest(EVALUATION, night)
    reports = settings.places.reports
    return {
        "date": night,
        "verdict": verdict or "not judged",
        "checks": judged.rows_out if judged else None,
        "delivered": raw.rows_in if raw else None,
        "clean": clean.rows_out if clean else None,
        "quarantined": _quarantined(raw) + _quarantined(clean) if raw else None,
        "published": served.rows_out if served else None,
        "version": served.notes.get("model_version") if served else None,
        "evaluated": evaluated is not None,
        "report": _link(reports, reports / "quality" / night.isoformat() / "index.html"),
        "decision": _link(reports, candidates.report_of(settings, night) / "decision.md"),
    }


def _quarantined(manifest: Manifest | None) -> int:
    return sum(manifest.quarantined.values()) if manifest else 0


def _link(folder: Path, path: Path) -> str | None:
    return f"files/reports/{path.relative_to(folder).as_posix()}" if path.exists() else None


class NightmarketPlugin(AirflowPlugin):
    name = "nightmarket"
    timetables = [NightTimetable]
    fastapi_apps = [{"app": app, "url_prefix": "/nightmarket", "name": "Nightmarket"}]
    external_views = [{"name": "Nights", "href": "/nightmarket/", "destination": "nav", "category": "browse", "url_route": "nights"}]
