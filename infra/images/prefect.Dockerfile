# Prefect's server in the version of the lock file, with a fastapi that it can start with. Context: the repository's root.
FROM python:3.11.14-slim-bookworm
COPY requirements.lock /tmp/requirements.lock
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' /tmp/requirements.lock > /tmp/versions \
 && pip install --no-cache-dir --constraint /tmp/versions prefect asyncpg \
 && useradd --create-home --uid 1000 prefect \
 && install --directory --owner prefect /home/prefect/.prefect
USER prefect
EXPOSE 4200
# A server that was killed may have left the index of leases locked: the next one has its number, and would wait for itself.
CMD ["sh", "-c", "rm -f ~/.prefect/concurrency_leases/expirations.lock && exec prefect server start --host 0.0.0.0 --port 4200"]
