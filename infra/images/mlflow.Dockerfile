# MLflow's server in the version of the lock file, with drivers for PostgreSQL and S3. boto3 lives here and not in the
# worker, where its pins fight with those of dvc[s3]; clients reach artifacts through this server. Context: the root.
FROM python:3.11.14-slim-bookworm
COPY requirements.lock /tmp/requirements.lock
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' /tmp/requirements.lock > /tmp/versions \
 && pip install --no-cache-dir --constraint /tmp/versions mlflow psycopg2-binary==2.9.11 boto3==1.44.5 \
 && useradd --create-home --uid 1000 mlflow
USER mlflow
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]
