"""The model registry: what is registered, verified and serving, in MLflow, with the ledger as the truth about aliases.

Works on the MLflow database directly (`sqlite:///…`) or through a running MLflow server (`http://…`), as
`Settings.mlflow_uri` says. Nothing is ever pickled: models are defined by code, weights are Keras files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from nightmarket import log as logs
from nightmarket.registry.kinds import RECOMMENDER
from nightmarket.registry.ledger import ALIASES, Ledger
from nightmarket.shop import Settings, child_environment, set_environment

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

    from nightmarket.registry.kinds import Kind

log = logs.logger("registry")

SCORE_TOLERANCE = 1e-5
"""Largest difference of a number between the process that registered a model and a fresh one; of its size where that is over 1."""
SAVED = "saved"
"""Artifact of a logged model: the folder that the trained model saved."""
_ANSWERS = "answers.json"
_LIBRARIES = ("mlflow", "tensorflow", "keras", "numpy", "scipy", "pandas", "pyarrow", "lightgbm")
"""What a loaded model imports; pinned in it to the versions it was trained with."""


@dataclass(frozen=True)
class Stranger:
    """A waiting process of `nightmarket.registry.fresh`, good for one version."""

    process: subprocess.Popen[bytes]
    answer: Path
    """Where its answers to the input example go, as JSON."""
    words: Path
    """What it writes to stderr."""

    def load(self, version: str, timeout_seconds: float) -> str:
        """Empty once it has answered; else why it did not."""
        try:
            self.process.communicate(f"{version}\n".encode(), timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return f"the fresh process did not answer within {timeout_seconds:g} s"
        code = self.process.returncode
        return f"the fresh process ended with {code}: {_last_line(self.words.read_text(errors='replace'))}" if code else ""


class RegistryError(Exception):
    """The registry cannot be reached or does not hold what is asked for; the message names the URI and the remedy."""


@dataclass(frozen=True)
class RegisteredModel:
    """One version. `folder` is what the trained model saved, on this machine."""

    name: str
    version: str
    run_date: date
    run_id: str
    tags: dict[str, str]
    model_folder: Path

    @property
    def folder(self) -> Path:
        return self.model_folder / "artifacts" / SAVED


@dataclass(frozen=True)
class Child:
    """A run of MLflow under the model's own: a trial of the search that settled its settings."""

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Sequence[float]]
    """By name, the values of steps 0, 1, …."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Submission:
    """A candidate as it is handed in. Two submissions with one recipe and the same weights are the same candidate."""

    run_date: date
    recipe: str
    saved: Path
    """Folder that the trained model saved."""
    served: Path
    """Python file that defines the pyfunc (MLflow's models from code); it finds `saved` and `artifacts` in its context."""
    signature: ModelSignature
    example: pd.DataFrame
    """The input example, answered again by a fresh process."""
    answers: Sequence[Mapping[str, Any]]
    """What this process's model answered: one a row of the answer, numbers, texts and lists of them."""
    artifacts: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Name to a function that writes it at a path: what the pyfunc needs beside `saved`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, Any] = field(default_factory=dict)
    """File name to content: text as it is, anything else as JSON."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Artifact folder name to a folder of this machine."""
    children: Sequence[Child] = ()


@dataclass(frozen=True)
class Verification:
    """Whether a fresh process, forbidden to unpickle, loaded the version and answered as the training side did."""

    passed: bool
    detail: str
    seconds: float

    def to_tag(self) -> str:
        return json.dumps({"passed": self.passed, "detail": self.detail, "seconds": self.seconds})

    @classmethod
    def from_tag(cls, text: str | None) -> Verification | None:
        return cls(**json.loads(text)) if text else None


class Registry:
    """Versions of one shop's model of a kind. Raises RegistryError, within seconds, where MLflow cannot be reached."""

    def __init__(self, settings: Settings, kind: Kind = RECOMMENDER, ledger: Ledger | None = None):
        self.settings = settings
        self.kind = kind
        self.model = kind.name(settings.shop)
        self.uri = settings.mlflow_uri
        self.ledger = ledger or Ledger(settings.places.mlflow / "ledger.db")
        self._made: MlflowClient | None = None

    def champion(self) -> RegisteredModel | None:
        """The version that serves, by the ledger; MLflow's aliases are brought in line first."""
        version = self.ledger.current(self.model, "champion")
        self.sync()
        return self.version(version) if version is not None else None

    def opponent(self, candidate: str, anew: bool = False) -> RegisteredModel | None:
        """Whom the candidate with this recipe is compared with: the champion, or, where the gate has decided about it before,
        the champion of then. So judging a night again compares the same two, also after its model was promoted. `anew` asks for
        the champion of now all the same, unless that is the candidate itself."""
        if not self.ledger.history(self.model):
            return None  # nobody was ever a challenger: MLflow, which takes seconds to import, has nothing to add
        self.sync()
        version, champion = self.find(candidate), self.ledger.current(self.model, "champion")
        decided = self.ledger.decision(self.model, version) if version is not None else None
        if decided is not None and (not anew or version == champion):
            champion = decided.evidence["decision"]["champion"]
        return self.version(champion) if champion is not None else None

    def made_by_night(self, model: RegisteredModel) -> RegisteredModel:
        """The version of a night that an online update goes back to, through its parents; any other version itself. It is what a night's
        challenger can be compared with: an update has learnt from the days on which they are judged."""
        while model.tags.get("online") == "1":
            model = self.version(model.tags["parent"])
        return model

    def for_night(self, run_date: date) -> RegisteredModel | None:
        """Who answers for a night: the last champion that learnt from data of that night or before and was not gone back from
        since; a model of the future would leak it into a backfill. Where none was, the night's model if the gate would have let it serve then, when
        nothing did."""
        moves = self.ledger.history(self.model)
        if not moves:
            return None
        self.sync()
        past = [m for m in moves if m.run_date is not None and m.run_date <= run_date.isoformat()]
        out = self.ledger.gone_back_from(self.model)
        champions = [m.to_version for m in past if m.alias == "champion" and m.to_version is not None and m.to_version not in out]
        if champions:
            return self.version(champions[-1])
        stand_ins = [m for m in past if m.evidence.get("of_its_night", {}).get("outcome") == "promoted"]
        if not stand_ins:
            return None
        newest = max(stand_ins, key=lambda m: (m.run_date or "", m.seq))
        return self.version(newest.evidence["of_its_night"]["challenger"])

    def taken_out(self, recipe: str) -> str:
        """Who took a version of this recipe out of service, when and why, in one line; empty where nobody did."""
        for version, move in self.ledger.gone_back_from(self.model).items():
            if self.version(version).tags.get("recipe") == recipe:
                return f"version {version} on {move.at[:10]} by {move.who}: {move.why}"
        return ""

    def version(self, version: str) -> RegisteredModel:
        """A version by number. Raises RegistryError where it is not registered."""
        from mlflow.exceptions import MlflowException

        with self._reached() as client:
            try:
                found = client.get_model_version(self.model, version)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    raise RegistryError(f"{self.uri}: {self.model} has no version {version}; the ledger {self.ledger.path} "
                                        f"and MLflow's database must be restored together") from None
                raise
            return self._registered(client, found)

    def versions(self) -> list[RegisteredModel]:
        """Every version, oldest first."""
        with self._reached() as client:
            found = list(client.search_model_versions(f"name = '{self.model}'"))
            return [self._registered(client, v) for v in sorted(found, key=lambda v: int(v.version))]

    def find(self, recipe: str, weights: str | None = None) -> str | None:
        """The newest version that was registered from the recipe, and with exactly these weights where they are given."""
        wanted = f"name = '{self.model}' and tag.recipe = '{recipe}'" + (f" and tag.weights = '{weights}'" if weights else "")
        with self._reached() as client:
            return max((str(v.version) for v in client.search_model_versions(wanted)), key=int, default=None)

    def register(self, submission: Submission) -> str:
        """Registers a candidate and makes it the challenger; what is registered already, recipe and weights, keeps its version.

        Killed at any moment and called again it ends in the same state: a run without a version is closed as KILLED, a
        version that never was the challenger becomes it.
        """
        version = self.find(submission.recipe, weights_digest(submission.saved))
        if version is None:
            with self._reached() as client:
                version = self._log(client, submission)
        self.adopt(version, submission.run_date)
        return version

    def adopt(self, version: str, run_date: date) -> None:
        """Makes a registered version the challenger, unless it ever had an alias: an old one does not come back by itself."""
        if not any(m.to_version == version for m in self.ledger.history(self.model)):
            at = self.ledger.current(self.model, "challenger")
            self.ledger.move(self.model, "challenger", at, version, "jobs.register", f"candidate of the night of {run_date}", {},
                             run_date, action="register")
        self.sync()

    def tag(self, version: str, key: str, value: str) -> None:
        with self._reached() as client:
            client.set_model_version_tag(self.model, version, key, value)

    def sync(self) -> None:
        """Sets MLflow's aliases to what the ledger says; heals a crash between the two."""
        from mlflow.exceptions import MlflowException

        wanted = {alias: self.ledger.current(self.model, alias) for alias in ALIASES}
        with self._reached() as client:
            try:
                have = dict(client.get_registered_model(self.model).aliases)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not any(wanted.values()):
                    return
                raise
            for alias, version in wanted.items():
                at = have.get(alias)
                if version is None and at is not None:
                    client.delete_registered_model_alias(self.model, alias)
                elif version is not None and str(at) != version:
                    client.set_registered_model_alias(self.model, alias, version)
                else:
                    continue
                log.info(logs.said("alias", model=self.model, alias=alias, was=at, now=version))

    @contextmanager
    def stranger(self) -> Iterator[Stranger]:
        """A fresh process that may not unpickle. It imports what loading a model takes, while this one does something else, and waits
        to be told a version. It is ended when this is left."""
        with tempfile.TemporaryDirectory(prefix="nightmarket-verify-") as scratch:
            answer, words = Path(scratch) / "answer.json", Path(scratch) / "words.txt"
            command = [sys.executable, "-m", "nightmarket.registry.fresh", "--uri", self.uri, "--model", self.model, "--answer", str(answer)]
            for module in self.kind.imports:
                command += ["--import", module]
            environment = child_environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false", TF_CPP_MIN_LOG_LEVEL="2")
            with words.open("wb") as told:
                process = subprocess.Popen(command, env=environment, cwd=scratch, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=told)
            try:
                yield Stranger(process, answer, words)
            finally:
                process.kill()
                process.wait()

    def verify(self, version: str, stranger: Stranger | None = None, timeout_seconds: float = 600) -> Verification:
        """Has a stranger, or a new one, load the version and answer the input example, and compares with what the registering process
        answered: the same texts, numbers within SCORE_TOLERANCE. The result is kept as a tag."""
        started = time.monotonic()
        registered = self.version(version)
        with nullcontext(stranger) if stranger is not None else self.stranger() as asked:
            detail = asked.load(version, timeout_seconds) or _compare(registered.model_folder, asked.answer)
        result = Verification(not detail, detail or "the same answers", round(time.monotonic() - started, 1))
        self.tag(version, "verification", result.to_tag())
        log.info(logs.said("verified", model=self.model, version=version, passed=result.passed, detail=result.detail,
                           seconds=result.seconds))
        return result

    def _log(self, client: MlflowClient, submission: Submission) -> str:
        """One run, one logged model, one version."""
        import mlflow
        from mlflow.entities import Metric, Param
        from mlflow.models import Model
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

        experiment = self._experiment(client)
        for run in client.search_runs([experiment], f"tags.recipe = '{submission.recipe}' and attributes.status = 'RUNNING'"):
            client.set_terminated(run.info.run_id, "KILLED")  # a registration that never ended
        tags = {**submission.tags, "recipe": submission.recipe, "run_date": submission.run_date.isoformat(),
                "weights": weights_digest(submission.saved), "shop": self.settings.shop.shop}
        run = client.create_run(experiment, tags=tags, run_name=f"{self.model} {submission.run_date}")
        run_id = run.info.run_id
        with tempfile.TemporaryDirectory(prefix="nightmarket-register-") as scratch:
            staged = Path(scratch)
            shutil.copytree(submission.saved, staged / SAVED)
            for name, write in submission.artifacts.items():
                write(staged / name)
            (staged / _ANSWERS).write_text(json.dumps([dict(a) for a in submission.answers], ensure_ascii=False, indent=1))
            for name, content in submission.documents.items():
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True)
                client.log_text(run_id, text, name)
            for name, folder in submission.folders.items():
                client.log_artifacts(run_id, str(folder), name)
            now = int(time.time() * 1000)
            client.log_batch(run_id, params=[Param(k, str(v)[:MAX_PARAM_VAL_LENGTH]) for k, v in submission.params.items()])
            client.log_batch(run_id, [Metric(metric_name(n), v, now, 0) for n, v in submission.metrics.items()])
            for child in submission.children:
                under = client.create_run(experiment, tags={**child.tags, "recipe": submission.recipe, "mlflow.parentRunId": run_id}, run_name=child.name)
                client.log_batch(under.info.run_id, params=[Param(k, str(v)) for k, v in child.params.items()], metrics=[
                    Metric(metric_name(n), v, now, step) for n, values in child.metrics.items() for step, v in enumerate(values)])
                client.set_terminated(under.info.run_id)
            # log_model would load the model here and answer the input example; a fresh process does that, under a time limit
            logged = client.create_logged_model(experiment, self.model, run_id, tags=tags)
            mlflow.pyfunc.save_model(
                staged / "model",
                mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                python_model=str(submission.served),
                artifacts={n: str(staged / n) for n in (SAVED, *submission.artifacts, _ANSWERS)},
                signature=submission.signature,
                input_example=submission.example,
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in _LIBRARIES],
                metadata={"recipe": submission.recipe, "run_date": submission.run_date.isoformat()},
            )
            client.log_model_artifacts(logged.model_id, str(staged / "model"))
            client.finalize_logged_model(logged.model_id, "READY")
            client.set_terminated(run_id)
        self._registered_model(client)
        made = client.create_model_version(self.model, logged.artifact_location, run_id, tags=tags, model_id=logged.model_id)
        log.info(logs.said("registered", model=self.model, version=made.version, run_date=submission.run_date))
        return str(made.version)

    def _registered_model(self, client: MlflowClient) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self.model, description=f"{self.kind.what} of the shop {self.settings.shop.shop}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        name = f"{self.settings.shop.shop}/{self.model}"
        found = client.get_experiment_by_name(name)
        if found is None:
            # a server on this machine shares our disk; a remote one says itself where artifacts go
            here = urlsplit(self.uri).hostname in (None, "127.0.0.1", "localhost", "::1")
            self.settings.places.mlflow.mkdir(parents=True, exist_ok=True)
            location = (self.settings.places.mlflow / "artifacts").as_uri() if here else None
            try:
                return client.create_experiment(name, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another night was first
        return found.experiment_id

    def _registered(self, client: MlflowClient, version: Any) -> RegisteredModel:
        return RegisteredModel(
            name=self.model, version=str(version.version), run_date=date.fromisoformat(version.tags["run_date"]),
            run_id=version.run_id, tags=dict(version.tags), model_folder=self._local(client, str(version.version)),
        )

    def _local(self, client: MlflowClient, version: str) -> Path:
        """Where the version lies on this machine; fetched once where the registry keeps it elsewhere."""
        import mlflow

        where = client.get_model_version_download_uri(self.model, version)
        parts = urlsplit(where)
        if parts.scheme in ("", "file"):
            return Path(parts.path)
        key = hashlib.sha256(f"{self.uri} {where}".encode()).hexdigest()[:16]
        kept = self.settings.places.work / "registry" / f"{self.model}-{version}-{key}"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            fetching = kept.with_name(f".{kept.name}.{uuid.uuid4().hex[:8]}")
            try:
                mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=str(fetching), tracking_uri=self.uri)
                inside = [p.parent for p in fetching.rglob("MLmodel")]
                if len(inside) != 1:
                    raise RegistryError(f"{where}: version {version} of {self.model} holds no MLmodel file; register it again")
                inside[0].replace(kept)
            finally:
                shutil.rmtree(fetching, ignore_errors=True)
        return kept

    @contextmanager
    def _reached(self) -> Iterator[MlflowClient]:
        """The client; what MLflow and its database raise becomes a RegistryError that names the URI."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._client()
        except (MlflowException, SQLAlchemyError) as error:
            raise RegistryError(f"the model registry at {self.uri} failed: {type(error).__name__}: {_first_line(str(error))}") from error

    def _client(self) -> MlflowClient:
        if self._made is None:
            prepare(self.uri)
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            from mlflow.tracking import MlflowClient

            # not mlflow.set_tracking_uri: it writes the environment, and the next settings of this process would read it
            self._made = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._made


def fetched(settings: Settings, source: str, registry: str | None = None) -> Path:
    """Folder, on this machine, of a model that any shop registered: `models:/NAME@ALIAS` or `models:/NAME/VERSION` in the MLflow at `registry`, the
    shop's own where it is None. Raises RegistryError."""
    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", source)
    if found is None:
        raise RegistryError(f"{source} is no model of a registry; write models:/NAME@ALIAS or models:/NAME/VERSION")
    there = Registry(replace(settings, mlflow_uri=registry or settings.mlflow_uri))
    there.model, alias, version = found.groups()
    with there._reached() as client:
        return there._local(client, str(client.get_model_version_by_alias(there.model, alias).version if alias else version))


def prepare(uri: str) -> None:
    """Settings that MLflow reads from the environment, and a first look whether a server answers at all.

    MLflow's own default is to try for four minutes. A registry that is down is a fault that Airflow retries later.
    """
    set_environment(
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
        MLFLOW_DISABLE_TELEMETRY="true",  # a shop's night calls nobody
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="1",
        MLFLOW_HTTP_REQUEST_TIMEOUT="30",
    )
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if urlsplit(uri).scheme in ("http", "https"):
        why = ""
        for attempt in range(3):
            time.sleep(attempt)
            try:
                with urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                    return
            except OSError as error:
                why = str(error)
        raise RegistryError(f"the model registry at {uri} does not answer ({why}); start it, or mend MLFLOW_TRACKING_URI")


def weights_digest(folder: Path) -> str:
    """Digest of the files that a trained model saved."""
    seen = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        seen.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return seen.hexdigest()[:16]


def metric_name(name: str) -> str:
    """MLflow allows letters, digits, and _ - . : / and spaces: 'ndcg@10' becomes 'ndcg_at_10'."""
    return re.sub(r"[^\w\-.: /]", "_", name.replace("@", "_at_"))


def _compare(model_folder: Path, answer: Path) -> str:
    """Nothing where the fresh answers equal the recorded ones, else the first difference."""
    wanted = json.loads((model_folder / "artifacts" / _ANSWERS).read_text())
    got = json.loads(answer.read_text())
    if not wanted or len(got) != len(wanted):
        return f"{len(got)} answers where the training side gave {len(wanted)}"
    return next((f"answer {n}: {difference}" for n, (w, g) in enumerate(zip(wanted, got, strict=True))
                 for name, value in w.items() if (difference := _difference(name, value, g.get(name)))), "")


def _difference(name: str, wanted: Any, got: Any) -> str:
    """What is wrong with one value of an answer; nothing where it is the same."""
    if isinstance(wanted, list):
        if not wanted:
            return f"{name} is empty"
        if not isinstance(got, list) or len(got) != len(wanted):
            return f"other {name} than the training side's"
        return next((d for w, g in zip(wanted, got, strict=True) if (d := _difference(name, w, g))), "")
    if isinstance(wanted, float):
        # a NaN is within no tolerance, and no number is none
        apart = abs(wanted - got) if isinstance(got, (int, float)) else float("nan")
        within = apart <= SCORE_TOLERANCE * max(1.0, abs(wanted))
        return "" if within else f"{name} differ by {apart:.2g}, more than {SCORE_TOLERANCE:g}"
    return "" if wanted == got else f"other {name} than the training side's"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
