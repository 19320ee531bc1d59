# The light install, without torch. First the wheel: pip wheel --no-deps --wheel-dir dist .
# Then: docker build -t privface . && docker run --rm -v "$PWD:/data" -u "$(id -u)" privface protect /data/photos /data/protected
FROM python:3.11-slim
COPY dist/privface-*.whl /tmp/
RUN pip install --no-cache-dir --no-compile /tmp/privface-*.whl \
    && pip install --no-cache-dir --no-compile --no-deps facenet-pytorch \
    && rm /tmp/privface-*.whl \
    && useradd --create-home privface
USER privface
WORKDIR /home/privface
ENTRYPOINT ["privface"]
