# docker build -t yt8m .
# docker run --gpus all -v SEGMENT:/home/docker/src/data/segment -v VIDEO:/home/docker/src/data/video --shm-size=1G -ti yt8m
#
# The CUDA libraries come inside the torch wheel: the host needs the NVIDIA container toolkit, nothing else.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHON=python

RUN useradd --create-home docker
WORKDIR /home/docker/src

# The requirements in a layer of their own: a change of the code does not install torch again.
COPY requirements.txt ./
RUN pip install -r requirements.txt

COPY . ./
RUN pip install --no-deps -e ./PyTorchHelperBot -e . \
    && mkdir -p data/cache data/segment data/video \
    && chown -R docker:docker /home/docker/src

USER docker
HEALTHCHECK CMD ["python", "-c", "import yt8m.inference"]
CMD ["bash"]
