# metis-lightning on NVIDIA GPUs; torch's wheels bring CUDA, the host its driver and the container toolkit:
#   docker build -f docker/cuda.Dockerfile -t metis-lightning:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" metis-lightning:cuda fit -c tse_lora
FROM python:3.12-slim

# pesq and pyworld are compiled; Triton compiles its launchers where models are compiled.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir '/src[eval,offline,ssl,text,vc,video]' && rm -rf /src

WORKDIR /work
ENTRYPOINT ["metis-lightning"]
