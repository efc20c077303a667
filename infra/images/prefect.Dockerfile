# Prefect's server in the version of the lock file, with a fastapi that it can start with. Context: the repository's root.
FROM python:3.11.14-slim-bookworm
COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --constraint /tmp/requirements.lock prefect asyncpg \
 && useradd --create-home --uid 1000 prefect \
 && install --directory --owner prefect /home/prefect/.prefect
USER prefect
EXPOSE 4200
CMD ["prefect", "server", "start", "--host", "0.0.0.0", "--port", "4200"]
