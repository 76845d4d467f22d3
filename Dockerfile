# docker build -t yt8m .
# docker run --gpus all -v SEGMENT:/home/docker/src/data/segment -v VIDEO:/home/docker/src/data/video --shm-size=1G -ti yt8m
#
# The CUDA libraries come inside the torch wheel: the host needs the NVIDIA container toolkit, nothing else, and for
# computing on CPUs (without --gpus) not even that.
FROM python:3.11.14-slim-bookworm

# requirements-p100.txt for a P100 and other GPUs before the T4, requirements-cpu.txt for CPUs alone.
ARG REQUIREMENTS=requirements.txt
# Another index of packages beside pip's own, which reads this variable: for requirements-cpu.txt, that of PyTorch's CPU
# builds.
ARG PIP_EXTRA_INDEX_URL=""
# Debian packages to add; scripts/test.bash needs "chromium git patch".
ARG PACKAGES=""
# Of the user: what is written to mounted folders belongs to it.
ARG UID=1000

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008,SC2086
RUN if [ -n "$PACKAGES" ]; then \
        apt-get update && apt-get install -y --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --create-home --uid "$UID" docker \
    && install --directory --owner "$UID" --group "$UID" /home/docker/src
USER ${UID}
WORKDIR /home/docker/src
ENV PATH=/home/docker/src/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# The requirements in a layer of their own: a change of the code does not install torch again.
COPY --chown=${UID} requirements*.txt ./
RUN python -m venv .venv && .venv/bin/pip install -r "$REQUIREMENTS"

COPY --chown=${UID} . ./
RUN REQUIREMENTS="$REQUIREMENTS" bash scripts/setup.bash && mkdir -p data/cache data/segment data/video

HEALTHCHECK --interval=5m --timeout=1m CMD ["python", "-c", "import yt8m.prediction.inference"]
CMD ["bash"]
