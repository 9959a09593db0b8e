# metis-lightning on processors:
#   docker build -f docker/cpu.Dockerfile -t metis-lightning .
#   docker run --rm -v "$PWD:/work" metis-lightning generate --task tse --source mix.wav --prompt me.wav --out clean.wav
FROM python:3.12-slim

# pesq and pyworld are compiled.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu '/src[eval,offline,text,vc]' && rm -rf /src

WORKDIR /work
ENTRYPOINT ["metis-lightning"]
