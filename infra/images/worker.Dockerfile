# Prefect's worker with the pipeline and all it runs. Context: the repository's root. torch comes from where pip is set up
# to look; --build-arg TORCH_INDEX=URL takes the build of it for other processors or GPUs from another index.
FROM python:3.11.14-slim-bookworm
ARG TORCH_INDEX
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client && rm -rf /var/lib/apt/lists/*
COPY requirements.lock torch.lock /opt/rlhf/
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement /opt/rlhf/requirements.lock \
 && pip install --no-cache-dir ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} --requirement /opt/rlhf/torch.lock \
 && sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' /opt/rlhf/requirements.lock > /opt/rlhf/versions \
 && pip install --no-cache-dir --constraint /opt/rlhf/versions dvc-s3==3.3.0
WORKDIR /opt/rlhf
COPY pyproject.toml README.md LICENSE dvc.yaml params.yaml ./
COPY rlhf rlhf
COPY tasks tasks
COPY flows flows
COPY infra infra
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . && useradd --create-home --uid 1000 rlhf \
 && mkdir -p /workspace /home/rlhf/.cache/huggingface && chown -R rlhf /workspace /home/rlhf
USER rlhf
WORKDIR /workspace
CMD ["prefect", "worker", "start", "--pool", "rlhf", "--type", "process", "--with-healthcheck"]
