# One recipe for all roles. EXTRAS names what is installed beside the service: nothing for web and worker, lab for JupyterLab.
# Every file that is fetched is checked against its hash in requirements.txt; what is installed comes from those files only.
# The C compiler of the second stage, signed by Debian, compiles the engine and stays behind.
FROM python:3.11-slim AS wheels
COPY requirements.txt /
RUN pip download --quiet --no-cache-dir --disable-pip-version-check --require-hashes --dest /wheels -r /requirements.txt

FROM python:3.11-slim AS installed
ARG EXTRAS=""
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
COPY --from=wheels /wheels /wheels
COPY pyproject.toml README.md /build/
COPY service /build/service
COPY lab /build/lab
RUN python -m venv /opt/backtrack \
    && /opt/backtrack/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-index \
       --find-links /wheels "/build${EXTRAS:+[$EXTRAS]}" \
    && /opt/backtrack/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-index \
       --find-links /wheels --target /compile mypy setuptools \
    && PYTHONPATH=/compile /opt/backtrack/bin/python -m service.compile --required \
    && /opt/backtrack/bin/python -m lab.compile --required

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 backtrack
COPY --from=installed /opt/backtrack /opt/backtrack
WORKDIR /app
COPY --chown=backtrack datasets datasets
COPY --chown=backtrack notebooks notebooks
# a new named volume takes its owner from here
RUN mkdir var && chown backtrack var
ENV PATH=/opt/backtrack/bin:$PATH PYTHONUNBUFFERED=1
USER backtrack
CMD ["backtrack", "--help"]
