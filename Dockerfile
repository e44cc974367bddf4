# CPU only. Runs the default study, and leaves its folder in runs/ of where you are:
#   docker build -t bilevel-rl . && docker run --rm -v "$PWD/runs:/app/runs" bilevel-rl
FROM python:3.11-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip install --no-cache-dir .

WORKDIR /app
ENTRYPOINT ["bilevel-rl"]
CMD ["run", "goal-position"]
