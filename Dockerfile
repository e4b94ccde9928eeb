# The quick start in a container. For CPUs: docker build -t uwc .
# For CUDA: docker build -t uwc --build-arg TORCH=cuda .   and   docker run --gpus all ...
FROM python:3.12-slim

# of a CPU build the index of PyTorch for CPUs is read first; PyPI has the build for CUDA
ARG TORCH=cpu
RUN useradd --create-home --uid 1000 uwc && mkdir /work && chown uwc /work

WORKDIR /opt/uwc
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN if [ "$TORCH" = cpu ]; then \
      pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch; \
    fi \
 && pip install --no-cache-dir -c constraints.txt '.[endpoint,tune]'

USER 1000
WORKDIR /work
CMD ["uwc", "study", "run", "quickstart"]
