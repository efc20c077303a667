# Prefect's worker with the pipeline and all it runs. Context: the repository's root. For NVIDIA GPUs build with
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.11.14-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /opt/rlhf/requirements.lock
RUN pip install --no-cache-dir --index-url ${TORCH_INDEX} "$(grep '^torch==' /opt/rlhf/requirements.lock)" \
 && pip install --no-cache-dir --requirement /opt/rlhf/requirements.lock \
 && pip install --no-cache-dir --constraint /opt/rlhf/requirements.lock dvc-s3==3.3.0
WORKDIR /opt/rlhf
COPY pyproject.toml README.md LICENSE dvc.yaml params.yaml ./
COPY rlhf rlhf
COPY tasks tasks
COPY flows flows
COPY infra infra
RUN pip install --no-cache-dir --no-deps --editable . && useradd --create-home --uid 1000 rlhf \
 && mkdir -p /workspace /home/rlhf/.cache/huggingface && chown -R rlhf /workspace /home/rlhf
USER rlhf
WORKDIR /workspace
CMD ["prefect", "worker", "start", "--pool", "rlhf", "--type", "process", "--with-healthcheck"]
